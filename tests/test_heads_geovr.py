"""The heads: shapes, precision, memory options, names."""

import pytest
import torch
from parity import load_tensors
from torch import nn

from geovr_hf.conversion_names import from_published_name, to_published_name
from geovr_hf.modeling.configuration_geovr import map_teacher_layers
from geovr_hf.modeling.dense_decoder_geovr import HalvingConv2d, position_embedding
from geovr_hf.modeling.depth_head_geovr import DepthHead
from geovr_hf.modeling.heads_geovr import (
    AlignmentHead,
    CameraHead,
    ScaleHead,
    pool_feature_grid,
    resize_feature_grid,
)


HIDDEN = 16
IMAGE_SIZE, TARGET_SIZE = (64, 96), (56, 84)


def depth_head(**options):
    torch.manual_seed(0)
    return DepthHead(HIDDEN, (8, 8, 12, 12), 8, **options)


def depth_states(frames=5, requires_grad=False):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(frames, 2, 3, HIDDEN, generator=generator).requires_grad_(requires_grad) for _ in range(4)]


def all_heads():
    return nn.ModuleDict(
        {
            "camera_head": CameraHead(HIDDEN, 24),
            "scale_head": ScaleHead(HIDDEN, 24),
            "depth_head": depth_head(),
            "alignment_heads": nn.ModuleList(AlignmentHead(HIDDEN, 12) for _ in range(4)),
        }
    )


def test_heads_hold_only_modules_that_transformers_initialises():
    kinds = (nn.Linear, nn.LayerNorm, nn.Conv2d, nn.ConvTranspose2d)
    for module in all_heads().modules():
        assert isinstance(module, kinds) or not list(module.parameters(recurse=False))
        assert not list(module.buffers(recurse=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_answer_in_float32(dtype):
    heads = all_heads().to(dtype)
    tokens = torch.randn(3, HIDDEN, dtype=dtype)
    states = [state.to(dtype) for state in depth_states(3)]
    camera, scale = heads["camera_head"](tokens), heads["scale_head"](tokens)
    depth = heads["depth_head"](states, IMAGE_SIZE, TARGET_SIZE)
    aligned = heads["alignment_heads"][0](states[0], (4, 5))
    assert {x.dtype for x in (camera, scale, depth, aligned)} == {torch.float32}
    assert camera.shape == (3, 9)
    assert scale.shape == (3,)
    assert depth.shape == (3, *TARGET_SIZE)
    assert aligned.shape == (3, 4, 5, 12)
    assert (camera[:, 7:] >= 0).all()
    assert (scale > 0).all()
    assert (depth > 0).all()


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_on_a_cpu_has_finite_gradients_in_one_column(autocast):
    head = depth_head()
    if not autocast:
        head.bfloat16()
    for seed in range(30):
        torch.manual_seed(seed)
        states = [torch.randn(2, 3, 1, HIDDEN, requires_grad=True) for _ in range(4)]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            depth = head(states, (3 * 32, 32), (3 * 28, 28))
        gradients = torch.autograd.grad(depth.sum(), [*states, *head.parameters()])
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_the_halving_convolution_is_the_ordinary_one():
    ours = HalvingConv2d(8, 8, 3, stride=2, padding=1)
    plain = nn.Conv2d(8, 8, 3, stride=2, padding=1)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8, 5, 4)
    assert torch.equal(ours(x), plain(x))
    assert ours.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_heads_run_on_the_meta_device():
    with torch.device("meta"):
        head = depth_head()
        states = [torch.empty(3, 2, 3, HIDDEN) for _ in range(4)]
    assert head(states, IMAGE_SIZE, TARGET_SIZE).shape == (3, *TARGET_SIZE)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_frames_in_chunks_give_the_same_depth_and_gradients(chunk, checkpointing):
    def run(head):
        states = depth_states(requires_grad=True)
        depth = head(states, IMAGE_SIZE, TARGET_SIZE)
        weighting = torch.linspace(-1, 1, depth.numel()).reshape(depth.shape)
        return depth, torch.autograd.grad((depth * weighting).sum(), [*states, *head.parameters()])

    head = depth_head(frames_chunk_size=chunk)
    head.gradient_checkpointing = checkpointing
    depth, gradients = run(head)
    expected_depth, expected_gradients = run(depth_head())
    torch.testing.assert_close(depth, expected_depth)
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-4, rtol=1e-4)


def test_checkpointed_chunks_keep_only_their_inputs_for_the_backward_pass():
    def saved_elements(head):
        # Storage of parameters is alive anyway; what counts is what the graph holds beside it.
        own = {parameter.untyped_storage().data_ptr() for parameter in head.parameters()}
        saved = {}

        def pack(tensor):
            if (key := tensor.untyped_storage().data_ptr()) not in own:
                saved[key] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            head(depth_states(requires_grad=True), IMAGE_SIZE, TARGET_SIZE)
        return sum(saved.values())

    plain, lean = depth_head(), depth_head(frames_chunk_size=1)
    lean.gradient_checkpointing = True
    assert saved_elements(lean) < saved_elements(plain) / 20


def test_frames_do_not_see_each_other():
    head, states = depth_head(), depth_states()
    together = head(states, IMAGE_SIZE, TARGET_SIZE)
    alone = head([state[2:3] for state in states], IMAGE_SIZE, TARGET_SIZE)
    torch.testing.assert_close(alone[0], together[2])


def test_depth_maps_may_have_another_grid_than_the_tokens():
    depth = depth_head(tile=32)(depth_states(), IMAGE_SIZE, (96, 160))
    assert depth.shape == (5, 96, 160)


def test_position_embedding_spans_the_image_with_a_unit_half_diagonal():
    embedding = position_embedding(8, (30, 40), aspect=4 / 3)
    # Channel 0 is the sine of x itself, channel 4 that of y; cells are sampled at their centres.
    x, y = embedding[0].asin(), embedding[4].asin()
    torch.testing.assert_close(x[0], torch.linspace(-0.8 * 39 / 40, 0.8 * 39 / 40, 40))
    torch.testing.assert_close(y[:, 0], torch.linspace(-0.6 * 29 / 30, 0.6 * 29 / 30, 30))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"states": depth_states()[:3]}, "`states` must be four"),
        ({"states": [*depth_states()[:3], depth_states(4)[0]]}, "`states` must be four"),
        ({"image_size": (96, 64)}, "`image_size` must be 32 times"),
        ({"target_size": (56, 85)}, "`target_size` must be multiples of 28"),
        ({"target_size": (0, 84)}, "`target_size` must be multiples of 28"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    arguments = {"states": depth_states(), "image_size": IMAGE_SIZE, "target_size": TARGET_SIZE, **change}
    with pytest.raises(ValueError, match=message):
        depth_head()(**arguments)


@pytest.mark.parametrize("sizes", [((8, 8, 8), 8, 28), ((8, 8, 8, 6), 8, 28), ((8,) * 4, 10, 28), ((8,) * 4, 8, 30)])
def test_channels_that_cannot_hold_the_position_embedding_are_refused(sizes):
    out_channels, fusion_size, tile = sizes
    with pytest.raises(ValueError, match="multiples of 4"):
        DepthHead(HIDDEN, out_channels, fusion_size, tile=tile)


def test_pooling_averages_windows_and_drops_the_odd_rest():
    features = torch.arange(2 * 5 * 7, dtype=torch.float32).reshape(1, 5, 7, 2)
    pooled = pool_feature_grid(features, 2)
    assert pooled.shape == (1, 2, 3, 2)
    torch.testing.assert_close(pooled[0, 0, 0], features[0, :2, :2].mean((0, 1)))


def test_resizing_to_the_same_grid_returns_the_features():
    features = torch.randn(1, 5, 7, 2)
    assert resize_feature_grid(features, (5, 7)) is features


@pytest.mark.parametrize(
    "call",
    [
        lambda: pool_feature_grid(torch.zeros(1, 1, 4, 2), 2),
        lambda: pool_feature_grid(torch.zeros(4, 4, 2), 2),
        lambda: resize_feature_grid(torch.zeros(4, 4, 2), (2, 2)),
    ],
)
def test_feature_grids_of_a_wrong_shape_are_refused(call):
    with pytest.raises(ValueError, match="`features` must have shape"):
        call()


def test_a_layer_that_the_teacher_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"must lie in \[0, 24\), got \[24\]"):
        map_teacher_layers([4, 24], 24, 28)


def test_published_names_and_ours_map_onto_each_other():
    published = {name.removeprefix("weights/") for name in load_tensors("geovr_losses") if name.startswith("weights/")}
    ours = set(all_heads().state_dict())
    assert {from_published_name(name) for name in published} == ours
    assert {to_published_name(name) for name in ours} == published


def test_names_outside_the_heads_are_left_alone():
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert to_published_name(name) == from_published_name(name) == name
