"""What packed training is told by its arguments, and what it makes of data sets."""

import pytest
import torch
from test_clip_sampler import Keyed
from test_geovr_trainer import Stream
from test_training_invariants import losses
from torch.utils.data import ConcatDataset, Subset
from training_support import row, targets, text, tiny_model, tiny_processor, trainer, training_args, uneven_rows, video

from geovr_hf import GeoVRDataCollator, GeoVRTrainer
from geovr_hf.modeling.packed_attention_geovr import PER_FRAME, SHARED_PREFIX
from geovr_hf.trainers import activation_memory
from geovr_hf.trainers.activation_memory import activation_bytes, must_checkpoint
from geovr_hf.trainers.packed_collator import GeoVRPackedDataCollator
from geovr_hf.trainers.packed_training import prepare_attention, question_lengths


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_questions_per_clip": 0}, "at least 1"),
        ({"packing": False, "max_questions_per_clip": 4}, "need `packing=True`"),
        ({"packing": False, "max_question_tokens": 100}, "need `packing=True`"),
        ({"torch_compile": True}, "compile_layers=True"),
    ],
)
def test_arguments_that_cannot_work_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        training_args(tmp_path, **arguments)


def test_a_collator_of_one_s_own_cannot_pack(tmp_path):
    own = lambda rows: GeoVRDataCollator(tiny_processor())(rows)  # noqa: E731
    with pytest.raises(ValueError, match="needs a `GeoVRDataCollator`"):
        trainer(tmp_path, collator=own, packing=True, eval_answers=False)
    trained = trainer(tmp_path, collator=own, eval_answers=False)
    assert trained.args.packing is False
    trained.train()


def test_clips_in_a_column_are_shared(tmp_path):
    clip = video(2)
    rows = [row(answer, {"type": "video"}, videos=[clip], clip_targets=targets(2)) for answer in ("4", "5", "6")]
    made = trainer(tmp_path, rows=rows, max_questions_per_clip=2)
    (batch,) = made.get_train_dataloader()
    assert sorted(map(len, batch["layout"].question_lengths)) == [0, 2]  # 0: alone
    made.train()


class Shouting(GeoVRDataCollator):
    def __call__(self, rows):
        return super().__call__([{**each, "messages": shout(each["messages"])} for each in rows])


class PackedShouting(Shouting, GeoVRPackedDataCollator):
    def for_packing(self, raw_pixels=False):
        return GeoVRPackedDataCollator.for_packing(self, raw_pixels)


class BothShouting(Shouting):
    def for_packing(self, raw_pixels=False):
        return PackedShouting(self.processor, raw_pixels=raw_pixels)


def shout(messages):
    return [*messages[:-1], {"role": "assistant", "content": [text("HELLO")]}]


def learnt_in_training(made):
    batch = next(iter(made.get_train_dataloader()))
    learnt = batch["layout"].next_tokens if "layout" in batch else batch["labels"][batch["labels"] != -100]
    return made.processing_class.tokenizer.decode(learnt)


def test_what_a_collator_overrides_is_trained_on(tmp_path, caplog):
    rows = [row("4", video(2)), row("5")]
    alone = trainer(tmp_path, rows=rows, collator=Shouting(tiny_processor()))
    assert alone.args.packing is False and learnt_in_training(alone).count("HELLO") == 2
    assert "not packed: packing would train without what `Shouting` overrides" in caplog.text
    for collator in (BothShouting(tiny_processor()), PackedShouting(tiny_processor())):
        packed = trainer(tmp_path, rows=rows, collator=collator)
        assert packed.args.packing and learnt_in_training(packed).count("HELLO") == 2
    with pytest.raises(ValueError, match="`Shouting` overrides. Override its `for_packing`, too.* `packing=False`"):
        trainer(tmp_path, collator=Shouting(tiny_processor()), packing=True)
    with pytest.raises(ValueError, match="`max_questions_per_clip`.* need packing, which would train without"):
        trainer(tmp_path, collator=Shouting(tiny_processor()), max_questions_per_clip=2)


def test_questions_without_what_a_collator_overrides_are_warned_of(tmp_path, caplog):
    rows = [row("5")]
    trainer(tmp_path, collator=GeoVRDataCollator(tiny_processor())).evaluate(rows)
    assert "Questions are posed" not in caplog.text
    trainer(tmp_path, collator=Shouting(tiny_processor())).evaluate(rows)
    assert "Questions are posed without what `Shouting` overrides" in caplog.text


def test_a_token_budget_bounds_packed_rows(tmp_path):
    clip = video(2)
    rows = [row("4", clip, question="Hello? " * count) for count in (1, 9, 1, 9)]
    lengths = question_lengths(rows, tiny_processor().tokenizer)
    assert lengths[0] == lengths[2] < lengths[1] == lengths[3]
    budget = {"max_questions_per_clip": 32, "max_question_tokens": lengths[0] + lengths[1]}
    batches = list(trainer(tmp_path, rows=rows, per_device_train_batch_size=1, **budget).get_train_dataloader())
    assert [batch["layout"].question_lengths for batch in batches] != [((),)] * 4
    assert [len(batch["layout"].question_lengths[0]) for batch in batches] == [2, 2]
    assert all(sum(batch["layout"].question_lengths[0]) <= lengths[0] + lengths[1] for batch in batches)
    joined = ConcatDataset([rows[:3], Subset(rows, [3])])
    assert question_lengths(joined, tiny_processor().tokenizer) == lengths
    with pytest.raises(ValueError, match=r"no method `words\(index\)`"):
        question_lengths(Keyed(["a"]), tiny_processor().tokenizer)


def test_the_batch_size_that_memory_allows_is_found(tmp_path):
    sizes = []

    class Small(GeoVRTrainer):
        def training_step(self, model, inputs, *args):
            sizes.append(len(inputs["layout"].prefix_lengths))
            if sizes[-1] > 1:
                raise RuntimeError("CUDA out of memory.")
            return super().training_step(model, inputs, *args)

    for rows in (uneven_rows(), Stream()):
        sizes.clear()
        args = training_args(tmp_path, per_device_train_batch_size=4, auto_find_batch_size=True)
        Small(tiny_model(), args, train_dataset=rows, processing_class=tiny_processor()).train()
        assert sizes[0] == 4 and sizes[-2:] == [1, 1]


@pytest.mark.parametrize("stream", [False, True])
def test_a_last_batch_that_is_not_full_can_be_dropped(tmp_path, stream):
    for drop, sizes in ((False, [3, 1]), (True, [3])):
        options = {"per_device_train_batch_size": 3, "dataloader_drop_last": drop}
        made = trainer(tmp_path, rows=Stream() if stream else uneven_rows(), **options)
        assert [len(batch["layout"].prefix_lengths) for batch in made.get_train_dataloader()] == sizes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_sampling_strategy": "group_by_length"}, '`"random"`, or set `packing=False`'),
        ({"neftune_noise_alpha": 5.0}, "`neftune_noise_alpha` would scale .* `packing=False`"),
        ({"accelerator_config": {"split_batches": True}}, "cannot split packed rows.* `packing=False`"),
    ],
)
def test_what_packing_would_pass_over_is_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, **arguments)
    assert trainer(tmp_path, packing=False, **arguments).args.packing is False


def test_a_sampler_of_one_s_own_is_drawn_from(tmp_path, caplog):
    class Backwards(GeoVRTrainer):
        def _get_train_sampler(self, *args):
            return range(len(self.train_dataset) - 1, -1, -1)

    def made(**options):
        args = training_args(tmp_path, per_device_train_batch_size=1, **options)
        collator = GeoVRDataCollator(tiny_processor(), keep_columns=["id"])
        return Backwards(tiny_model(), args, collator, train_dataset=uneven_rows())

    order = [batch["id"][0] for batch in made().get_train_dataloader()]
    assert order == [each["id"] for each in reversed(uneven_rows())]
    assert "not by the `_get_train_sampler` that `Backwards` overrides" in caplog.text
    with pytest.raises(ValueError, match="`_get_train_sampler` that `Backwards` overrides"):
        made(packing=True)


def shared_and_other_rows():
    """Three questions about one clip, whose tensors they share, and one about another."""
    clip, other, known, few = video(2, seed=7), video(2, seed=8), targets(2, seed=7), targets(2, seed=8)
    questions = {"4": "How many chairs are in this room?", "lamp": "Which is nearest to the sofa?", "2": "How far?"}
    rows = [row(answer, clip, question=question, clip_targets=known) for answer, question in questions.items()]
    return [*rows, row("one", other, question="What is it?", clip_targets=few)]


@pytest.mark.parametrize("most", [1, 2])
def test_losses_do_not_depend_on_how_batches_are_cut(tmp_path, most):
    rows = shared_and_other_rows()
    found = []
    for size, accumulated in ((4, 1), (1, 4 if most == 1 else 3)):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated, "max_steps": 1}
        trained = trainer(tmp_path / str(size), rows=rows, max_questions_per_clip=most, **options)
        batches = list(trained.get_train_dataloader())
        assert max(len(one) for batch in batches for one in batch["layout"].question_lengths) <= most
        trained.train()
        found.append(losses(trained))
    if most == 1:
        apart = trainer(tmp_path / "apart", rows=rows, packing=False, per_device_train_batch_size=4, max_steps=1)
        apart.train()
        found.append(losses(apart))
    for step in found[1:]:
        assert step[0] == pytest.approx(found[0][0], rel=1e-4)


def test_a_filler_is_nothing_to_ask_a_teacher_about():
    one, *_ = shared_and_other_rows()
    collator = GeoVRDataCollator(tiny_processor(), keep_frames=True).for_packing()
    one = {**one, "geometry_targets": [None]}
    batch = collator([{**one, "packed_row": 0}, {**one, "packed_row": 1, "filler": True}])
    assert batch["frames"][0] is not None and batch["frames"][1] is None and len(batch["frames"]) == 2


def test_attention_that_packing_replaces_is_told(tmp_path, caplog):
    model = tiny_model()
    trainer(tmp_path, model, packing=False)
    assert "attends by SDPA" not in caplog.text
    model.set_attn_implementation("eager")
    trainer(tmp_path, model)
    assert "not by the model's `attn_implementation='eager'`" in caplog.text


def test_attention_stays_that_of_the_user_where_it_can():
    model = tiny_model()
    model.set_attn_implementation({"vision_config": "eager"})
    prepare_attention(model)
    assert model.config.text_config._attn_implementation == SHARED_PREFIX
    assert model.config.vision_config._attn_implementation == "eager"
    other = tiny_model()
    prepare_attention(other)
    assert other.config.vision_config._attn_implementation == PER_FRAME


def test_evaluation_and_generation_go_on_as_before(tmp_path):
    trained = trainer(tmp_path, eval_dataset=uneven_rows())
    before = trainer(tmp_path, model=tiny_model(), eval_dataset=uneven_rows(), packing=False).evaluate()
    after = trained.evaluate()
    for name in ("eval_lm_loss", "eval_depth_loss", "eval_camera_loss", "eval_answer_accuracy"):
        assert after[name] == pytest.approx(before[name], rel=1e-5)


def test_activations_are_estimated_from_tokens_and_widths():
    config = tiny_model().config.text_config
    single = activation_bytes(config, 1, 2)
    assert single == 4 * (13 * config.hidden_size + 5 * config.intermediate_size) * 2
    assert activation_bytes(config, 1000, 4) == 2000 * single


def test_without_a_gpu_whose_memory_can_be_asked_activations_are_recomputed(tmp_path):
    assert must_checkpoint(tiny_model(), 1, 2)
    trained = trainer(tmp_path, activation_checkpointing=None)
    trained.train()
    assert trained.args.activation_checkpointing is True and trained.model.is_activation_checkpointing


@pytest.mark.parametrize(("spare", "recomputed"), [(1, False), (-1, True)])
def test_activations_are_kept_where_they_fit_beside_gradients_and_optimizer(spare, recomputed, monkeypatch):
    model = tiny_model()
    model.model.visual.requires_grad_(False)  # has neither
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    needed = activation_bytes(model.config.text_config, 500, 2) / activation_memory.USABLE + 3 * 4 * trained
    monkeypatch.setattr(activation_memory, "free_memory", lambda device: int(needed) + 1 + 1000 * spare)
    assert must_checkpoint(model, 500, 2) is recomputed


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_pixels_are_made_in_the_compute_dtype(tmp_path, kind):
    trained = trainer(tmp_path, model=tiny_model(kind))
    batch = next(iter(trained.get_train_dataloader()))
    assert batch["pixel_values_videos"].dtype == torch.uint8
    assert trained._prepare_inputs(batch)["pixel_values_videos"].dtype == kind
