"""What a teacher is: something that knows the geometry of a clip."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from geovr_hf.data.clip import Clip
from geovr_hf.modeling.targets_geovr import GeometryTargets

from .images import ImageRule


@dataclass(frozen=True)
class TeacherSpec:
    """Layout and terms of a teacher. The layout is what `GeoVRConfig` needs to build heads for it.

    Args:
        name (`str`):
            Hub id, or name of a ground truth.
        num_layers (`int`):
            Number of its layers, 0 for a teacher without features.
        alignment_layers (`tuple[int, ...]`):
            Layers whose features it gives, shallow to deep, empty for a teacher without features.
        depth_layers (`tuple[int, ...]`):
            Four layers whose counterparts in the language model feed the depth head.
        hidden_size (`int`):
            Channels of its features, 0 without.
        patch_size (`int`):
            Pixels of one of its patches.
        pool_size (`int`):
            Patches that make one visual token, along each axis. Sides of depth maps are multiples of
            `patch_size * pool_size`.
        image_rule ([`ImageRule`] or `None`):
            How large it wants its images; `None` for a ground truth, which looks at none.
        licence (`str`):
            Licence of its weights or recordings; an id of the Hub's list where that has it.
        non_commercial (`bool`):
            Whether that licence forbids commercial use.
        gated (`bool`, *optional*, defaults to `False`):
            Whether the Hub gives the weights only to those who accepted their terms.
        revision (`str`, *optional*):
            Commit of the weights on the Hub, if they came from there.
    """

    name: str
    num_layers: int
    alignment_layers: tuple[int, ...]
    depth_layers: tuple[int, ...]
    hidden_size: int
    patch_size: int
    pool_size: int
    image_rule: ImageRule | None
    licence: str
    non_commercial: bool
    gated: bool = False
    revision: str | None = None


@runtime_checkable
class Teacher(Protocol):
    """Source of geometry targets.

    Attributes:
        spec (`TeacherSpec`): Layout and terms.
        fingerprint (`str`): Differs whenever targets for the same frames could differ; keys a cache of targets.
    """

    spec: TeacherSpec
    fingerprint: str

    def targets(self, clip: Clip | torch.Tensor) -> GeometryTargets:
        """Targets of a clip, or of bare frames `uint8 (T, H, W, 3)` if the teacher looks at pictures only.

        Raises:
            ValueError: The teacher is a ground truth and does not know the clip, or was given bare frames.
        """
        ...
