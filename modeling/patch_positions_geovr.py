"""Where patches lie in their frames, as Qwen3-VL's vision tower wants to know it, found once for each frame size."""

from functools import lru_cache

import torch
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids


SIZES = 256  # that are remembered; one of 1,200 patches takes 75 KB


def patch_positions(
    grids: tuple[tuple[int, int, int], ...],
    merge_size: int,
    interpolation: tuple[int, str, bool],
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""Positions of the patches of all frames, from their grids on the host.

    Transformers finds them for all patches in every step. On the host, that is dozens of operations on every core of
    the machine.

    Args:
        grids (`tuple[tuple[int, int, int], ...]`): Frames, and rows and columns of patches of each, of every clip.
        merge_size (`int`): Patches per visual token along each axis.
        interpolation (`tuple[int, str, bool]`):
            Side of the table of learned positions, how it is interpolated, whether corners are aligned.
        device (`torch.device`): Where they go.

    Returns:
        `tuple`: Rows of the table of learned positions, `(patches, taps)`, their weights, of the same shape, and
        rotary positions, `(patches, 2)`.
    """
    clips = [
        [
            positions.repeat(frames, 1)
            for positions in _positions_of_frame(height, width, merge_size, interpolation, device)
        ]
        for frames, height, width in grids
    ]
    return tuple(torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*clips, strict=True))


@lru_cache(SIZES)
def _positions_of_frame(
    height: int, width: int, merge_size: int, interpolation: tuple[int, str, bool], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    side, mode, align_corners = interpolation
    # What is made in inference mode could not be used in training later.
    with torch.inference_mode(False):
        grid = torch.tensor([[1, height, width]])
        indices, weights = get_vision_interpolation_indices_and_weights(
            grid, num_grid_per_side=side, mode=mode, align_corners=align_corners, spatial_merge_size=merge_size
        )
        found = (indices, weights, get_vision_position_ids(grid, merge_size))
        if device.type == "cuda":
            return tuple(positions.pin_memory().to(device, non_blocking=True) for positions in found)
        return tuple(positions.to(device) for positions in found)
