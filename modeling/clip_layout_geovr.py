"""Where the clips of a batch lie in its token sequences."""

from dataclasses import dataclass

import torch


@dataclass
class ClipLayout:
    r"""Positions of one clip in the flattened `(batch_size * sequence_length)` token sequence.

    Args:
        grid (`tuple[int, int, int]`): Frames, and rows and columns of visual tokens per frame.
        patches (`torch.LongTensor` of shape `(frames * rows * columns,)`): Visual tokens, frame by frame, row by row.
        cameras (`torch.LongTensor` of shape `(frames,)`, *optional*): The camera token that closes each frame.
        scale (`torch.LongTensor` of shape `(1,)`, *optional*): The scale token that closes the clip.
    """

    grid: tuple[int, int, int]
    patches: torch.Tensor
    cameras: torch.Tensor | None
    scale: torch.Tensor | None


def geometry_token_rows(
    input_ids: torch.Tensor, geometry_token_ids: tuple[int, int, int], video_token_id: int
) -> torch.Tensor:
    r"""Find the geometry tokens that close a frame.

    A geometry token means something only behind the patches of a frame, perhaps with other geometry tokens in between.
    Anywhere else (say, generated as text) its id stands for the vocabulary's row, as in the plain backbone.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): Token ids.
        geometry_token_ids (`tuple[int, int, int]`): Ids of `<|camera_first|>`, `<|camera|>` and `<|scale|>`.
        video_token_id (`int`): Id of a video patch.

    Returns:
        `torch.LongTensor` of shape `(batch_size, sequence_length)`: Row of the token in the geometry-token embedding
        (0, 1 or 2), and -1 for every other token.
    """
    rows = torch.full_like(input_ids, -1)
    for row, token_id in enumerate(geometry_token_ids):
        rows = rows.masked_fill(input_ids == token_id, row)
    closes_frame = input_ids.gather(1, predecessors(rows)) == video_token_id
    return rows.masked_fill(~closes_frame, -1)


def predecessors(rows: torch.Tensor) -> torch.Tensor:
    r"""Index of the last token at or before each position that is no geometry token.

    Args:
        rows (`torch.LongTensor` of shape `(batch_size, sequence_length)`): As of [`geometry_token_rows`].

    Returns:
        `torch.LongTensor` of shape `(batch_size, sequence_length)`.
    """
    positions = torch.arange(rows.shape[1], device=rows.device).expand_as(rows)
    return positions.masked_fill(rows >= 0, 0).cummax(dim=1).values


def locate_clips(
    input_ids: torch.Tensor,
    video_grid_thw: torch.Tensor,
    geometry_token_ids: tuple[int, int, int],
    video_token_id: int,
    merge_size: int,
) -> list[ClipLayout]:
    r"""Find every clip's patches and geometry tokens.

    The search runs on the host, on one copy of `input_ids`, so that it costs one synchronisation per batch.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): Token ids.
        video_grid_thw (`torch.LongTensor` of shape `(num_clips, 3)`): Frames, rows and columns of patches of each
            clip, before merging.
        geometry_token_ids (`tuple[int, int, int]`): Ids of `<|camera_first|>`, `<|camera|>` and `<|scale|>`.
        video_token_id (`int`): Id of a video patch.
        merge_size (`int`): Patches per visual token along each axis.

    Returns:
        `list[ClipLayout]`: One entry per clip, its tensors on the device of `input_ids`.

    Raises:
        ValueError: The patches in `input_ids` are not those that `video_grid_thw` announces.
    """
    ids = input_ids.cpu()
    rows = geometry_token_rows(ids, geometry_token_ids, video_token_id).flatten()
    is_patch = ids.flatten() == video_token_id
    patches = is_patch.nonzero().squeeze(1)
    grids = [(t, h // merge_size, w // merge_size) for t, h, w in video_grid_thw.tolist()]
    expected = sum(t * h * w for t, h, w in grids)
    if len(patches) != expected:
        raise ValueError(
            f"`input_ids` has {len(patches)} video tokens, but `video_grid_thw` announces {expected} for "
            f"{len(grids)} clips. Build both with one call of the processor."
        )

    # A geometry token belongs to the frame whose last patch is the last patch before it.
    patches_before = is_patch.cumsum(0)
    cameras, scales = (
        dict(zip(patches_before[found].tolist(), found.tolist(), strict=True))
        for found in (((rows == 0) | (rows == 1)).nonzero().squeeze(1), (rows == 2).nonzero().squeeze(1))
    )

    layouts, start = [], 0
    for t, h, w in grids:
        end = start + t * h * w
        closing = [cameras.get(start + (frame + 1) * h * w) for frame in range(t)]
        layouts.append(
            ClipLayout(
                grid=(t, h, w),
                patches=patches[start:end].to(input_ids.device, non_blocking=True),
                cameras=None if None in closing else torch.tensor(closing, device=input_ids.device),
                scale=torch.tensor([scales[end]], device=input_ids.device) if end in scales else None,
            )
        )
        start = end
    return layouts
