"""GRPO on clips: what is sampled and scored sees them, the geometric losses stay, and rewards rise."""

import copy
import dataclasses
import json
from pathlib import Path

import pandas
import pytest
import torch
from peft import PeftModel
from training_support import image, row, targets, tiny_model, tiny_processor, video
from trl import GRPOConfig

from geovr_hf import GeoVRConfig, GeoVRDataCollator, GeoVRForConditionalGeneration
from geovr_hf.cli import main
from geovr_hf.hub_cards import CardTeacher, GeoVRModelCardData, read_card_facts
from geovr_hf.trainers import (
    GeoVRAnswerCollator,
    GeoVRGRPOConfig,
    GeoVRGRPOTrainer,
    geovr_lora_config,
    load_peft_model,
)
from geovr_hf.trainers.grpo_prompts import PromptDataset
from geovr_hf.trainers.parameter_groups import is_geometry_parameter
from geovr_hf.trainers.rewards import answer_reward


def rows():
    """Clips of different lengths, several at once, beside an image, and none."""
    question = [{"role": "user", "content": "Hello?"}]
    return [
        row("4", video(2, seed=1), clip_targets=targets(2, seed=1), question_type="count"),
        row("B", video(1, seed=2), video(3, seed=3), clip_targets=[targets(1, seed=2), None], question="Which?"),
        row("7", image(), video(4, seed=4), clip_targets=targets(4, seed=4)),
        {"prompt": question, "completion": [{"role": "assistant", "content": "hi"}]},
    ]


def grpo(folder, model=None, train_rows=None, rewards=answer_reward, **kwargs):
    own = {name: kwargs.pop(name) for name in ("teacher", "peft_config", "callbacks") if name in kwargs}
    defaults = {
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 5,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return GeoVRGRPOTrainer(
        tiny_model() if model is None else model,
        rewards,
        GeoVRGRPOConfig(str(folder), **{**defaults, **kwargs}),
        rows() if train_rows is None else train_rows,
        processing_class=tiny_processor(),
        **own,
    )


def logged(trained, name):
    return [entry[name] for entry in trained.state.log_history if name in entry]


def asked(prompt, completion=()):
    """Inputs of a prompt and a completion, from a row alone and without padding."""
    batch = GeoVRAnswerCollator(tiny_processor())([{**prompt.row, "messages": prompt.row["prompt"]}])
    batch = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    more = torch.tensor([list(completion)], dtype=torch.long)
    batch["input_ids"] = torch.cat([batch["input_ids"], more], dim=1)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    batch["mm_token_type_ids"] = torch.cat([batch["mm_token_type_ids"], torch.zeros_like(more)], dim=1)
    return batch


class TestClips:
    @torch.no_grad()
    def test_every_completion_is_scored_with_its_own_clips(self, tmp_path):
        trained = grpo(tmp_path, per_device_train_batch_size=4, steps_per_generation=2, num_iterations=2)
        trained.model.train()
        generation_batch = next(iter(trained.get_train_dataloader()))
        seen = []
        for _ in range(2):  # the parts of a generation batch, which TRL has shuffled
            inputs = trained._prepare_inputs(generation_batch)
            trained._step += 1
            prompts = inputs["encoded_prompts"]
            for index, prompt in enumerate(prompts):
                completion = inputs["completion_ids"][index][inputs["completion_mask"][index].bool()]
                ids = inputs["prompt_ids"][index][inputs["prompt_mask"][index].bool()]
                assert ids.tolist() == prompt.input_ids
                logits = trained.model.eval()(**asked(prompt, completion.tolist())).logits[0, len(ids) - 1 : -1]
                expected = logits.log_softmax(-1).gather(1, completion[:, None])[:, 0]
                # Scored by TRL, several rows at a time and padded.
                found = inputs["old_per_token_logps"][index][: len(completion)]
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
                seen.append(prompt.row["row"])
            trained.model.train()
        assert sorted(seen) == [0, 0, 1, 1, 2, 2, 3, 3]

    @torch.no_grad()
    def test_completions_are_sampled_with_their_own_clips(self, tmp_path):
        trained = grpo(tmp_path, per_device_train_batch_size=8, temperature=1e-4)
        trained.model.train()
        inputs = trained._prepare_inputs(next(iter(trained.get_train_dataloader())))
        silent = trained.generation_config.suppress_tokens
        assert {tiny_processor().video_token_id, *tiny_processor().geometry_token_ids} <= {*silent}
        for index, prompt in enumerate(inputs["encoded_prompts"]):
            batch = asked(prompt)
            greedy = trained.model.eval().generate(
                **batch, max_new_tokens=5, do_sample=False, suppress_tokens=silent, use_cache=True
            )[0, batch["input_ids"].shape[1] :]
            completion = inputs["completion_ids"][index][inputs["completion_mask"][index].bool()]
            assert completion.tolist() == greedy[: len(completion)].tolist()

    def test_a_repeated_prompt_is_decoded_and_encoded_once(self):
        class Counting(list):
            decoded = 0

            def __getitem__(self, index):
                Counting.decoded += 1
                return super().__getitem__(index)

        dataset = PromptDataset(Counting(rows()))
        found = dataset.__getitems__([2, 2, 2, 0, 0, 0])
        assert Counting.decoded == 2 and found[0] is found[2]
        assert [r["answer"] for r in found] == ["7"] * 3 + ["4"] * 3
        assert found[0]["prompt"][-1]["role"] == "user" and "completion" not in found[0]

    def test_rewards_get_columns_and_logs_get_no_frames(self, tmp_path):
        received = []

        def reward(completions, answer, question_type, prompts, **kwargs):
            received.append((answer, question_type, prompts))
            return [float(len(completion[0]["content"])) for completion in completions]

        trained = grpo(tmp_path, rewards=[reward], max_steps=1, per_device_train_batch_size=8, log_completions=True)
        trained.train()
        answers, types, prompts = received[0]
        assert sorted(answers) == ["4", "4", "7", "7", "B", "B", "hi", "hi"]
        assert dict(zip(answers, types, strict=True))["4"] == "count"
        assert not any(
            "video" in part for prompt in prompts for part in prompt[0]["content"] if part["type"] == "video"
        )
        table = pandas.read_parquet(next((tmp_path / "completions").glob("*.parquet")))
        assert len(table) == 8 and "advantage" in table

    def test_rewards_get_every_other_column(self, tmp_path):
        received = {}

        def reward(completions, answer, unit, **kwargs):
            received.update(zip(answer, unit, strict=True))
            assert not {"messages", "videos", "images", "image"} & {*kwargs}
            return [0.0] * len(completions)

        own = [{**row, **more} for row, more in zip(rows(), [{"unit": "m"}, {}, {"unit": None}, {}], strict=True)]
        trained = grpo(tmp_path, train_rows=own, rewards=reward, max_steps=1, per_device_train_batch_size=8)
        trained.train()
        assert received == {"4": "m", "B": None, "7": None, "hi": None}

    def test_arguments_of_the_chat_template_reach_prompts(self, tmp_path):
        template = "{{ tone | default('') }}{{ unit | default('') }}"
        own = [{**rows()[3], "chat_template_kwargs": more} for more in ({"tone": "sofa "}, None)]
        trained = grpo(tmp_path, train_rows=own, chat_template_kwargs={"tone": "lamp ", "unit": "bed "})
        processor = trained._ask.processor = copy.copy(tiny_processor())
        processor.chat_template = template + processor.chat_template
        found = []
        for index in range(2):
            trained.check_row(index)
            (prompt,) = trained._prompts
            found.append(processor.tokenizer.decode(prompt.input_ids))
            assert trained._looked_at(prompt)["chat_template_kwargs"]["unit"] == "bed "
        assert found[0].startswith("sofa bed ") and found[1].startswith("lamp bed ")


class TestGeometry:
    def test_without_a_weight_heads_are_left_alone(self, tmp_path):
        model = tiny_model()
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        trained = grpo(tmp_path, model, rewards=lambda completions, **_: [float(len(str(c))) for c in completions])
        trained.train()
        moved = {name for name, p in trained.model.named_parameters() if not torch.equal(p, before[name])}
        assert moved and not any(is_geometry_parameter(name) or "visual.blocks" in name for name in moved)

    @pytest.mark.parametrize("accumulation", [1, 2])
    def test_with_a_weight_they_are_the_losses_of_training(self, tmp_path, accumulation):
        clips = [row(str(i), video(2, seed=i), clip_targets=targets(2, seed=i)) for i in range(4)]
        model = tiny_model()
        batch = GeoVRDataCollator(tiny_processor())(clips)
        del batch["labels"]
        with torch.no_grad():
            expected = model(**batch)
        trained = grpo(
            tmp_path,
            model,
            clips,
            lambda completions, **_: [0.0] * len(completions),  # no advantage: the policy has no loss
            max_steps=1,
            geometry_loss_weight=0.5,
            per_device_train_batch_size=8 // accumulation,
            gradient_accumulation_steps=accumulation,
        )
        heads = {n: p.clone() for n, p in trained.model.named_parameters() if is_geometry_parameter(n)}
        trained.train()
        if accumulation == 1:  # the parts of a larger batch are shuffled: a clip may be in both
            assert logged(trained, "loss")[0] == pytest.approx(0.5 * expected.loss.item(), rel=1e-4)
            assert logged(trained, "depth_loss")[0] == pytest.approx(expected.depth_loss.item(), rel=1e-4)
        else:
            assert logged(trained, "loss")[0] == pytest.approx(0.5 * expected.loss.item(), rel=0.2)
        moved = [name for name, head in heads.items() if not torch.equal(head, trained.model.get_parameter(name))]
        assert len(moved) > len(heads) // 2

    def test_a_teacher_is_asked_once_for_clips_without_targets(self, tmp_path):
        class Teacher:
            asked = 0

            def targets(self, clip):
                Teacher.asked += 1
                return targets(len(clip))

        trained = grpo(
            tmp_path,
            train_rows=[row("4", video(2)), row("7", video(2, seed=1))],
            teacher=Teacher(),
            geometry_loss_weight=1.0,
            num_iterations=2,
        )
        trained.train()
        assert Teacher.asked == 2 and len(logged(trained, "camera_loss")) == 2

    def test_what_a_teacher_says_is_checked(self, tmp_path):
        class Teacher:
            def targets(self, clip):
                return dataclasses.replace(targets(len(clip)), metric_scale=torch.tensor(float("nan")))

        made = grpo(tmp_path, train_rows=[row("4", video(2))], teacher=Teacher(), geometry_loss_weight=1.0)
        with pytest.raises(ValueError, match="`metric_scale` of clip 0 of row 0 .*by the teacher `Teacher`, holds"):
            made.check_row(0)

    def test_heads_have_their_own_learning_rate(self, tmp_path):
        made = grpo(tmp_path, geometry_loss_weight=1.0, geometry_learning_rate=0.5)
        rates = {id(p): group["lr"] for group in made.create_optimizer().param_groups for p in group["params"]}
        for name, parameter in made.model.named_parameters():
            if parameter.requires_grad:
                assert rates[id(parameter)] == (0.5 if is_geometry_parameter(name) else 1e-3), name


class TestAdaptersAndReference:
    def rewards(self, completions, **kwargs):
        return [float(len(completion[0]["content"])) for completion in completions]

    def test_an_adapter_is_trained_against_its_base_saved_and_loaded(self, tmp_path):
        tiny_model().save_pretrained(tmp_path / "base")
        model = GeoVRForConditionalGeneration.from_pretrained(tmp_path / "base")
        trained = grpo(
            tmp_path / "run",
            model,
            rewards=self.rewards,
            peft_config=geovr_lora_config(model, r=4),
            geometry_loss_weight=0.1,
            beta=0.1,
            max_steps=3,
        )
        trained.train()
        assert isinstance(trained.model, PeftModel)
        kl = logged(trained, "kl")
        assert kl[0] == pytest.approx(0, abs=1e-6) and kl[-1] > 1e-4
        trained.save_model(str(tmp_path / "adapter"))
        loaded = load_peft_model(tmp_path / "adapter").state_dict()
        state = trained.model.state_dict()
        assert loaded.keys() == state.keys() and all(torch.equal(state[name].cpu(), loaded[name]) for name in loaded)

    def test_a_whole_model_is_trained_against_a_copy_of_itself(self, tmp_path):
        model = tiny_model()
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        trained = grpo(tmp_path, model, rewards=self.rewards, beta=0.1, max_steps=3)
        trained.train()
        kl = logged(trained, "kl")
        assert kl[0] == pytest.approx(0, abs=1e-6) and kl[-1] > 1e-4
        assert all(torch.equal(p, before[name]) for name, p in trained.ref_model.named_parameters())

    def test_heads_that_would_stay_untrained_are_refused(self, tmp_path):
        model = tiny_model()
        config = geovr_lora_config(model, r=4)
        config.modules_to_save = None
        with pytest.raises(ValueError, match="neither train nor save"):
            grpo(tmp_path, model, peft_config=config, geometry_loss_weight=1.0)
        with pytest.raises(ValueError, match=r"visual\.merger.*`freeze_merger=True` freezes"):
            grpo(tmp_path, tiny_model(), peft_config=geovr_lora_config(model, r=4), freeze_merger=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_vllm": True}, "clips of a prompt"),
        ({"remove_unused_columns": True}, "would drop the answers"),
        ({"geometry_loss_weight": -1.0}, "must be zero or positive, got -1"),
        ({"sync_ref_model": True, "beta": 0.1}, "`sync_ref_model=True` is not supported"),
    ],
)
def test_what_cannot_work_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        GeoVRGRPOConfig(str(tmp_path), use_cpu=True, **options)


def test_what_is_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`args` must be `GeoVRGRPOConfig`, got `GRPOConfig`"):
        args = GRPOConfig(str(tmp_path), use_cpu=True, bf16=False)
        GeoVRGRPOTrainer(tiny_model(), answer_reward, args, rows(), processing_class=tiny_processor())
    with pytest.raises(ValueError, match="which list_iterator does not know.*not a stream"):
        grpo(tmp_path, train_rows=iter(rows()))
    with pytest.raises(ValueError, match="`teacher` must have a method"):
        grpo(tmp_path, teacher=print)
    with pytest.raises(ValueError, match="`model` must be a `GeoVRForConditionalGeneration`"):
        grpo(tmp_path, model="Qwen/Qwen3-VL-2B-Instruct")


def test_a_row_without_an_answer_is_refused_by_name():
    dataset = PromptDataset([{"id": "7", "prompt": [{"role": "user", "content": "?"}]}])
    with pytest.raises(ValueError, match="row '7' has no answer"):
        dataset[0]


ROOMS = """
model:
  base: {base}
  tiny: {tiny}
  config:
    objectives: [camera, depth, scale]
data:
  sources:
    - format: rooms
      num_rooms: {num_rooms}
      seed: {seed}
      image_size: [64, 96]
      questions_per_room: 2
      question_types: [room_size_estimation, camera_turn]
      num_objects: [4, 7]
      area: [6, 60]
      l_shaped: 0.0
      look_ahead: true
      compass_walls: true
      in_memory: true
  num_frames: 2
"""
COMMON = ["--use_cpu", "true", "--report_to", "none", "--save_strategy", "no", "--freeze_vision_tower", "false"]
COMMON += ["--lr_scheduler_type", "constant", "--disable_tqdm", "true"]


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    """From a checkpoint within the second epoch and within a logging window."""

    def reward(completions, **kwargs):
        return [float(len(completion[0]["content"])) for completion in completions]

    run = {"max_steps": 4, "save_strategy": "steps", "save_steps": 3, "logging_steps": 2, "rewards": [reward]}
    straight = grpo(tmp_path / "straight", **run)
    straight.train()
    resumed = grpo(tmp_path / "resumed", tiny_model(seed=1), **run)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-3"))
    last = [
        {name: value for name, value in trained.state.log_history[-2].items() if "time" not in name}
        for trained in (straight, resumed)
    ]
    assert last[0] == last[1] and last[0]["step"] == 4 and last[0]["grad_norm"] > 0
    for name, parameter in straight.model.named_parameters():
        assert torch.equal(parameter, resumed.model.get_parameter(name)), name


@pytest.mark.slow
def test_cards_of_both_commands_tell_who_taught_the_base(tmp_path, monkeypatch):
    pytest.importorskip("trimesh")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    base = tmp_path / "base"
    Path("first.yaml").write_text(ROOMS.format(base="tiny", tiny="{}", num_rooms=1, seed=5))
    common = [*COMMON, "--max_steps", "2", "--logging_steps", "1", "--per_device_train_batch_size", "2"]
    train = [*common, "--activation_checkpointing", "false"]
    assert main(["train", "first.yaml", *train, "--output", str(base)]) == 0
    own = GeoVRConfig.from_pretrained(base)
    assert "Not for commercial" not in (base / "README.md").read_text()  # rooms belong to nobody
    own.teacher = [own.teacher, "facebook/VGGT-1B"]
    own.save_pretrained(base)
    GeoVRModelCardData("base", metric=CardTeacher("lab/ruler", "research-only", True)).save(base)

    grpo = [*common, "--num_generations", "2", "--max_completion_length", "3", "--geometry_loss_weight", "0.1"]
    grpo += ["--gradient_checkpointing", "false", "--lora.r", "2"]
    recipe = ROOMS.format(base=base, tiny="null", num_rooms=1, seed=1)
    Path("train.yaml").write_text(recipe)
    Path("grpo.yaml").write_text(recipe + "rewards: {answer: 1.0}\n")
    assert main(["train", "train.yaml", *train, "--output", "train"]) == 0
    assert main(["grpo", "grpo.yaml", *grpo, "--output", "grpo"]) == 0
    (base / "geovr_card.json").unlink()  # what goes on from an adapter asks the adapter, too
    Path("third.yaml").write_text(ROOMS.format(base="grpo", tiny="null", num_rooms=1, seed=1))
    assert main(["train", "third.yaml", *train, "--output", "third"]) == 0
    for folder in ("train", "grpo", "third"):
        facts, edited = read_card_facts(folder)
        assert {network.name for network in facts.networks} == {own.teacher[0], "facebook/VGGT-1B", "lab/ruler"}
        assert {*facts.metadata().license_name.split("-and-")} == {"cc-by-nc-4.0", "research-only"} and not edited
        assert "Not for commercial" in Path(folder, "README.md").read_text()
    facts, _ = read_card_facts("grpo")
    assert {*facts.images} == {f"pictures/{name}.png" for name in ("losses", "depth", "camera_path")}
    assert facts.is_adapter and facts.objectives["policy"] == 1.0 and facts.base_model is None


@pytest.mark.slow
def test_rewards_rise_on_synthetic_rooms(tmp_path, capsys):
    """First it learns from other rooms how answers look; then, on these, from rewards alone, which are right."""
    pytest.importorskip("trimesh")
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(ROOMS.format(base="tiny", tiny="{}", num_rooms=12, seed=5))
    second.write_text(
        ROOMS.format(base=tmp_path / "first", tiny="null", num_rooms=2, seed=1)
        + "rewards: {answer: 1.0, format: 1.0}\n"
    )
    words = ["--max_steps", "40", "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "1"]
    words += ["--learning_rate", "2e-3", "--activation_checkpointing", "false", "--output", str(tmp_path / "first")]
    assert main(["train", str(first), *COMMON, *words]) == 0

    words = ["--max_steps", "25", "--per_device_train_batch_size", "32", "--num_generations", "8"]
    words += ["--learning_rate", "1e-3", "--max_completion_length", "6"]
    words += ["--gradient_checkpointing", "false", "--logging_steps", "1", "--geometry_loss_weight", "0.1"]
    run = ["grpo", str(second), *COMMON, *words, "--output", str(tmp_path / "second")]
    assert main([*run, "--check"]) == 0
    assert "4 questions" in capsys.readouterr().out and not (tmp_path / "second/config.json").exists()
    assert main(run) == 0

    log = json.loads((tmp_path / "second/trainer_state.json").read_text())["log_history"]
    rewards = [entry["reward"] for entry in log if "reward" in entry]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.3
    answers = [entry["rewards/answer_reward/mean"] for entry in log if "reward" in entry]
    assert sum(answers[-5:]) > sum(answers[:5])
    metrics = json.loads((tmp_path / "second/metrics.json").read_text())
    assert metrics["end"]["reward"] > metrics["start"]["reward"]
    card = (tmp_path / "second/README.md").read_text()
    assert "answer × 1, format × 1" in card and "num_generations" in card
    assert GeoVRConfig.from_pretrained(tmp_path / "second").objectives == ["camera", "depth", "scale"]
    assert main(["train", str(second), "--output", str(tmp_path / "third")]) == 2
    assert "run it by `geovr grpo`" in capsys.readouterr().err
