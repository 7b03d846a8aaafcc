"""Metric depth: what tells how many metres one unit of a teacher is."""

import math
from typing import Protocol, runtime_checkable

import torch

from .metric_scale import depth_in_metres, metric_image_size, resize_maps
from .networks import DepthAnything3MetricModel


@runtime_checkable
class MetricDepth(Protocol):
    """A source of metric depth. Anything of this form can give a teacher its metric scale.

    Attributes:
        name (`str`): Hub id or other name.
        licence (`str`): Licence of its weights.
        non_commercial (`bool`): Whether that licence forbids commercial use.
        fingerprint (`str`): Differs whenever its depth for the same images could differ.
    """

    name: str
    licence: str
    non_commercial: bool
    fingerprint: str

    def metric_depth(self, images: torch.Tensor, field_of_view: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Measure.

        Args:
            images (`torch.FloatTensor` of shape `(T, 3, H, W)`): RGB in [0, 1].
            field_of_view (`torch.FloatTensor` of shape `(T, 2)`): Vertical and horizontal, in radians.

        Returns:
            `tuple[torch.FloatTensor, torch.FloatTensor]` of shape `(T, h, w)`: Depth along z in metres, and a sky
            score (sky from 0.3 on; zeros if it knows no sky). `(h, w)` need not be `(H, W)`.
        """
        ...


class DepthAnything3Metric:
    r"""DA3METRIC as a source of metric depth.

    Args:
        network ([`DepthAnything3MetricModel`]): The network.
        name (`str`): Its name.
        licence (`str`): Licence of its weights.
        non_commercial (`bool`): Whether that forbids commercial use.
        fingerprint (`str`): See [`MetricDepth`].
        revision (`str`, *optional*): Commit of its weights on the Hub, if they came from there.
    """

    def __init__(
        self,
        network: DepthAnything3MetricModel,
        name: str,
        licence: str,
        non_commercial: bool,
        fingerprint: str,
        revision: str | None = None,
    ):
        self.network = network
        self.name, self.licence, self.non_commercial, self.fingerprint = name, licence, non_commercial, fingerprint
        self.revision = revision

    def metric_depth(self, images: torch.Tensor, field_of_view: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See [`MetricDepth.metric_depth`]. Images are resized to multiples of its patch, as published."""
        images = resize_maps(images, metric_image_size(tuple(images.shape[-2:])))
        output = self.network(images[None], filled=False)
        return depth_in_metres(output.raw_depth[0], focal_lengths(field_of_view, images.shape[-2:])), output.sky[0]


def focal_lengths(field_of_view: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    r"""Mean of the two focal lengths.

    Args:
        field_of_view (`torch.FloatTensor` of shape `(T, 2)`): Vertical and horizontal, in radians.
        image_size (`tuple[int, int]`): Height and width in pixels.

    Returns:
        `torch.FloatTensor` of shape `(T,)`: Pixels.
    """
    # A field of view of 0, which a network may say, would be an infinite focal length.
    tangents = (field_of_view.clamp(min=0, max=math.pi - 1e-3) / 2).tan().clamp(min=1e-6)
    return (field_of_view.new_tensor(image_size) / 2 / tangents).mean(-1)
