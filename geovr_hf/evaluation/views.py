"""What a model is shown of a clip: the clip itself, or something from which the question cannot be answered.

A benchmark whose score survives black frames or a shuffled clip does not measure sight, or not that of motion. ReVSI
(arXiv 2604.24300) found that much of VSI-Bench's does.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from geovr_hf.data.clip import Clip


def black(clip: Clip) -> Clip:
    """As many frames of the same size at the same times, all black."""
    return replace(clip, frames=torch.zeros_like(clip.frames))


def shuffled(clip: Clip) -> Clip:
    """The same frames in another order, at the times of the original order.

    The order depends on the source's name alone, so that every question about a clip sees the same one. It is never
    the original order, except of a clip of one frame, which has no other.
    """
    if len(clip) < 2:
        return clip
    seed = int.from_bytes(hashlib.sha256(clip.source.encode()).digest()[:8])
    order = np.random.default_rng(seed).permutation(len(clip))
    if (order == np.arange(len(clip))).all():
        order = order[::-1].copy()
    return replace(clip, frames=clip.frames[torch.from_numpy(order)])


SEEN, SHUFFLED = "seen", "shuffled"
VIEWS: dict[str, Callable[[Clip], Clip]] = {SEEN: lambda clip: clip, "black": black, SHUFFLED: shuffled}
BLIND_VIEWS = tuple(view for view in VIEWS if view != SEEN)
