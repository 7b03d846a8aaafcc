"""The model: batches of every kind, the plain backbone inside, and errors that name their cure."""

import copy

import pytest
import torch
from tiny import TEXTS, random_frames, random_targets, tiny_config, tiny_inputs, tiny_model, tiny_processor
from transformers import Qwen3VLForConditionalGeneration, set_seed

from geovr_hf import GeometryTargets, GeoVRConfig, GeoVRForConditionalGeneration


CLIPS = [[random_frames(3, seed=1)], [random_frames(2, 64, 64, seed=2), random_frames(1, 32, 96, seed=3)], []]
ANSWERS = ["4<|im_end|>\n", "the table is near the lamp<|im_end|>\n", "left<|im_end|>\n"]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def plain(model, tmp_path_factory):
    """The checkpoint of `model`, opened as a plain Qwen3-VL."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    return Qwen3VLForConditionalGeneration.from_pretrained(folder).eval()


def targets_of(clips):
    return [
        random_targets(len(c), c.shape[1], c.shape[2], seed=i) for i, c in enumerate(c for row in clips for c in row)
    ]


class TestMixedBatch:
    """Several clips of different length and size, two in one row, and a row of text only."""

    @pytest.fixture
    def outputs(self, model):
        inputs = tiny_inputs(CLIPS, answers=ANSWERS)
        with torch.no_grad():
            return model(**inputs, geometry_targets=targets_of(CLIPS), output_geometry=True)

    def test_predictions_have_the_shapes_of_their_clips(self, outputs):
        assert [tuple(p.shape) for p in outputs.pose_enc] == [(3, 9), (2, 9), (1, 9)]
        assert [tuple(d.shape) for d in outputs.depth] == [(3, 64, 96), (2, 64, 64), (1, 32, 96)]
        assert outputs.metric_scale.shape == (3,)

    @pytest.mark.parametrize("padding_side", ["left", "right"])
    def test_each_clip_is_predicted_as_if_it_were_alone(self, model, outputs, padding_side):
        inputs = tiny_inputs(CLIPS, padding_side=padding_side)
        with torch.no_grad():
            batched = model(**inputs, output_geometry=True)
            alone = [model(**tiny_inputs([row]), output_geometry=True) for row in CLIPS[:2]]
        expected = [pose for output in alone for pose in output.pose_enc]
        for pose, reference in zip(batched.pose_enc, expected, strict=True):
            torch.testing.assert_close(pose, reference, atol=1e-5, rtol=1e-5)
        for depth, reference in zip(batched.depth, [d for o in alone for d in o.depth], strict=True):
            torch.testing.assert_close(depth, reference, atol=1e-5, rtol=1e-5)

    def test_each_loss_is_the_mean_over_clips(self, model, outputs):
        targets = targets_of(CLIPS)
        inputs = tiny_inputs(CLIPS)
        totals = {}
        for clip in range(3):
            only = [target if i == clip else None for i, target in enumerate(targets)]
            with torch.no_grad():
                output = model(**inputs, geometry_targets=only)
            for name in ("camera_loss", "depth_loss", "scale_loss", "alignment_loss"):
                totals[name] = totals.get(name, 0) + output[name] / 3
        for name, total in totals.items():
            torch.testing.assert_close(outputs[name], total, atol=1e-5, rtol=1e-5)

    def test_loss_is_the_weighted_sum_of_its_parts(self, model, outputs):
        config = model.config
        total = sum(
            getattr(config, f"{name}_loss_weight") * outputs[f"{name}_loss"]
            for name in ("lm", "camera", "depth", "scale", "alignment")
        )
        torch.testing.assert_close(outputs.loss, total)

    def test_counts_of_a_larger_batch_rescale_each_loss(self, model, outputs):
        inputs = tiny_inputs(CLIPS, answers=ANSWERS)
        supervised = int((inputs["labels"] != -100).sum())
        with torch.no_grad():
            scaled = model(
                **inputs,
                geometry_targets=targets_of(CLIPS),
                num_items_in_batch=torch.tensor(2 * supervised),
                num_clips_in_batch=dict.fromkeys(("camera", "depth", "scale", "alignment"), torch.tensor(6)),
            )
        for name in ("lm_loss", "camera_loss", "depth_loss", "scale_loss", "alignment_loss", "rotation_loss"):
            torch.testing.assert_close(scaled[name], outputs[name] / 2)


def test_missing_targets_leave_their_objective_out(model):
    inputs = tiny_inputs(CLIPS[:1], answers=ANSWERS[:1])
    target = random_targets(3)
    outputs = model(**inputs, geometry_targets=[GeometryTargets(depth=target.depth)])
    assert outputs.camera_loss is None and outputs.scale_loss is None and outputs.alignment_loss is None
    torch.testing.assert_close(outputs.loss, outputs.lm_loss + outputs.depth_loss)


def test_every_head_stays_in_the_graph_when_no_clip_has_targets():
    model = tiny_model().train()
    model(**tiny_inputs([[]], answers=ANSWERS[:1]), geometry_targets=[]).loss.backward()
    heads = {n: p.grad for n, p in model.named_parameters() if "head" in n and "lm_head" not in n}
    assert heads and all(grad is not None and not grad.any() for grad in heads.values())


def test_unmeasured_depth_changes_nothing(model):
    inputs = tiny_inputs(CLIPS[:1])
    target = random_targets(3)
    target.depth_confidence[:, :20] = 0
    changed = GeometryTargets(
        depth=torch.where(target.depth_confidence > 0, target.depth, torch.tensor(1e6)),
        depth_confidence=target.depth_confidence,
    )
    losses = [
        model(**inputs, geometry_targets=[GeometryTargets(depth=t.depth, depth_confidence=t.depth_confidence)]).loss
        for t in (target, changed)
    ]
    torch.testing.assert_close(*losses)


def test_training_reaches_every_parameter():
    model = tiny_model().train()
    model(**tiny_inputs(CLIPS, answers=ANSWERS), geometry_targets=targets_of(CLIPS)).loss.backward()
    unmoved = [name for name, parameter in model.named_parameters() if not parameter.grad.any()]
    assert unmoved == []


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(use_reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model().train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
            model.enable_input_require_grads()
        model(**tiny_inputs(CLIPS, answers=ANSWERS), geometry_targets=targets_of(CLIPS)).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_only_the_needed_hidden_states_are_kept(model):
    kept = []
    hook = model.model.register_forward_hook(lambda module, args, output: kept.append(output.hidden_states))
    try:
        model(**tiny_inputs(CLIPS), output_geometry=True)
    finally:
        hook.remove()
    needed = {*model.config.depth_state_indices, *model.config.alignment_state_indices} - {4}
    assert {i for i, state in enumerate(kept[0]) if state is not None} == needed


def test_hidden_states_are_returned_when_asked_for(model):
    inputs = tiny_inputs(CLIPS[:1])
    everything = model(**inputs, output_geometry=True, output_hidden_states=True).hidden_states
    assert all(state is not None for state in everything) and len(everything) == 5
    assert model(**inputs, output_geometry=True).hidden_states is None


class TestLogits:
    def test_a_loss_keeps_none_unless_asked(self, model):
        inputs = tiny_inputs(CLIPS, answers=ANSWERS)
        outputs, everywhere = model(**inputs), model(**inputs, logits_to_keep=0)
        assert outputs.logits is None
        labels = torch.nn.functional.pad(inputs["labels"][:, 1:], (0, 1), value=-100)
        expected = torch.nn.functional.cross_entropy(everywhere.logits.flatten(0, 1), labels.flatten())
        torch.testing.assert_close(outputs.lm_loss, expected)
        torch.testing.assert_close(outputs.loss, everywhere.loss)

    def test_none_for_geometry_alone(self, model):
        assert model(**tiny_inputs(CLIPS), geometry_targets=targets_of(CLIPS)).logits is None

    def test_loss_is_the_plain_model_s(self, model, plain):
        inputs = tiny_inputs(CLIPS, geometry_tokens=False, answers=ANSWERS)
        torch.testing.assert_close(model(**inputs).loss, plain(**inputs).loss)

    def test_a_batch_without_supervision_costs_nothing(self, model):
        inputs = tiny_inputs(CLIPS, answers=ANSWERS)
        inputs["labels"].fill_(-100)
        assert model(**inputs).loss == 0


class TestPlainBackbone:
    """A GeoVR checkpoint opened with plain Qwen3-VL, and the other way round."""

    @pytest.mark.parametrize("rows", [[[]], CLIPS[:1], CLIPS], ids=["text", "video", "mixed"])
    def test_same_logits(self, model, plain, rows):
        inputs = tiny_inputs(rows, geometry_tokens=False)
        with torch.no_grad():
            assert torch.equal(model(**inputs).logits, plain(**inputs).logits)

    def test_same_logits_on_images(self, model, plain):
        picture = random_frames(1)[0].permute(2, 0, 1)
        inputs = tiny_inputs([CLIPS[0], []], geometry_tokens=False, images=[[], [picture]])
        with torch.no_grad():
            assert torch.equal(model(**inputs).logits, plain(**inputs).logits)

    @pytest.mark.parametrize(
        "arguments",
        [
            {"do_sample": False},
            {"do_sample": True, "top_k": 20},
            {"num_beams": 3},
            {"num_beams": 2, "do_sample": True},
            {"use_cache": False},
            {"cache_implementation": "static"},
        ],
        ids=["greedy", "sampling", "beam", "beam-sampling", "no-cache", "static-cache"],
    )
    def test_same_generation(self, model, plain, arguments):
        inputs = tiny_inputs([CLIPS[0], CLIPS[1], []], geometry_tokens=False, padding_side="left")
        answers = []
        for each in (model, plain):
            set_seed(3)
            answers.append(each.generate(**inputs, max_new_tokens=6, eos_token_id=None, pad_token_id=0, **arguments))
        assert torch.equal(*answers)

    def test_plain_checkpoint_gets_fresh_heads_and_says_which(self, plain, tmp_path, caplog):
        plain.save_pretrained(tmp_path)
        # Plain Qwen3-VL checkpoints say nothing of geometry.
        config = GeoVRConfig.from_pretrained(tmp_path, **tiny_geometry())
        model, info = GeoVRForConditionalGeneration.from_pretrained(tmp_path, config=config, output_loading_info=True)
        assert model.config.model_type == "geovr"
        fresh = {name.split(".")[0] for name in info["missing_keys"] if name != "model.geometry_tokens.weight"}
        assert fresh == {"camera_head", "depth_head", "scale_head", "alignment_heads"}
        assert "model.geometry_tokens.weight" in info["missing_keys"] and not info["unexpected_keys"]
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
        outputs = model.eval()(**tiny_inputs(CLIPS), output_geometry=True)
        assert all(torch.isfinite(depth).all() for depth in outputs.depth)


@pytest.mark.parametrize("loaded", [False, True])
def test_fresh_heads_start_where_they_can_learn(plain, tmp_path, loaded):
    """Cameras at the world's, with a field of view that has a gradient; layers that keep the size of what they get."""
    config = tiny_config()
    if loaded:
        plain.save_pretrained(tmp_path)
        model = GeoVRForConditionalGeneration.from_pretrained(tmp_path, config=config)
    else:
        model = GeoVRForConditionalGeneration(config)
    head = model.camera_head
    assert head.rotation.bias.tolist() == [0, 0, 0, 1] and head.field_of_view.bias.tolist() == [1, 1]
    layers = [head.fc1, model.scale_head.fc1, model.alignment_heads[0].fc1]
    for weight in (layer.weight.detach() for layer in [*layers, *model.depth_head.projects]):
        assert weight.std().item() == pytest.approx(weight[0].numel() ** -0.5, rel=0.2)
    outputs = model.eval()(**tiny_inputs(CLIPS), output_geometry=True)
    assert all(value.log().abs().mean() < 0.3 for value in (*outputs.depth, *outputs.metric_scale))  # near one unit


def tiny_geometry() -> dict:
    config = tiny_config()
    names = ("camera_hidden_size", "scale_hidden_size", "depth_hidden_sizes", "depth_fusion_size")
    names += (
        "teacher_hidden_size",
        "teacher_patch_size",
        "camera_first_token_id",
        "camera_token_id",
        "scale_token_id",
    )
    return {name: getattr(config, name) for name in names}


class TestGeometryTokens:
    def test_text_behind_a_clip_sits_where_it_would_without_them(self, model):
        inputs = tiny_inputs(CLIPS)
        positions, deltas = model.model.get_rope_index(
            **{k: inputs[k] for k in ("input_ids", "mm_token_type_ids", "video_grid_thw", "attention_mask")}
        )
        rows = model.model.geometry_token_rows(inputs["input_ids"])
        for row in range(len(CLIPS)):
            attended = inputs["attention_mask"][row].bool()
            others = attended & (rows[row] < 0)
            stripped = {
                "input_ids": inputs["input_ids"][row][others][None],
                "mm_token_type_ids": inputs["mm_token_type_ids"][row][others][None],
            }
            first = sum(len(r) for r in CLIPS[:row])
            grids = inputs["video_grid_thw"][first : first + len(CLIPS[row])]
            expected, _ = model.model.get_rope_index(**stripped, video_grid_thw=grids if len(grids) else None)
            assert torch.equal(positions[:, row, others], expected[:, 0])
            assert positions[:, row, attended].max() + 1 == attended.sum() + deltas[row]

    @pytest.mark.parametrize("arguments", [{}, {"num_beams": 2}])
    def test_generation_behind_them_is_the_same_with_and_without_a_cache(self, model, arguments):
        inputs = tiny_inputs(CLIPS[:2], padding_side="left")
        answers = [
            model.generate(
                **inputs, max_new_tokens=6, use_cache=use_cache, do_sample=False, eos_token_id=None, **arguments
            )
            for use_cache in (True, False)
        ]
        assert torch.equal(*answers)

    def test_generation_continues_from_a_cache(self, model):
        inputs = tiny_inputs(CLIPS[:1])
        arguments = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        whole = model.generate(**inputs, max_new_tokens=8, **arguments)
        first = model.generate(**inputs, max_new_tokens=4, return_dict_in_generate=True, **arguments)
        grown = first.sequences.shape[1]
        rest = model.generate(
            input_ids=first.sequences,
            attention_mask=torch.ones_like(first.sequences),
            past_key_values=first.past_key_values,
            max_new_tokens=4,
            **arguments,
        )
        assert torch.equal(rest[:, grown:], whole[:, grown:])

    def test_outside_a_clip_they_are_ordinary_tokens(self, model, plain):
        ids = torch.tensor([[5, model.config.camera_token_id, 7, model.config.scale_token_id]])
        with torch.no_grad():
            assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)


class TestPredictGeometry:
    def test_is_metric_and_in_the_first_camera_s_frame(self, model):
        raw = model(**tiny_inputs(CLIPS), output_geometry=True)
        for clip, geometry in enumerate(model.predict_geometry(**tiny_inputs(CLIPS))):
            torch.testing.assert_close(geometry.depth, raw.depth[clip] * raw.metric_scale[clip])
            torch.testing.assert_close(geometry.cam_from_world[0], torch.eye(4)[:3], atol=1e-5, rtol=0)
            # The first camera's frame is the world's: its points' z is its depth.
            torch.testing.assert_close(geometry.points[0, ..., 2], geometry.depth[0], atol=1e-4, rtol=1e-4)
            assert geometry.intrinsics.shape == (len(raw.pose_enc[clip]), 3, 3)

    def test_leaves_the_training_mode_alone(self):
        model = tiny_model().train()
        model.predict_geometry(**tiny_inputs(CLIPS[:1]))
        assert model.training

    def test_is_the_processor_s_reading_of_the_output(self, model):
        inputs = tiny_inputs(CLIPS[:1])
        geometry = tiny_processor().post_process_geometry(model(**inputs, output_geometry=True))[0]
        torch.testing.assert_close(geometry.points, model.predict_geometry(**inputs)[0].points)

    def test_of_a_batch_without_clips_is_empty(self, model):
        inputs = tiny_inputs([[]])
        assert model.predict_geometry(**inputs) == []
        outputs = model(**inputs, output_geometry=True)
        assert tiny_processor().post_process_geometry(outputs) == []
        assert tiny_processor().post_process_geometry(outputs, target_sizes=[]) == []

    def test_post_processing_of_a_model_that_lacks_objectives_says_so(self):
        outputs = tiny_model(objectives=["depth"])(**tiny_inputs([[]]), output_geometry=True)
        with pytest.raises(ValueError, match="no cameras"):
            tiny_processor().post_process_geometry(outputs)

    def test_post_processing_resizes_depth_and_intrinsics(self, model):
        inputs = tiny_inputs(CLIPS[:1])
        outputs = model(**inputs, output_geometry=True)
        small, large = (
            tiny_processor().post_process_geometry(outputs, target_sizes=[size])[0] for size in [(64, 96), (128, 192)]
        )
        assert large.depth.shape == (3, 128, 192) and large.points.shape == (3, 128, 192, 3)
        torch.testing.assert_close(large.intrinsics[:, :2], 2 * small.intrinsics[:, :2])


def test_bfloat16_stays_near_float32(model):
    half = copy.deepcopy(model).bfloat16()
    inputs = tiny_inputs(CLIPS, answers=ANSWERS)
    exact, rough = (m(**inputs, geometry_targets=targets_of(CLIPS), output_geometry=True) for m in (model, half))
    assert rough.loss.dtype == torch.float32 and torch.isfinite(rough.loss)
    assert abs(rough.loss - exact.loss) < 0.02 * exact.loss
    for depth, reference in zip(rough.depth, exact.depth, strict=True):
        torch.testing.assert_close(depth, reference, atol=0.1, rtol=0.1)


def test_objectives_can_be_left_out():
    model = tiny_model(objectives=["depth"])
    assert not hasattr(model, "camera_head") and not hasattr(model, "alignment_heads")
    outputs = model(**tiny_inputs(CLIPS[:1], answers=ANSWERS[:1]), geometry_targets=[random_targets(3)])
    assert outputs.depth_loss is not None and outputs.camera_loss is None
    with pytest.raises(ValueError, match="lacks"):
        model.predict_geometry(**tiny_inputs(CLIPS[:1]))


def test_silog_is_an_option():
    model = tiny_model(depth_loss_type="silog")
    outputs = model(**tiny_inputs(CLIPS[:1]), geometry_targets=[random_targets(3)])
    assert outputs.depth_loss > 0 and outputs.depth_gradient_loss is None


class TestBadInput:
    @pytest.mark.parametrize("base", ["geovr", "plain"])
    @pytest.mark.parametrize(
        "fields, message",
        [
            ({"objectives": ["camera", "depht", "scale"]}, "depht"),
            ({"objectives": ["camera", "camera"]}, "distinct"),
            ({"depth_loss_type": "L1"}, "depth_loss_type"),
            ({"camera_loss_weight": -1.0}, "camera_loss_weight"),
        ],
    )
    def test_fields_that_loading_sets_are_checked(self, model, plain, base, fields, message, tmp_path):
        (model if base == "geovr" else plain).save_pretrained(tmp_path)
        with pytest.raises(Exception, match=message):
            GeoVRForConditionalGeneration.from_pretrained(tmp_path, **fields)

    def test_targets_of_another_number_of_clips(self, model):
        with pytest.raises(ValueError, match="2 entries for 1 clips"):
            model(**tiny_inputs(CLIPS[:1]), geometry_targets=[None, None])

    def test_targets_of_another_length(self, model):
        with pytest.raises(ValueError, match="clip 0 have 2 frames, but its tokens have 3"):
            model(**tiny_inputs(CLIPS[:1]), geometry_targets=[random_targets(2)])

    def test_depth_that_no_head_can_emit(self, model):
        target = random_targets(3)
        target.depth = target.depth[:, :50]
        target.depth_confidence = None
        with pytest.raises(ValueError, match="multiples of 32"):
            model(**tiny_inputs(CLIPS[:1]), geometry_targets=[target])

    def test_features_of_another_teacher(self, model):
        target = random_targets(3)
        target.features = [f[..., :5] for f in target.features]
        with pytest.raises(ValueError, match=r"4 layers of \[5\] channels"):
            model(**tiny_inputs(CLIPS[:1]), geometry_targets=[target])

    def test_a_clip_without_geometry_tokens(self, model):
        with pytest.raises(ValueError, match="geometry_tokens=True"):
            model(**tiny_inputs([[random_frames(4)]], geometry_tokens=False), output_geometry=True)

    def test_embeddings_instead_of_ids(self, model):
        embeddings = model.get_input_embeddings()(torch.tensor([[1, 2]]))
        with pytest.raises(ValueError, match="input_ids"):
            model(inputs_embeds=embeddings, output_geometry=True)

    def test_a_grid_that_does_not_match_the_tokens(self, model):
        inputs = tiny_inputs(CLIPS[:1])
        mask = inputs["input_ids"] == model.config.video_token_id
        inputs["input_ids"][0, mask[0].nonzero()[-1]] = 5
        with pytest.raises(ValueError, match="do not match|announces"):
            model(**inputs, output_geometry=True)


def test_resizing_keeps_the_geometry_tokens(tmp_path):
    model = tiny_model()
    smallest = max(model.config.geometry_token_ids) + 1
    with pytest.raises(ValueError, match=f"at least {smallest} must remain"):
        model.resize_token_embeddings(smallest - 1)
    assert model.config.text_config.vocab_size == len(model.get_input_embeddings().weight) >= smallest
    model.resize_token_embeddings(smallest - 1, pad_to_multiple_of=64)
    model.resize_token_embeddings(smallest)
    model.save_pretrained(tmp_path)
    assert len(GeoVRForConditionalGeneration.from_pretrained(tmp_path).lm_head.weight) == smallest


def test_a_model_that_was_used_can_be_pickled(tmp_path):
    model = tiny_model().train()
    inputs = tiny_inputs(CLIPS)
    model(**inputs, geometry_targets=targets_of(CLIPS)).loss.backward()
    model.eval()
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    expected = tiny_model().predict_geometry(**inputs)
    for found in (again, model, copy.deepcopy(again)):
        for geometry, reference in zip(found.predict_geometry(**inputs), expected, strict=True):
            torch.testing.assert_close(geometry.points, reference.points)


def test_texts_used_here_fit_the_tokenizer():
    tokenizer = tiny_processor().tokenizer
    assert all(tokenizer.decode(tokenizer(text)["input_ids"]) == text for text in TEXTS)
