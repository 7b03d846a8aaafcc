"""The four geometric objectives: what each head reads, and how its prediction is held against a teacher."""

import math
from collections.abc import Callable

import torch
from torch import nn

from .clip_layout_geovr import ClipLayout
from .configuration_geovr import GeoVRConfig
from .depth_head_geovr import DepthHead
from .heads_geovr import AlignmentHead, CameraHead, ScaleHead, pool_feature_grid
from .losses_geovr import alignment_distance, camera_loss, depth_loss, scale_loss, silog_loss
from .targets_geovr import GeometryTargets


def build_heads(config: GeoVRConfig) -> dict[str, nn.Module]:
    """Make the heads of the configured objectives.

    Args:
        config (`GeoVRConfig`): The configuration.

    Returns:
        `dict[str, nn.Module]`: By attribute name: `camera_head`, `depth_head`, `scale_head`, `alignment_heads`.
    """
    hidden_size = config.text_config.hidden_size
    vision = config.vision_config
    heads = {}
    if "camera" in config.objectives:
        heads["camera_head"] = CameraHead(hidden_size, config.camera_hidden_size)
    if "depth" in config.objectives:
        heads["depth_head"] = DepthHead(
            hidden_size,
            config.depth_hidden_sizes,
            config.depth_fusion_size,
            patch_size=vision.patch_size * vision.spatial_merge_size,
            tile=config.depth_tile,
            frames_chunk_size=config.depth_frames_chunk_size,
        )
    if "scale" in config.objectives:
        heads["scale_head"] = ScaleHead(hidden_size, config.scale_hidden_size)
    if "alignment" in config.objectives:
        heads["alignment_heads"] = nn.ModuleList(
            AlignmentHead(hidden_size, config.teacher_hidden_size) for _ in config.teacher_alignment_layers
        )
    return heads


def state_indices(config: GeoVRConfig) -> list[int]:
    """Entries of the hidden-state list that the configured heads read, besides the last one."""
    indices = set()
    if "depth" in config.objectives:
        indices.update(config.depth_state_indices)
    if "alignment" in config.objectives:
        indices.update(config.alignment_state_indices)
    return sorted(indices - {config.text_config.num_hidden_layers})


def check_targets(
    config: GeoVRConfig, layouts: list[ClipLayout], targets: list[GeometryTargets | None]
) -> list[GeometryTargets | None]:
    """Hold targets against the clips they are meant for. Only shapes are read, so nothing waits for the device.

    Args:
        config (`GeoVRConfig`): The configuration.
        layouts (`list[ClipLayout]`): The clips of the batch.
        targets (`list[GeometryTargets | None]`): Their targets, in the same order.

    Returns:
        `list[GeometryTargets | None]`: `targets`.

    Raises:
        TypeError: The targets are no list, or hold something else than [`GeometryTargets`] and `None`.
        ValueError: The targets are not as many as the clips, or a clip's targets have another number of frames, a
            depth size that the depth head cannot emit, or features of another layout than the configuration's.
    """
    listed = isinstance(targets, (list, tuple))
    # Not told by the class: a checkpoint that carries its code has another of the same name.
    if not listed or not all(target is None or hasattr(target, "validate_shapes") for target in targets):
        got = [type(target).__name__ for target in targets] if listed else type(targets).__name__
        raise TypeError(
            f"`geometry_targets` must be a list with a `GeometryTargets` or `None` for each clip, got {got}. A "
            "dictionary of fields becomes one by `GeometryTargets(**fields)`."
        )
    if len(targets) != len(layouts):
        raise ValueError(
            f"`geometry_targets` has {len(targets)} entries for {len(layouts)} clips. Give one per clip, in the order "
            "of `video_grid_thw`, and `None` for a clip without targets."
        )
    for clip, (layout, target) in enumerate(zip(layouts, targets, strict=True)):
        if target is None:
            continue
        target.validate_shapes(f"clip {clip}")
        if target.num_frames not in (None, layout.grid[0]):
            raise ValueError(
                f"The targets of clip {clip} have {target.num_frames} frames, but its tokens have {layout.grid[0]}. "
                "Process the clip with `geometry_tokens=True`, so that each frame is its own temporal patch."
            )
        if target.depth is not None and "depth" in config.objectives:
            height, width = target.depth.shape[-2:]
            if height % config.depth_tile or width % config.depth_tile:
                raise ValueError(
                    f"The depth targets of clip {clip} are {height} x {width} pixels; the depth head emits multiples "
                    f"of {config.depth_tile} (teacher_patch_size x teacher_pool_size). Resize them to the teacher's "
                    "image rule."
                )
        if target.features is not None and "alignment" in config.objectives:
            layers, channels = len(target.features), {f.shape[-1] for f in target.features}
            if layers != len(config.teacher_alignment_layers) or channels != {config.teacher_hidden_size}:
                raise ValueError(
                    f"The features of clip {clip} have {layers} layers of {sorted(channels)} channels; the "
                    f"configuration describes {len(config.teacher_alignment_layers)} layers of "
                    f"{config.teacher_hidden_size}. Train with a teacher of that layout, or configure this one's."
                )
    return targets


def patch_states(state: torch.Tensor, layouts: list[ClipLayout]) -> list[torch.Tensor]:
    """Cut the patches of clips out of a hidden state, all at once: each cut costs a gradient of the state's size.

    Args:
        state (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`): A hidden state.
        layouts (`list[ClipLayout]`): The clips.

    Returns:
        `list[torch.FloatTensor]`: Per clip `(frames, rows, columns, hidden_size)`.
    """
    positions = [layout.patches for layout in layouts]
    patches = state.flatten(0, 1).index_select(0, torch.cat(positions).to(state.device))
    clips = zip(patches.split([len(position) for position in positions]), layouts, strict=True)
    return [clip.unflatten(0, layout.grid) for clip, layout in clips]


def token_states(state: torch.Tensor, layouts: list[ClipLayout], kind: str) -> list[torch.Tensor]:
    """Cut the geometry tokens that an objective reads out of a hidden state.

    Args:
        state (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`): A hidden state.
        layouts (`list[ClipLayout]`): The clips.
        kind (`str`): `"cameras"` or `"scale"`.

    Returns:
        `list[torch.FloatTensor]`: Per clip `(frames, hidden_size)` or `(1, hidden_size)`.

    Raises:
        ValueError: A clip has no such tokens.
    """
    positions = [getattr(layout, kind) for layout in layouts]
    if any(position is None for position in positions):
        raise ValueError(
            f"A clip's frames are not closed by geometry tokens ({kind}). Process it with `geometry_tokens=True` and "
            "a processor whose geometry-token ids are the model configuration's."
        )
    lengths = [len(position) for position in positions]
    return list(state.flatten(0, 1).index_select(0, torch.cat(positions).to(state.device)).split(lengths))


def predict_depth(
    head: nn.Module,
    config: GeoVRConfig,
    states: list[torch.Tensor],
    grids: list[tuple[int, int, int]],
    sizes: list[tuple[int, int] | None],
) -> tuple[torch.Tensor, ...]:
    """Run the depth head on clips, in one call.

    Args:
        head (`DepthHead`): The head.
        config (`GeoVRConfig`): The configuration.
        states (`list[torch.FloatTensor]` of four shapes `(tokens, hidden_size)`): The clips' patches in four states.
        grids (`list[tuple[int, int, int]]`): Frames, rows and columns of visual tokens of each clip.
        sizes (`list[tuple[int, int] | None]`): Height and width of each map, by default one tile per visual token.

    Returns:
        `tuple[torch.FloatTensor]`: Per clip `(frames, height, width)`, depth in teacher units.
    """
    patch = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    image_sizes = [(rows * patch, columns * patch) for _, rows, columns in grids]
    target_sizes = [
        size or (rows * config.depth_tile, columns * config.depth_tile)
        for size, (_, rows, columns) in zip(sizes, grids, strict=True)
    ]
    num_frames = [frames for frames, _, _ in grids]
    shapes = [(frames, *size) for frames, size in zip(num_frames, target_sizes, strict=True)]
    pixels = head(torch.stack(states), image_sizes, target_sizes, num_frames)
    maps = pixels.split([math.prod(shape) for shape in shapes])
    return tuple(depth.view(shape) for depth, shape in zip(maps, shapes, strict=True))


def losses_by_shape(losses: Callable[..., dict], clips: list[tuple[torch.Tensor | None, ...]]) -> dict:
    """Losses of clips, computed once for all clips whose tensors have the same shapes.

    Args:
        losses (`Callable`): A function of tensors with a leading dimension of clips.
        clips (`list[tuple[torch.Tensor | None]]`): Its arguments for each clip, without that dimension; they
            go to the device of the first, the prediction.

    Returns:
        `dict[str, torch.FloatTensor]`: What the function gives, `(num_clips,)`, in no particular order of clips.
    """
    groups: dict[tuple, list[list]] = {}
    for clip in clips:
        parts = [None if part is None else part.to(clip[0].device) for part in clip]
        groups.setdefault(tuple(None if part is None else part.shape for part in parts), []).append(parts)
    found = [
        losses(*(None if column[0] is None else torch.stack(column) for column in zip(*group, strict=True)))
        for group in groups.values()
    ]
    return {name: torch.cat([part[name] for part in found]) for name in (found[0] if found else ())}


def camera_losses(config: GeoVRConfig, pose_enc: torch.Tensor, target: torch.Tensor) -> dict:
    """Camera loss of clips `(clips, frames, 9)`, and its parts, each `(clips,)`."""

    def of_clip(pose_enc, target):
        return camera_loss(
            pose_enc,
            target,
            translation_weight=config.translation_loss_weight,
            rotation_weight=config.rotation_loss_weight,
            fov_weight=config.fov_loss_weight,
        )

    loss = torch.vmap(of_clip)(pose_enc, target)
    return {
        "camera_loss": loss.total,
        "translation_loss": loss.translation,
        "rotation_loss": loss.rotation,
        "fov_loss": loss.fov,
    }


def depth_losses(depth: torch.Tensor, target: torch.Tensor, confidence: torch.Tensor | None, loss_type: str) -> dict:
    """Depth loss of clips `(clips, frames, height, width)`, and its parts, each `(clips,)`."""
    function = silog_loss if loss_type == "silog" else depth_loss
    loss = torch.vmap(function, in_dims=(0, 0, None if confidence is None else 0))(depth, target, confidence)
    if loss_type == "silog":
        return {"depth_loss": loss}
    return {"depth_loss": loss.total, "depth_regression_loss": loss.regression, "depth_gradient_loss": loss.gradient}


def scale_losses(metric_scale: torch.Tensor, target: torch.Tensor) -> dict:
    """Metric-scale loss of clips `(clips,)`."""
    return {"scale_loss": torch.vmap(scale_loss)(metric_scale, target)}


def token_alignment_losses(head: nn.Module, states: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Alignment loss of tokens `(N, hidden_size)` with one teacher layer's features `(N, C)`: `(N,)`."""
    return alignment_distance(head(states), teacher.to(states.device))


def pooled_features(config: GeoVRConfig, target: GeometryTargets, device: torch.device) -> list[torch.Tensor]:
    """A clip's teacher features on the student's grid, on a device."""
    features = [layer.to(device) for layer in target.features]
    if target.features_pooled or config.teacher_pool_size == 1:
        return features
    return [pool_feature_grid(layer.float(), config.teacher_pool_size) for layer in features]
