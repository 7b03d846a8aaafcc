"""What storing costs: each format's error has a bound, sizes are the documented ones, and nothing else changes."""

from dataclasses import replace

import pytest
import torch
from targets_support import TILE, assert_same_targets, realistic_targets, spec

from geovr_hf import GeometryTargets
from geovr_hf.data.sampling import FrameSampling
from geovr_hf.modeling.heads_geovr import pool_feature_grid
from geovr_hf.modeling.losses_geovr import alignment_loss, depth_loss
from geovr_hf.targets import PRESETS, TargetFolder, TargetFormat, TargetWriter, decode_targets, encode_targets
from geovr_hf.targets.manifest import Manifest
from geovr_hf.targets.quantization import GROUP_SIZES


def stored(targets, target_format=None, teacher=None, **formats):
    return decode_targets(*encode_targets(targets, target_format or TargetFormat(**formats), teacher or spec()))


def only_features(values):
    return GeometryTargets(features=[values], features_pooled=True)


def only_depth(depth, confidence=None):
    return GeometryTargets(depth=depth, depth_confidence=confidence)


class TestFeatures:
    @pytest.mark.parametrize("channels", [1024, 200, 64, 48, 33, 1])
    @pytest.mark.parametrize(("kind", "steps"), [("int8", 127), ("int4", 7)])
    def test_integers_are_off_by_at_most_half_a_step_of_their_group(self, kind, steps, channels):
        values = realistic_targets(channels=channels, grid=(2, 3), layers=1).features[0]
        read = stored(only_features(values), features=kind).features[0].float()
        size = min(GROUP_SIZES[kind], channels)
        for first in range(0, channels, size):
            group, back = values[..., first : first + size], read[..., first : first + size]
            largest = group.abs().amax(-1, keepdim=True)
            # 1 % for the scale's rounding; one more rounding, to bfloat16, of the value itself
            bound = 0.5 * 1.01 * largest / steps + 2**-8 * largest
            assert ((group - back).abs() <= bound).all()

    @pytest.mark.parametrize("channels", [1024, 48, 33])
    def test_eight_bit_floats_are_off_by_a_sixteenth_of_the_value(self, channels):
        values = realistic_targets(channels=channels, grid=(2, 3), layers=1).features[0]
        read = stored(only_features(values), features="float8").features[0].float()
        largest = values.abs().amax(-1, keepdim=True)
        assert ((values - read).abs() <= values.abs() / 15 + largest * 2**-18).all()

    @pytest.mark.parametrize(("kind", "error"), [("bfloat16", 2**-8), ("float16", 2**-11), ("float32", 0.0)])
    def test_plain_formats_are_off_by_their_rounding(self, kind, error):
        values = realistic_targets(grid=(2, 3), layers=1).features[0]
        read = stored(only_features(values), features=kind).features[0]
        assert read.dtype == getattr(torch, kind)
        assert ((values - read.float()).abs() <= error * values.abs() + 1e-7).all()

    @pytest.mark.parametrize("kind", ["int8", "int4", "float8"])
    def test_extreme_groups_neither_overflow_nor_vanish(self, kind):
        values = torch.zeros(1, 1, 4, 256)
        values[0, 0, 1, 7], values[0, 0, 2], values[0, 0, 3] = 3e38, 1e-30, -1.0
        read = stored(only_features(values), features=kind).features[0].float()
        assert torch.isfinite(read).all() and (read[0, 0, 0] == 0).all()
        torch.testing.assert_close(read[0, 0, 1, 7], values[0, 0, 1, 7], rtol=0.02, atol=0)
        torch.testing.assert_close(read[0, 0, 3], values[0, 0, 3], rtol=0.02, atol=0)

    def test_features_are_pooled_as_the_model_would_before_they_are_rounded(self):
        values = realistic_targets(grid=(4, 6), channels=64, layers=2).features
        read = stored(GeometryTargets(features=[v.bfloat16() for v in values]), features="float32")
        assert read.features_pooled
        for value, back in zip(values, read.features, strict=True):
            assert torch.equal(back, pool_feature_grid(value.bfloat16().float(), 2))

    def test_features_that_float16_cannot_hold_are_refused(self):
        values = torch.ones(1, 1, 1, 4)
        values[..., 2] = 70_000.0
        with pytest.raises(ValueError, match=r"reach 70000, float16 ends at 65504. Store them as bfloat16"):
            stored(only_features(values), features="float16")


class TestDepth:
    @pytest.mark.parametrize("scale", [1e-9, 1e-4, 1.0, 1e4, 1e6, 1e30])
    def test_half_precision_holds_depth_of_any_unit(self, scale):
        depth = realistic_targets().depth * scale
        read = stored(only_depth(depth)).depth.float()
        assert ((read - depth).abs() <= 2**-11 * depth).all()

    def test_ordinary_depth_stays_half_precision_on_reading(self):
        assert stored(only_depth(realistic_targets().depth)).depth.dtype == torch.float16

    def test_float32_depth_is_exact(self):
        depth = realistic_targets().depth
        assert torch.equal(stored(only_depth(depth), depth="float32").depth, depth)

    def test_what_was_not_measured_does_not_take_away_range(self):
        depth, confidence = torch.full((1, TILE, TILE), 1.5), torch.ones(1, TILE, TILE)
        depth[0, 0, 0], depth[0, 0, 1], confidence[0, 0, :2] = -1.0, 1e30, 0.0
        read = stored(only_depth(depth, confidence))
        assert (read.depth[confidence > 0] == 1.5).all() and (read.depth[confidence == 0] == 0).all()
        read.validate()

    def test_a_clip_without_any_measurement_can_be_stored(self):
        read = stored(only_depth(torch.zeros(1, TILE, TILE), torch.zeros(1, TILE, TILE)), PRESETS["8bit"])
        assert (read.depth == 0).all() and (read.depth_confidence == 0).all()

    @pytest.mark.parametrize(("tiles", "kept"), [((14, 18), (7, 9)), ((1, 3), (1, 2)), ((13, 1), (6, 1))])
    def test_smaller_maps_have_whole_tiles_and_picked_pixels(self, tiles, kept):
        height, width = tiles[0] * TILE, tiles[1] * TILE
        depth = torch.arange(1.0, 1 + height * width).reshape(1, height, width)
        confidence = depth + 0.5
        read = stored(only_depth(depth, confidence), depth="float32", confidence="float32", depth_scale=0.5)
        assert read.depth.shape == (1, kept[0] * TILE, kept[1] * TILE)
        assert torch.isin(read.depth, depth).all()
        assert torch.equal(read.depth_confidence, read.depth + 0.5)


class TestConfidence:
    @pytest.mark.parametrize("kind", ["float16", "float32", "uint4"])
    @pytest.mark.parametrize("width", [TILE, TILE + 1])
    def test_zero_stays_zero_and_nothing_else_becomes_it(self, kind, width):
        confidence = torch.rand(2, TILE, width) * 1e6
        confidence[:, ::3] = 0.0
        confidence[0, 1, 0] = 1e-12
        read = stored(only_depth(torch.ones_like(confidence), confidence), confidence=kind).depth_confidence
        assert torch.equal(read > 0, confidence > 0)
        assert torch.isfinite(read.float()).all()

    def test_four_bits_keep_the_order_of_pixels(self):
        confidence = realistic_targets().depth_confidence
        read = stored(only_depth(torch.ones_like(confidence), confidence), confidence="uint4").depth_confidence
        order = confidence.flatten().sort().indices
        assert (read.flatten()[order].float().diff() >= 0).all()
        assert len(read.unique()) == 15
        shares = torch.stack([(read == level).float().mean() for level in read.unique()])
        assert shares.min() > 0.03 and shares.max() < 0.13  # fifteenths, but for halves at the ends

    @pytest.mark.parametrize("values", [[1.0], [0.0, 1.0], [0.0, 0.5, 2.0, 7.0]])
    def test_four_bits_hold_few_values_exactly(self, values):
        confidence = torch.tensor(values).repeat(TILE).repeat(1, TILE, 1)
        read = stored(only_depth(torch.ones_like(confidence), confidence), confidence="uint4").depth_confidence
        assert torch.equal(read.float(), confidence)


class TestFields:
    @pytest.mark.parametrize("name", ["full", "8bit", "compact"])
    def test_cameras_and_scale_are_exact(self, name):
        targets = realistic_targets(grid=(2, 2), channels=64)
        read = stored(targets, PRESETS[name])
        assert torch.equal(read.pose_enc, targets.pose_enc)
        assert torch.equal(read.metric_scale, targets.metric_scale)

    @pytest.mark.parametrize("name", ["pose_enc", "depth", "depth_confidence", "metric_scale", "features"])
    @pytest.mark.parametrize("preset", ["full", "8bit", "compact"])
    def test_a_field_that_the_teacher_lacks_stays_absent(self, name, preset):
        targets = realistic_targets(grid=(2, 2), channels=48, layers=2)
        without = {name: None} | ({"depth_confidence": None} if name == "depth" else {})
        read = stored(replace(targets, **without), PRESETS[preset])
        lacking = {field for field in vars(targets) if getattr(read, field) is None}
        assert lacking == set(without)

    def test_targets_that_are_not_sound_are_not_stored(self):
        depth = torch.ones(1, TILE, TILE)
        depth[0, 3, 3] = torch.nan
        with pytest.raises(ValueError, match="`depth` of kitchen.mp4 holds NaN"):
            encode_targets(only_depth(depth), TargetFormat(), spec(), "kitchen.mp4")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"features": "int2"}, "`features` must be stored as one of bfloat16, .*, int4, got 'int2'"),
            ({"depth": "uint16"}, "`depth` must be stored as one of float16, float32, got 'uint16'"),
            ({"confidence": "bool"}, "`confidence` must be stored as one of float16, float32, uint4"),
            ({"depth_scale": 2.0}, "`depth_scale` must be above 0 and at most 1, got 2.0"),
        ],
    )
    def test_a_format_that_does_not_exist_is_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            TargetFormat(**options)

    def test_an_unknown_preset_is_refused(self):
        with pytest.raises(ValueError, match="No preset 'small' of target formats: there are full, 8bit, compact"):
            TargetFormat.preset("small")


def student_of(features, seed=1, noise=1.0):
    """What a student half way might predict: the features in noise of their own channels' size."""
    generator = torch.Generator().manual_seed(seed)
    size = features.std((0, 1, 2), keepdim=True)
    return features + noise * size * torch.randn(features.shape, generator=generator)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["full", "8bit", "compact"])
def test_a_gpu_encodes_as_the_cpu_does(name):
    targets = replace(realistic_targets(grid=(4, 6), channels=200), features_pooled=False)
    here, there = stored(targets, PRESETS[name]), stored(targets.to("cuda"), PRESETS[name])
    assert_same_targets(there, here, rtol=1e-2, atol=1e-2)


class TestDocumentedCosts:
    """Of 32 frames, four layers of 14 x 18 features with 1024 channels and depth of 392 x 504 pixels."""

    @pytest.mark.parametrize(("name", "limit"), [("full", 95e6), ("8bit", 50e6), ("compact", 25e6)])
    def test_files_of_the_presets_are_as_small_as_documented(self, tmp_path, name, limit):
        sizes = []
        teacher = type("Teacher", (), {"spec": spec(layers=4, channels=1024), "fingerprint": "t"})()
        for frames in (1, 2):
            folder = tmp_path / str(frames)
            writer = TargetWriter(folder, Manifest.of(teacher, FrameSampling(), PRESETS[name]))
            bare = torch.zeros(frames, 8, 8, 3, dtype=torch.uint8)
            sizes.append(writer.write(bare, realistic_targets(frames=frames)).stat().st_size)
            assert len(TargetFolder(folder)) == 1
        # All but the header is in proportion to the frames.
        per_frame = sizes[1] - sizes[0]
        assert sizes[1] + 30 * per_frame <= limit

    @pytest.mark.parametrize(("name", "limit"), [("full", 1e-4), ("8bit", 1e-3)])
    def test_the_alignment_loss_hardly_changes(self, name, limit):
        targets = realistic_targets()
        read = stored(targets, PRESETS[name])
        for true, back in zip(targets.features, read.features, strict=True):
            for noise in (0.1, 1.0, 5.0):
                student = student_of(true, noise=noise)
                assert abs(alignment_loss(student, back) - alignment_loss(student, true)) < limit

    def test_the_compact_preset_changes_the_alignment_loss_as_stated(self):
        targets = realistic_targets()
        read = stored(targets, PRESETS["compact"])
        for true, back in zip(targets.features, read.features, strict=True):
            student = student_of(true)
            assert abs(alignment_loss(student, back) - alignment_loss(student, true)) < 0.01

    @pytest.mark.parametrize("name", ["full", "8bit"])
    @pytest.mark.parametrize("error", [0.02, 0.3])
    def test_the_depth_loss_changes_by_less_than_a_thousandth(self, name, error):
        targets = realistic_targets()
        read = stored(targets, PRESETS[name])
        generator = torch.Generator().manual_seed(2)
        prediction = targets.depth * (1 + error * torch.randn(targets.depth.shape, generator=generator))
        true = depth_loss(prediction, targets.depth, targets.depth_confidence).total
        back = depth_loss(prediction, read.depth, read.depth_confidence).total
        assert abs(back - true) < 1e-3 * true
