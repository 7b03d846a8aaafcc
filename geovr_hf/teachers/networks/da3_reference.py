"""Which frame of a clip Depth Anything 3 refers the others to."""

from typing import Literal

import torch
import torch.nn.functional as F


ReferenceView = Literal["first", "middle", "saddle_balanced"]


def choose_reference(strategy: ReferenceView, cls_tokens: torch.Tensor) -> torch.Tensor:
    r"""Choose a frame per clip.

    `"saddle_balanced"`, the upstream default, takes the frame that is most ordinary in three respects: how alike it is
    to the others, the length of its class token, and how unevenly that is spread over the channels.

    Args:
        strategy (`str`): `"first"`, `"middle"` or `"saddle_balanced"`.
        cls_tokens (`torch.FloatTensor` of shape `(B, S, C)`): Class tokens before the frames first meet.

    Returns:
        `torch.LongTensor` of shape `(B,)`: Numbers of the frames.

    Raises:
        ValueError: An unknown strategy.
    """
    num_clips, num_frames, _ = cls_tokens.shape
    if strategy in ("first", "middle"):
        frame = 0 if strategy == "first" else num_frames // 2
        return torch.full((num_clips,), frame, device=cls_tokens.device)
    if strategy != "saddle_balanced":
        raise ValueError(f"`reference_view` must be 'first', 'middle' or 'saddle_balanced', got {strategy!r}.")
    cls_tokens = cls_tokens.float()
    unit = F.normalize(cls_tokens, dim=-1)
    cosines = unit @ unit.transpose(1, 2)
    likeness = (cosines.sum(-1) - cosines.diagonal(dim1=1, dim2=2)) / (num_frames - 1)
    scores = torch.stack([likeness, cls_tokens.norm(dim=-1), unit.var(dim=-1)])
    low, high = scores.amin(-1, keepdim=True), scores.amax(-1, keepdim=True)
    return (((scores - low) / (high - low + 1e-8)) - 0.5).abs().sum(0).argmin(-1)


def reference_first(reference: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Order of frames with the reference first and the others as they were.

    Args:
        reference (`torch.LongTensor` of shape `(B,)`): Number of the reference frame of each clip.
        num_frames (`int`): Frames `S`.

    Returns:
        `torch.LongTensor` of shape `(B, S)`.
    """
    frames = torch.arange(num_frames, device=reference.device).expand(len(reference), -1)
    # The reference sorts before frame 0; a stable order keeps the rest.
    return torch.where(frames == reference[:, None], -1, frames).argsort(dim=-1, stable=True)
