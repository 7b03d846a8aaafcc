"""DA3METRIC-LARGE (arXiv 2511.10647): depth of single frames for a camera of a canonical focal length, and sky."""

from collections.abc import Sequence

import torch

from .base import PublishedNames, TeacherNetwork, in_chunks, normalize_images
from .configuration_depth_anything3 import DepthAnything3MetricConfig
from .da3_backbone import DepthAnything3Backbone
from .dense_head import DenseHead, PixelHead
from .outputs import MetricDepthOutput
from .published_names import da3_backbone_names, dense_head_names


MAX_SKY = 0.3
MIN_PIXELS = 10


class MetricHead(DenseHead):
    r"""Reads depth and sky from one feature map.

    Args:
        config ([`DepthAnything3MetricConfig`]): The configuration.
    """

    def __init__(self, config: DepthAnything3MetricConfig):
        sizes = (config.hidden_size, config.dense_hidden_sizes, config.dense_fusion_size)
        super().__init__(*sizes, output_channels=1, token_norm=False, with_position=False)
        self.sky_pixels = PixelHead(config.dense_fusion_size // 2, output_channels=1)

    def forward(self, states: Sequence[torch.Tensor], image_size: tuple[int, int]) -> torch.Tensor:
        """As [`DenseHead`]'s, with two channels: depth and sky, both activated."""
        x = self.features(states, image_size)
        return torch.cat([self.pixels(x).exp(), self.sky_pixels(x).relu()], dim=1)


class DepthAnything3MetricModel(TeacherNetwork):
    r"""Depth and sky of every frame by itself.

    Args:
        config ([`DepthAnything3MetricConfig`]): The configuration.
    """

    config: DepthAnything3MetricConfig
    config_class = DepthAnything3MetricConfig

    def __init__(self, config: DepthAnything3MetricConfig):
        super().__init__(config)
        self.backbone = DepthAnything3Backbone(config)
        self.head = MetricHead(config)
        self.post_init()

    def forward(self, images: torch.Tensor, filled: bool = True) -> MetricDepthOutput:
        r"""Look at clips.

        Args:
            images (`torch.FloatTensor` of shape `(B, S, 3, H, W)`):
                RGB in [0, 1], not normalised.
            filled (`bool`, *optional*, defaults to `True`):
                Whether to give depth with the sky filled, too.

        Returns:
            [`MetricDepthOutput`].

        Raises:
            ValueError: The images have another shape, or sides that are no multiples of the patch.
        """
        grid = self.grid_size(images)
        with self.mixed_precision(images.device):
            # Frames never meet, so each share goes all the way to its tokens before the next.
            states = in_chunks(self.states, self.frames_chunk_size, images.flatten(0, 1))
            maps = [state[:, 1:].unflatten(1, grid) for state in states.unbind(1)]
            pixels = in_chunks(lambda *rows: self.head(rows, images.shape[-2:]), self.dense_chunk_size, *maps)
        raw, sky = pixels.unflatten(0, images.shape[:2]).unbind(2)
        return MetricDepthOutput(depth=fill_sky(raw, sky) if filled else None, raw_depth=raw, sky=sky)

    def states(self, frames: torch.Tensor) -> torch.Tensor:
        """Normed tokens `(rows, 4, 1 + patches, hidden_size)` of the dense layers, for frames in [0, 1]."""
        x = self.backbone.embedding(normalize_images(frames))
        states = []
        for layer, block in enumerate(self.backbone.blocks):
            x = block(x)
            if layer in self.config.dense_layers:
                states.append(self.backbone.norm(x).to(self.matrix_dtype))
        return torch.stack(states, dim=1)

    @staticmethod
    def published_names(config: DepthAnything3MetricConfig) -> PublishedNames:
        """Names in `depth-anything/DA3METRIC-LARGE`."""
        return {
            **da3_backbone_names("backbone"),
            **dense_head_names("head", "model.head"),
            "head.sky_pixels.conv": "model.head.scratch.sky_output_conv2.0",
            "head.sky_pixels.projection": "model.head.scratch.sky_output_conv2.2",
        }


def fill_sky(depth: torch.Tensor, sky: torch.Tensor) -> torch.Tensor:
    r"""Put the sky as far away as the farthest of the rest: the 0.99 quantile, over all clips.

    The published program takes the quantile of a random sample above 100,000 pixels; this one takes it of all.

    Args:
        depth (`torch.FloatTensor` of shape `(B, S, H, W)`): Depth.
        sky (`torch.FloatTensor` of shape `(B, S, H, W)`): Sky score.

    Returns:
        `torch.FloatTensor` of shape `(B, S, H, W)`: Depth; unchanged if sky or the rest has 10 pixels or fewer.
    """
    is_sky = sky >= MAX_SKY
    rest = (~is_sky).sum()
    # By sorting, with sky behind everything: no branch on values, so nothing waits for the device.
    ordered = torch.where(is_sky, torch.inf, depth).flatten().sort().values
    position = 0.99 * (rest - 1).clamp(min=0).double()
    low, high = (ordered[index.long().clamp(max=depth.numel() - 1)] for index in (position.floor(), position.ceil()))
    farthest = torch.lerp(low, high, (position - position.floor()).to(depth.dtype))
    fill = (rest > MIN_PIXELS) & (is_sky.sum() > MIN_PIXELS)
    return torch.where(is_sky & fill, farthest, depth)
