"""Dense heads of the teachers: a value and its confidence for every pixel."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from geovr_hf.modeling.dense_decoder_geovr import DenseDecoder, ResidualUnit, add_position, resize_map


class RectifiedResidualUnit(ResidualUnit):
    """VGGT's residual unit. There the first ReLU works in place, so that the skip carries the rectified input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(T, channels, H, W)` to the same shape."""
        x = F.relu(x)
        return x + self.conv2(F.relu(self.conv1(x)))


class PixelHead(nn.Module):
    r"""The last convolutions: from a feature map to the channels of every pixel.

    Args:
        channels (`int`): Channels of the feature map.
        output_channels (`int`): Channels of a pixel.
    """

    def __init__(self, channels: int, output_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 32, 3, padding=1)
        self.projection = nn.Conv2d(32, output_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(T, channels, H, W)` to `(T, output_channels, H, W)`, float32."""
        return self.projection(F.relu(self.conv(x))).float()


class DenseHead(DenseDecoder):
    r"""Dense head of VGGT and Depth Anything 3: the decoder, and a [`PixelHead`] at full resolution.

    Args:
        hidden_size (`int`):
            Width of the tokens.
        out_channels (`Sequence[int]`):
            Channels of the decoder's four maps.
        fusion_size (`int`):
            Channels in which maps are fused.
        output_channels (`int`):
            Channels of a pixel.
        options:
            `token_norm`, `with_position`, `residual_unit` of [`DenseDecoder`].
    """

    def __init__(
        self, hidden_size: int, out_channels: Sequence[int], fusion_size: int, output_channels: int, **options
    ):
        super().__init__(hidden_size, out_channels, fusion_size, **options)
        self.neck = nn.Conv2d(fusion_size, fusion_size // 2, 3, padding=1)
        self.pixels = PixelHead(fusion_size // 2, output_channels)

    def forward(self, states: Sequence[torch.Tensor], image_size: tuple[int, int]) -> torch.Tensor:
        r"""Decode.

        Args:
            states (`Sequence[torch.FloatTensor]` of four shapes `(T, h, w, hidden_size)`):
                Token maps, shallow to deep.
            image_size (`tuple[int, int]`):
                Height and width of the image that the maps span.

        Returns:
            `torch.FloatTensor` of shape `(T, output_channels, *image_size)`, float32: Raw values.
        """
        return self.pixels(self.features(states, image_size))

    def features(self, states: Sequence[torch.Tensor], image_size: tuple[int, int]) -> torch.Tensor:
        """What the pixels are read from: `(T, fusion_size / 2, *image_size)`."""
        x = resize_map(self.neck(self.fuse(states, image_size, upsampling=2)), image_size)
        return add_position(x, image_size) if self.with_position else x


class ShuffleHead(DenseDecoder):
    r"""Dense head of VGGT-Omega: the decoder, and value and confidence unfolded from the channels of its quarter map.

    Args:
        hidden_size (`int`):
            Width of the tokens.
        out_channels (`Sequence[int]`):
            Channels of the decoder's four maps.
        fusion_size (`int`):
            Channels in which maps are fused.
        patch_size (`int`):
            Pixels of a patch. A multiple of 4.
    """

    def __init__(self, hidden_size: int, out_channels: Sequence[int], fusion_size: int, patch_size: int):
        super().__init__(hidden_size, out_channels, fusion_size)
        self.factor = patch_size // 4
        self.value = nn.Conv2d(fusion_size, self.factor**2, 1)
        self.confidence = nn.Conv2d(fusion_size, self.factor**2, 1)

    def forward(self, states: Sequence[torch.Tensor], image_size: tuple[int, int]) -> torch.Tensor:
        """As [`DenseHead`]'s, with two channels: value and confidence."""
        x = add_position(self.fuse(states, image_size), image_size)
        folded = [F.pixel_shuffle(head(x).float(), self.factor) for head in (self.value, self.confidence)]
        return torch.cat(folded, dim=1)


def positive_with_confidence(raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth and its confidence out of raw values.

    Args:
        raw (`torch.FloatTensor` of shape `(T, 2, H, W)`): Logarithm of the depth; that of the confidence above 1.

    Returns:
        `tuple[torch.FloatTensor, torch.FloatTensor]` of shape `(T, H, W)`: Depth > 0, confidence >= 1.
    """
    depth, confidence = raw.unbind(1)
    return depth.exp(), 1 + confidence.exp()
