"""Packed rows teach what separate rows teach: same loss, same gradients, same states."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.utils.data import DataLoader
from training_support import (
    frames,
    image,
    row,
    targets,
    text,
    tiny_model,
    tiny_processor,
    trainer,
    uneven_rows,
    video,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from geovr_hf import GeoVRDataCollator
from geovr_hf.modeling.map_tensors_geovr import map_tensors
from geovr_hf.modeling.packed_attention_geovr import PER_FRAME, SHARED_PREFIX, packed_attention_mask
from geovr_hf.modeling.packed_layout_geovr import PackedLayout, causal_lengths, equal_runs, rounded_length
from geovr_hf.trainers import geovr_lora_config
from geovr_hf.trainers.packing import key_blocks, rotary_positions, visible_tokens
from geovr_hf.trainers.raw_pixels import PIXELS, UNTOUCHED, PixelScaler


OBJECTIVES = ("camera", "depth", "scale", "alignment")
QUESTIONS = ["How many chairs are in this room?", "Hello?", "Which is nearest to the sofa? A. lamp B. door " * 5]
ANSWERS = ["4", "A lamp and a door stand beside the sofa.", "B"]


def about(clip, clip_targets, count):
    return [
        row(
            ANSWERS[i % 3],
            clip,
            question=QUESTIONS[i % 3] + " door" * i,
            clip_targets=clip_targets,
            id=f"{id(clip)} {i}",
        )
        for i in range(count)
    ]


def shared_rows():
    """Questions about three clips of unlike length, in disorder, among rows that share nothing."""
    first, second, third = (about(video(n, seed=n), targets(n, seed=n), k) for n, k in ((3, 4), (1, 2), (2, 1)))
    alone = uneven_rows()
    return [first[0], alone[1], second[0], first[1], alone[2], third[0], first[2], alone[3], second[1], first[3]]


def several_turns():
    """A conversation whose second clip comes after an answer: the answer is part of the prefix."""
    clips = video(2, seed=1), video(1, seed=2)

    def conversation(question, answer):
        return {
            "messages": [
                {"role": "system", "content": [text("Hello?")]},
                {"role": "user", "content": [clips[0], text("How many chairs are in this room?")]},
                {"role": "assistant", "content": [text("4 chairs")]},
                {"role": "user", "content": [clips[1], text(question)]},
                {"role": "assistant", "content": [text(answer)]},
                {"role": "user", "content": [text("Which is nearest?")]},
                {"role": "assistant", "content": [text("lamp")]},
            ],
            "geometry_targets": None,
        }

    return [conversation(*pair) for pair in zip(QUESTIONS, ANSWERS, strict=True)]


def packed_model(**fields):
    model = tiny_model(**fields).train()
    model.set_attn_implementation({"text_config": SHARED_PREFIX, "vision_config": PER_FRAME})
    return model


def once_per_clip(batch):
    """Take the targets of all but one row of each clip, as the packed batch has each clip once."""
    seen = set()
    kept = []
    for target in batch["geometry_targets"]:
        kept.append(None if id(target) in seen else target)
        seen.add(id(target))
    return {**batch, "geometry_targets": kept}


def run(model, batch):
    model.zero_grad()
    outputs = model(**batch)
    outputs.loss.backward()
    return outputs, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(one, other):
    for name in ("loss", "lm_loss", *(f"{objective}_loss" for objective in OBJECTIVES)):
        if name in one[0] or name in other[0]:
            torch.testing.assert_close(one[0][name], other[0][name], rtol=1e-5, atol=1e-6, msg=name)
    for name in one[1].keys() | other[1].keys():  # a parameter that nothing used has no gradient, or a zero one
        gradient = one[1].get(name, torch.zeros(()))
        difference = (gradient - other[1].get(name, torch.zeros(()))).abs().max()
        assert difference <= 1e-5 * gradient.abs().max().clamp(min=1e-2), name


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("geometry_tokens", [True, False], ids=["geometry", "language"])
@pytest.mark.parametrize("rows", [shared_rows, several_turns, lambda: shared_rows()[:1], lambda: uneven_rows()[1:2]])
def test_the_loss_and_all_gradients_are_those_of_separate_rows(rows, geometry_tokens, checkpointing):
    model = packed_model()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    collator = GeoVRDataCollator(tiny_processor(), geometry_tokens=geometry_tokens)
    separate, packed = collator(rows()), collator.for_packing()(rows())
    separate = once_per_clip(separate) if geometry_tokens else separate
    assert_same(run(model, separate), run(model, packed))


def test_text_that_is_all_learnt_counts_for_every_question():
    model = packed_model()
    collator = GeoVRDataCollator(tiny_processor(), assistant_only_loss=False)
    assert_same(run(model, once_per_clip(collator(shared_rows()))), run(model, collator.for_packing()(shared_rows())))


def test_adapters_get_the_same_gradients():
    from peft import get_peft_model

    model = packed_model()
    adapted = get_peft_model(model, geovr_lora_config(model, r=4, lora_dropout=0.0))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # at zero nothing would depend on A
    collator = GeoVRDataCollator(tiny_processor())
    assert_same(
        run(adapted, once_per_clip(collator(shared_rows()))), run(adapted, collator.for_packing()(shared_rows()))
    )


def test_every_token_has_the_state_it_has_in_its_own_row():
    model, rows = packed_model().eval(), shared_rows()
    collator = GeoVRDataCollator(tiny_processor())
    packed = collator.for_packing()(rows)
    layout = packed["layout"]
    with torch.no_grad():
        states = model(**packed, output_hidden_states=[2]).hidden_states[2][0]
        logits = model.lm_head(model(**packed, output_hidden_states=[4]).hidden_states[4][0])
    groups = collator.for_packing()._group(rows)
    prefix_begin, begin = 0, sum(layout.prefix_lengths)
    for group, prefix_length, lengths in zip(groups, layout.prefix_lengths, layout.question_lengths, strict=True):
        prefix = torch.arange(prefix_begin, prefix_begin + prefix_length)
        prefix_begin += prefix_length
        for question, length in zip(group.questions, lengths or [0], strict=True):
            places = torch.cat([prefix, torch.arange(begin, begin + length)])
            begin += length
            alone = collator([rows[question.row]])
            alone.pop("geometry_targets"), alone.pop("labels")
            with torch.no_grad():
                expected = model(**alone, output_hidden_states=[2, 4])
            assert torch.equal(packed["input_ids"][0, places], alone["input_ids"][0])
            torch.testing.assert_close(states[places], expected.hidden_states[2][0], rtol=1e-4, atol=1e-5)
            expected_logits = model.lm_head(expected.hidden_states[4][0])
            torch.testing.assert_close(logits[places], expected_logits, rtol=1e-4, atol=1e-5)


def test_positions_are_those_of_the_backbone():
    model, rows = packed_model(), [*shared_rows(), *several_turns()]
    collator = GeoVRDataCollator(tiny_processor())
    packed = collator.for_packing()(rows)["layout"]
    prefix_begin, begin = 0, sum(packed.prefix_lengths)
    for group, prefix_length, lengths in zip(
        collator.for_packing()._group(rows), packed.prefix_lengths, packed.question_lengths, strict=True
    ):
        prefix = torch.arange(prefix_begin, prefix_begin + prefix_length)
        prefix_begin += prefix_length
        for question, length in zip(group.questions, lengths or [0], strict=True):
            alone = collator([rows[question.row]])
            expected = model.model.get_rope_index(
                alone["input_ids"],
                alone["mm_token_type_ids"],
                alone.get("image_grid_thw"),
                alone.get("video_grid_thw"),
                alone["attention_mask"],
            )[0][:, 0]
            places = torch.cat([prefix, torch.arange(begin, begin + length)])
            begin += length
            assert torch.equal(packed.position_ids[:, 0, places], expected)


def test_positions_of_tall_wide_and_several_pictures():
    model = packed_model()
    images, clips = [(1, 2, 8), (1, 6, 4)], [(2, 4, 2), (1, 2, 2)]
    types = [0, 0, *[1] * 4, 0, *[2] * 2, 0, *[2] * 2, 0, *[1] * 6, *[0] * 3, *[2], 0]
    types = torch.tensor(types)
    expected = model.model.get_rope_index(
        torch.zeros(1, len(types), dtype=torch.long), types[None], torch.tensor(images), torch.tensor(clips)
    )[0][:, 0]
    assert torch.equal(rotary_positions(types, images, clips, 2), expected)


@pytest.mark.parametrize("seed", range(4))
def test_blocks_cover_what_tokens_see_and_no_more(seed):
    random = np.random.default_rng(seed)
    prefixes = random.integers(1, 300, 3).tolist()
    questions = [random.integers(1, 90, random.integers(1, 9)).tolist() for _ in prefixes]
    visible, start, block = visible_tokens(prefixes, questions), sum(prefixes), 16
    shared_begin, shared_end, own_begin = visible[:, :, None]
    key = torch.arange(visible.shape[1])
    sees = ((shared_begin <= key) & (key < shared_end)) | ((own_begin <= key) & (key <= key[:, None]))
    rows = torch.repeat_interleave(torch.arange(len(prefixes) * 2), torch.tensor([*prefixes, *map(sum, questions)]))
    assert not sees[rows[:, None] % len(prefixes) != rows % len(prefixes)].any()  # no row sees another
    sees = torch.nn.functional.pad(sees[start:], (0, -sees.shape[1] % block, 0, -(len(sees) - start) % block))
    tiles = sees.unflatten(0, (-1, block)).unflatten(2, (-1, block))
    found = key_blocks(visible, start, block)
    for line in range(len(tiles)):
        partial_blocks = set(found.partial_blocks[0, 0, line, : found.partial_counts[0, 0, line]].tolist())
        full = set(found.full_blocks[0, 0, line, : found.full_counts[0, 0, line]].tolist())
        seen = {column for column in range(tiles.shape[2]) if tiles[line, :, column].any()}
        whole = {column for column in seen if tiles[line, :, column].all()}
        assert partial_blocks | full == seen and not partial_blocks & full
        # Of a last line, those tokens count that there are.
        there = min(block, visible.shape[1] - start - line * block)
        assert whole <= full <= {column for column in seen if tiles[line, :there, column].all()}


def test_lengths_are_rounded_to_few_that_are_little_longer():
    lengths = range(1, 20001)
    rounded = [rounded_length(length) for length in lengths]
    assert all(
        length <= found <= max(length * 33 / 32, length + 63) for length, found in zip(lengths, rounded, strict=True)
    )
    assert len(set(rounded[8191:16384])) <= 33 and rounded == sorted(rounded)


def test_many_rows_of_different_lengths_need_few_calls_of_attention():
    lengths = (30, 30, 30, 29, 29, 7, 7, 7)
    assert equal_runs(lengths) == [(3, 30), (2, 29), (3, 7)]
    assert equal_runs((4, 0, 4)) == [(2, 4)]
    assert causal_lengths(lengths) == lengths
    assert causal_lengths((1, 2, 3, 4, 5)) == ()


@pytest.mark.parametrize("questions", [1, 3])
def test_compiled_code_is_for_all_lengths(questions, monkeypatch):
    """Clips of data are of many lengths, and compiling takes the better part of a minute."""

    def padded_as_on_a_gpu(layout):
        runs = equal_runs(causal_lengths(layout.prefix_lengths))
        return tuple((count, length, rounded_length(length)) for count, length in runs)

    monkeypatch.setattr(PackedLayout, "causal_runs", property(padded_as_on_a_gpu))
    model, collator = packed_model(), GeoVRDataCollator(tiny_processor()).for_packing()
    compilations = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=compilations))
    model.compile_objectives()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(backend=compilations)
    counts = []
    for frames_of_clip, words in ((2, 1), (3, 5), (4, 9), (5, 2), (6, 11), (7, 4), (8, 8)):
        clip, clip_targets = video(frames_of_clip, seed=1), targets(frames_of_clip, seed=1)
        rows = [row("4", clip, question="chair " * (words + i), clip_targets=clip_targets) for i in range(questions)]
        batch = collator(rows)
        batch.pop("id", None)
        model(**batch).loss.backward()
        counts.append(compilations.frame_count)
    assert counts[0] and counts[2:] == [counts[2]] * len(counts[2:])


def test_rows_without_sharing_need_no_mask():
    layout = GeoVRDataCollator(tiny_processor()).for_packing()(uneven_rows())["layout"]
    assert packed_attention_mask(layout) is None and layout.blocks is None
    assert layout.question_lengths == ((),) * 4


class TestCollator:
    @pytest.mark.parametrize("packed", [True, False])
    def test_a_batch_of_many_clips_leaves_its_worker_in_a_few_pieces(self, packed):
        rows = [row("4", video(2, seed=i), clip_targets=targets(2, seed=i)) for i in range(8)] + shared_rows()
        collator = GeoVRDataCollator(tiny_processor())
        collator = collator.for_packing(raw_pixels=True) if packed else collator
        (travelled,) = DataLoader([rows], batch_size=None, collate_fn=collator, num_workers=1)
        found, expected = [], []
        map_tensors(travelled, found.append), map_tensors(collator(rows), expected.append)
        assert (
            len(found) > (100 if packed else 60)
            and len({tensor.untyped_storage().data_ptr() for tensor in found}) <= 3
        )
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)

    def test_other_words_before_the_clip_share_nothing(self):
        clip = video(2)
        rows = [row("4", text(words), clip) for words in ("Hello?", "sofa", "sofa")]
        layout = GeoVRDataCollator(tiny_processor()).for_packing()(rows)["layout"]
        assert [len(lengths) for lengths in layout.question_lengths] == [0, 2]

    def test_equal_frames_in_other_tensors_are_another_clip(self):
        rows = [row("4", video(2, seed=1)), row("4", video(2, seed=1))]
        assert len(GeoVRDataCollator(tiny_processor()).for_packing()(rows)["layout"].prefix_lengths) == 2

    def test_a_clip_comes_once_with_its_frames_and_its_targets(self):
        clip, clip_targets = video(2), targets(2)
        rows = about(clip, None, 2) + about(clip, clip_targets, 1)
        batch = GeoVRDataCollator(tiny_processor(), keep_frames=True, keep_columns=["id"]).for_packing()(rows)
        assert batch["geometry_targets"] == [clip_targets] and len(batch["frames"]) == 1
        assert batch["id"] == [row["id"] for row in rows]

    def test_columns_follow_the_questions(self):
        rows = shared_rows()
        batch = GeoVRDataCollator(tiny_processor(), keep_columns=["id"]).for_packing()(rows)
        assert sorted(batch["id"], key=str) == sorted((row["id"] for row in rows), key=str)
        assert batch["id"][:4] == [rows[place]["id"] for place in (0, 3, 6, 9)]

    def test_a_filler_teaches_nothing(self):
        rows = [{**line, "filler": True} for line in uneven_rows()]
        for assistant_only_loss in (True, False):
            collator = GeoVRDataCollator(tiny_processor(), assistant_only_loss=assistant_only_loss)
            batch = collator.for_packing()(rows)
            assert len(batch["layout"].supervised) == 0 and set(batch["geometry_targets"]) == {None}
            outputs, gradients = run(packed_model(), batch)
            assert outputs.loss == 0 and all(not gradient.any() for gradient in gradients.values())

    @pytest.mark.parametrize("options", [{}, {"do_normalize": False}, {"do_rescale": False}, UNTOUCHED])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_pixels_travel_as_bytes_and_become_the_same_values(self, dtype, options):
        processor = copy.deepcopy(tiny_processor())
        for part in (processor.image_processor, processor.video_processor):
            part.image_mean, part.image_std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
            for name, value in options.items():
                setattr(part, name, value)
        collator, rows = GeoVRDataCollator(processor), [row("4", video(2), image()), row("4", video(1))]
        expected, raw = collator.for_packing()(rows), collator.for_packing(raw_pixels=True)(rows)
        scaled = PixelScaler(processor, dtype)(raw)
        for name in PIXELS:
            assert raw[name].dtype == torch.uint8
            torch.testing.assert_close(scaled[name], expected[name].to(dtype), rtol=0, atol=0)

    def test_pictures_that_are_no_bytes_are_scaled_by_their_worker(self):
        picture = {"type": "image", "image": 255 * torch.rand(3, 32, 32)}
        collator, rows = GeoVRDataCollator(tiny_processor()), [row("4", picture, video(2))]
        expected, raw = collator.for_packing()(rows), collator.for_packing(raw_pixels=True)(rows)
        for name in PIXELS:
            torch.testing.assert_close(raw[name], expected[name], rtol=0, atol=0)

    def test_errors_name_the_row(self):
        collator = partial(GeoVRDataCollator, tiny_processor())
        long = about(video(2), None, 3)
        with pytest.raises(ValueError, match=f"row '{long[2]['id']}' has .* more than `max_length=80`"):
            collator(max_length=80).for_packing()(long)
        with pytest.raises(ValueError, match="row 'x' has control tokens"):
            collator().for_packing()([row("4", video(1), question="<|video_pad|>", id="x")])


def test_packed_rows_need_attention_that_shares_prefixes():
    with pytest.raises(ValueError, match="set_attn_implementation"):
        tiny_model()(**GeoVRDataCollator(tiny_processor()).for_packing()(shared_rows()))


def test_frames_of_unlike_size_attend_within_themselves():
    model = tiny_model().eval()
    clips = [{**video(2), "video": frames(2, size=(64, 32))}, {**video(3), "video": frames(3, size=(96, 64))}]
    collator = GeoVRDataCollator(tiny_processor(), geometry_tokens=False)
    batch = collator([row("4", clip) for clip in clips])
    with torch.no_grad():
        expected = model(**batch).loss
        model.set_attn_implementation({"text_config": SHARED_PREFIX, "vision_config": PER_FRAME})
        torch.testing.assert_close(model(**batch).loss, expected)
        torch.testing.assert_close(model(**collator.for_packing()([row("4", clip) for clip in clips])).loss, expected)


DESCENT = {"optim": "sgd", "learning_rate": 0.05, "geometry_learning_rate": 0.05, "max_grad_norm": 0.0}


def test_the_trainer_takes_the_same_steps_packed_and_separate(tmp_path):
    rows = uneven_rows()
    runs = {}
    for packing in (True, False):
        trained = trainer(tmp_path, rows=rows, packing=packing, per_device_train_batch_size=3, **DESCENT)
        trained.train()
        runs[packing] = (
            {name: p.detach().clone() for name, p in trained.model.named_parameters()},
            [log["loss"] for log in trained.state.log_history if "loss" in log],
        )
    assert runs[True][1] == pytest.approx(runs[False][1], rel=1e-5)
    for name, parameter in runs[True][0].items():
        torch.testing.assert_close(parameter, runs[False][0][name], rtol=1e-4, atol=1e-6, msg=name)


def test_sharing_changes_the_language_loss_of_an_epoch_not_at_all(tmp_path):
    """All questions in one update: the mean over them, and so the step, is that of rows by themselves."""
    rows = [{**line, "geometry_targets": None} for line in shared_rows()]
    losses = {}
    for questions in (1, 32):
        trained = trainer(
            tmp_path,
            rows=rows,
            max_questions_per_clip=questions,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=16,
            max_steps=1,
            **DESCENT,
        )
        trained.train()
        losses[questions] = trained.state.log_history[0]["lm_loss"], trained.model.lm_head.weight.detach().clone()
    assert losses[1][0] == pytest.approx(losses[32][0], rel=1e-6)
    torch.testing.assert_close(losses[1][1], losses[32][1], rtol=1e-5, atol=1e-7)
