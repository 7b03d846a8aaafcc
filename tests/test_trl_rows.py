"""Rows in TRL's conversational format: TRL's own utilities take ours, and we learn of them what TRL would."""

import copy
from importlib import resources

import numpy as np
import pytest
import torch
from training_support import frames, row, targets, text, tiny_processor, trainer, video
from trl import SFTConfig
from trl.data_utils import (
    apply_chat_template,
    is_conversational,
    maybe_apply_chat_template,
    prepare_multimodal_messages,
)

from geovr_hf import GeoVRDataCollator, GeoVRTrainingArguments
from geovr_hf.data.rows import normalize_row
from geovr_hf.trainers.conversation import read_row


def template(name):
    """A chat template that TRL brings: Qwen's own, or with `_training` its form that marks what is generated."""
    return (resources.files("trl") / "chat_templates" / f"{name}.jinja").read_text()


@pytest.fixture
def processor():
    processor = copy.deepcopy(tiny_processor())
    processor.chat_template = template("qwen3_vl")
    return processor


SYSTEM = {"role": "system", "content": "Answer shortly."}
QUESTION = {"role": "user", "content": [video(2), text("How many chairs are in this room?")]}
ANSWER = {"role": "assistant", "content": [text("4")]}
SECOND = [{"role": "user", "content": "And sofas?"}, {"role": "assistant", "content": "none\n\nat all"}]
ROWS = {
    "one turn": {"messages": [QUESTION, ANSWER]},
    "system prompt": {"messages": [SYSTEM, QUESTION, ANSWER]},
    "several turns": {"messages": [SYSTEM, QUESTION, ANSWER, *SECOND]},
    "prompt and completion": {"prompt": [QUESTION], "completion": [ANSWER]},
    "turns in the prompt": {"prompt": [SYSTEM, QUESTION, ANSWER, SECOND[0]], "completion": [SECOND[1]]},
    "turns in the completion": {"prompt": [QUESTION], "completion": [ANSWER, *SECOND]},
    "text alone": {"prompt": [{"role": "user", "content": "Hello?"}], "completion": [ANSWER]},
}


@pytest.fixture(params=ROWS, ids=[name.replace(" ", "-") for name in ROWS])
def example(request):
    return copy.deepcopy(ROWS[request.param])


def learnt_text(batch, processor, index=0):
    ids = batch["input_ids"][index]
    return processor.tokenizer.decode(ids[batch["labels"][index] != -100])


class TestTheUtilitiesOfTRL:
    def test_take_our_rows_for_conversations(self, example):
        assert is_conversational(example)
        for messages in example.values():
            prepared = prepare_multimodal_messages(messages)
            assert [part["type"] for part in prepared[0]["content"]] == [
                part["type"] for part in read_row({"messages": messages}).messages[0]["content"]
            ]

    def test_render_them_as_the_collator_does(self, example, processor):
        rendered = "".join(maybe_apply_chat_template(example, processor).values())
        conversation = read_row(example)
        assert rendered == processor.apply_chat_template(conversation.messages, tokenize=False)
        # The clip is one placeholder there, and its frames and times in the batch.
        words = processor.tokenizer.decode(GeoVRDataCollator(processor)([example])["input_ids"][0])
        before, _, after = rendered.partition("<|vision_start|><|video_pad|><|vision_end|>")
        assert words.startswith(before) and words.endswith(after)

    def test_take_stored_rows_with_paths_and_prompts_alone(self, processor):
        question = {"role": "user", "content": [{"type": "video"}, text("Why?")]}
        stored = normalize_row({"messages": [question, ANSWER], "videos": ["a.mp4"]}, "row")
        assert is_conversational(stored)
        assert "<|video_pad|>" in maybe_apply_chat_template(stored, processor)["text"]
        prompt = apply_chat_template({"prompt": [SYSTEM, QUESTION], "answer": "4"}, processor)["prompt"]
        assert prompt.endswith("<|im_start|>assistant\n")


class TestWhatIsLearnt:
    def test_is_what_trl_would_learn(self, example, processor):
        """Of text alone, for which TRL can tell, by templates with marks around what the assistant says."""
        for messages in example.values():
            for message in messages:
                if not isinstance(message["content"], str):
                    message["content"] = [part for part in message["content"] if part["type"] == "text"]
        batch = GeoVRDataCollator(processor)([example])
        marked = processor.apply_chat_template(
            [message for messages in example.values() for message in messages],
            chat_template=template("qwen3_vl_training"),
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        assert marked["input_ids"][0] == batch["input_ids"][0].tolist()
        mask = np.array(marked["assistant_masks"][0], dtype=bool)
        if "prompt" in example:
            prompt = processor.apply_chat_template(example["prompt"], add_generation_prompt=True, tokenize=True)
            mask[: len(prompt[0] if isinstance(prompt[0], list) else prompt)] = False
        ours = (batch["labels"][0] != -100).numpy()
        assert mask.any() and ours[mask].all()
        # And the line break that closes a turn.
        extra = batch["input_ids"][0][torch.tensor(ours & ~mask)]
        assert set(processor.tokenizer.convert_ids_to_tokens(extra.tolist())) <= {"Ċ"}

    @pytest.mark.parametrize("name", ["qwen3_vl", "qwen2_5_vl"])
    @pytest.mark.parametrize("system", [[], [SYSTEM]], ids=["without", "with"])
    def test_is_the_assistants_with_and_without_a_system_prompt(self, name, system, processor):
        processor.chat_template = template(name)
        batch = GeoVRDataCollator(processor)([{"messages": [*system, QUESTION, ANSWER, *SECOND]}])
        assert learnt_text(batch, processor) == "4<|im_end|>\nnone\n\nat all<|im_end|>\n"
        words = processor.tokenizer.decode(batch["input_ids"][0])
        # Qwen2.5's template writes a system prompt of its own where there is none.
        assert words.count("<|im_start|>system") == (1 if system or name == "qwen2_5_vl" else 0)

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, "Yes.<|im_end|>\n"),
            ({"completion_only_loss": True}, "Yes.<|im_end|>\n"),
            ({"completion_only_loss": False}, "4<|im_end|>\nYes.<|im_end|>\n"),
            (
                {"assistant_only_loss": False},
                "Yes.<|im_end|>\n<|im_start|>user\nGood.<|im_end|>\n",
            ),
        ],
    )
    def test_of_a_completion_is_what_the_arguments_say(self, options, expected, processor):
        example = {
            "prompt": [QUESTION, ANSWER, {"role": "user", "content": "Sure?"}],
            "completion": [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Good."}],
        }
        assert learnt_text(GeoVRDataCollator(processor, **options)([example]), processor) == expected

    def test_includes_the_prompt_when_neither_restriction_holds(self, processor):
        collator = GeoVRDataCollator(processor, assistant_only_loss=False, completion_only_loss=False)
        example = {"prompt": [{"role": "user", "content": "Hello?"}], "completion": [ANSWER]}
        assert learnt_text(collator([example]), processor).startswith("<|im_start|>user\nHello?")

    def test_depends_on_the_rows_own_template_arguments(self, processor):
        example = {"messages": [QUESTION, ANSWER], "chat_template_kwargs": {"add_vision_id": True}}
        words = processor.tokenizer.decode(GeoVRDataCollator(processor)([example])["input_ids"][0])
        assert "Video 1: " in words


class TestColumnsOfMedia:
    def test_fill_placeholders_in_order(self, processor):
        picture = frames(1)[0].numpy()
        placed = {"role": "user", "content": [{"type": "video"}, {"type": "image"}, text("Why?"), {"type": "video"}]}
        example = {"messages": [placed, ANSWER], "videos": [video(2, seed=1), video(3, seed=2)], "images": [picture]}
        conversation = read_row(example)
        assert [len(clip) for clip in conversation.videos] == [2, 3] and conversation.images[0] is picture
        same = {"role": "user", "content": [video(2, seed=1), {"type": "image", "image": picture}, text("Why?")]}
        same["content"].append(video(3, seed=2))
        batch, expected = (GeoVRDataCollator(processor)([r]) for r in (example, {"messages": [same, ANSWER]}))
        assert all(torch.equal(batch[name], expected[name]) for name in ("input_ids", "labels", "pixel_values_videos"))

    def test_stand_before_the_first_question_that_is_a_string(self, processor):
        question = {"role": "user", "content": "Why?"}
        picture = frames(1)[0].numpy()
        example = {"prompt": [SYSTEM, question], "completion": [ANSWER], "image": picture}
        ours = read_row(example).messages[1]["content"]
        trl = prepare_multimodal_messages([SYSTEM, question], images=[picture])[1]["content"]
        assert [part["type"] for part in ours] == [part["type"] for part in trl] == ["image", "text"]


class TestTheTrainer:
    def test_takes_both_forms_together(self, tmp_path):
        rows = [
            row("4", video(2), clip_targets=targets(2)),
            {**copy.deepcopy(ROWS["turns in the prompt"]), "geometry_targets": targets(2)},
        ]
        trained = trainer(tmp_path, rows=rows, max_steps=6)
        trained.train()
        losses = [log["lm_loss"] for log in trained.state.log_history if "lm_loss" in log]
        assert losses[-1] < losses[0]

    def test_has_the_argument_names_of_trl(self):
        ours, theirs = vars(GeoVRTrainingArguments("x")), vars(SFTConfig("x", bf16=False))
        assert {"max_length", "assistant_only_loss", "completion_only_loss"} <= ours.keys() & theirs.keys()

    def test_makes_its_collator_of_the_arguments_and_refuses_two_opinions(self, tmp_path):
        made = trainer(tmp_path, collator=GeoVRDataCollator(tiny_processor(), max_length=9), max_length=9)
        assert made.data_collator.max_length == 9
        with pytest.raises(ValueError, match="`max_length=10`, the `data_collator` 9"):
            trainer(tmp_path, collator=GeoVRDataCollator(tiny_processor(), max_length=9), max_length=10)
