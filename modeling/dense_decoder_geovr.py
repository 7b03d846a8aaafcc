"""The decoder of a dense prediction transformer (DPT): four token maps become one map of image-like resolution.

The student's depth head is built on it, and so are the dense heads of the teachers.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class HalvingConv2d(nn.Conv2d):
    """A convolution of stride 2, on a CPU in float32: half-precision gradients of one column may be NaN in oneDNN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(T, channels, H, W)` to `(T, channels, (H + 1) // 2, (W + 1) // 2)`."""
        if x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return self._conv_forward(x.float(), self.weight.float(), bias).to(x.dtype)


class ResidualUnit(nn.Module):
    r"""Two 3x3 convolutions with a skip connection, each after a ReLU (not in place: the skip carries the raw input).

    Args:
        channels (`int`): Channels in and out.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(T, channels, H, W)` to the same shape."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class FusionBlock(nn.Module):
    r"""Adds a stage's map to the deeper stages' and brings the sum to the size of the next finer stage.

    Args:
        channels (`int`): Channels of all maps.
        deepest (`bool`): Whether nothing is deeper, so that there is no sum and no unit for it.
        residual_unit (`type[nn.Module]`, *optional*, defaults to [`ResidualUnit`]): The unit, made from `channels`.
    """

    def __init__(self, channels: int, deepest: bool, residual_unit: type[nn.Module] = ResidualUnit):
        super().__init__()
        self.lateral_unit = None if deepest else residual_unit(channels)
        self.output_unit = residual_unit(channels)
        self.projection = nn.Conv2d(channels, channels, 1)

    def forward(self, lateral: torch.Tensor, deeper: torch.Tensor | None, size: tuple[int, int]) -> torch.Tensor:
        r"""Fuse.

        Args:
            lateral (`torch.FloatTensor` of shape `(T, channels, H, W)`): The stage's own map.
            deeper (`torch.FloatTensor` of shape `(T, channels, H, W)` or `None`): The deeper stages' fused map.
            size (`tuple[int, int]`): Height and width of the result.

        Returns:
            `torch.FloatTensor` of shape `(T, channels, *size)`: The fused map.
        """
        x = lateral if deeper is None else deeper + self.lateral_unit(lateral)
        # Published: resize, then project. The two commute, as the weights of a resize sum to one; this way is cheaper.
        return resize_map(self.projection(self.output_unit(x)), size)


class DenseDecoder(nn.Module):
    r"""Fuses four token maps, shallow to deep.

    The maps are projected, brought to 4, 2, 1 and 1/2 times the token grid, and fused from the deepest up.

    Args:
        hidden_size (`int`):
            Width of the tokens.
        out_channels (`Sequence[int]`):
            Channels of the four maps, shallow to deep. Multiples of 4.
        fusion_size (`int`):
            Channels in which maps are fused. A multiple of 4.
        token_norm (`bool`, *optional*, defaults to `True`):
            Whether one LayerNorm, shared by the four maps, comes first.
        with_position (`bool`, *optional*, defaults to `True`):
            Whether the projected maps are told where in the image their cells lie.
        residual_unit (`type[nn.Module]`, *optional*, defaults to [`ResidualUnit`]):
            Unit of the fusion blocks.

    Raises:
        ValueError: There are not four `out_channels`, or a size is not a multiple of 4.
    """

    def __init__(
        self,
        hidden_size: int,
        out_channels: Sequence[int],
        fusion_size: int,
        *,
        token_norm: bool = True,
        with_position: bool = True,
        residual_unit: type[nn.Module] = ResidualUnit,
    ):
        super().__init__()
        if len(out_channels) != 4 or any(size % 4 for size in (*out_channels, fusion_size)):
            raise ValueError(
                "A dense decoder needs four `out_channels`, and these and `fusion_size` must be multiples of 4, got "
                f"{tuple(out_channels)} and {fusion_size}."
            )
        self.with_position = with_position
        first, second, _, fourth = out_channels
        self.norm = nn.LayerNorm(hidden_size) if token_norm else nn.Identity()
        self.projects = nn.ModuleList(nn.Conv2d(hidden_size, channels, 1) for channels in out_channels)
        self.resizes = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, 4, stride=4),
                nn.ConvTranspose2d(second, second, 2, stride=2),
                nn.Identity(),
                HalvingConv2d(fourth, fourth, 3, stride=2, padding=1),
            ]
        )
        self.laterals = nn.ModuleList(
            nn.Conv2d(channels, fusion_size, 3, padding=1, bias=False) for channels in out_channels
        )
        self.fusions = nn.ModuleList(FusionBlock(fusion_size, stage == 3, residual_unit) for stage in range(4))

    def pyramid(self, states: Sequence[torch.Tensor], image_size: tuple[int, int]) -> list[torch.Tensor]:
        r"""Turn token maps into the maps to fuse.

        Args:
            states (`Sequence[torch.FloatTensor]` of four shapes `(T, h, w, hidden_size)`):
                Token maps, shallow to deep.
            image_size (`tuple[int, int]`):
                Height and width of the image that the maps span.

        Returns:
            `list[torch.FloatTensor]`: Four maps `(T, fusion_size, *)` of 4, 2, 1 and 1/2 times the token grid.
        """
        maps = []
        for state, project, resize, lateral in zip(states, self.projects, self.resizes, self.laterals, strict=True):
            x = project(self.norm(state.to(project.weight.dtype)).permute(0, 3, 1, 2))
            maps.append(lateral(resize(add_position(x, image_size) if self.with_position else x)))
        return maps

    def fuse(self, states: Sequence[torch.Tensor], image_size: tuple[int, int], upsampling: int = 1) -> torch.Tensor:
        r"""Decode.

        Args:
            states (`Sequence[torch.FloatTensor]` of four shapes `(T, h, w, hidden_size)`):
                Token maps, shallow to deep.
            image_size (`tuple[int, int]`):
                Height and width of the image that the maps span.
            upsampling (`int`, *optional*, defaults to 1):
                Factor by which the last fusion enlarges its result.

        Returns:
            `torch.FloatTensor` of shape `(T, fusion_size, 4 * upsampling * h, 4 * upsampling * w)`: The fused map.
        """
        return fuse_pyramid(self.fusions, self.pyramid(states, image_size), upsampling)


def fuse_pyramid(fusions: Sequence[nn.Module], maps: Sequence[torch.Tensor], upsampling: int = 1) -> torch.Tensor:
    r"""Fuse the maps of a pyramid from the deepest up.

    Args:
        fusions (`Sequence[FusionBlock]`): A block per map.
        maps (`Sequence[torch.FloatTensor]` of shapes `(T, channels, H, W)`): Maps, finest first.
        upsampling (`int`, *optional*, defaults to 1): Factor by which the last fusion enlarges its result.

    Returns:
        `torch.FloatTensor` of shape `(T, channels, H, W)`: `upsampling` times the size of the finest map.
    """
    fused = None
    for stage in reversed(range(len(maps))):
        size = maps[stage - 1].shape[-2:] if stage else [upsampling * side for side in maps[0].shape[-2:]]
        fused = fusions[stage](maps[stage], fused, size)
    return fused


def position_embedding(channels: int, grid_size: tuple[int, int], aspect: float, device=None) -> torch.Tensor:
    r"""Sine-cosine embedding of the cells of a grid that spans an image with a unit half-diagonal.

    Computed where it is used instead of kept in buffers, so that a head made on the meta device needs no repair. The
    arguments of the sines stay below 1, so float32 loses nothing (the published code uses float64).

    Args:
        channels (`int`): Channels, a multiple of 4: the first half encodes x, the second y.
        grid_size (`tuple[int, int]`): Height and width of the grid.
        aspect (`float`): Width of the image over its height.
        device (`torch.device`, *optional*): Where to compute it.

    Returns:
        `torch.FloatTensor` of shape `(channels, *grid_size)`, float32: The embedding, in [-1, 1].
    """
    count = channels // 4
    frequencies = 100 ** (-torch.arange(count, dtype=torch.float32, device=device) / count)
    diagonal = math.hypot(aspect, 1)

    def encode(cells: int, half_side: float) -> torch.Tensor:
        last = half_side * (cells - 1) / cells
        angles = frequencies[:, None] * torch.linspace(-last, last, cells, device=device)
        return torch.cat([angles.sin(), angles.cos()])

    height, width = grid_size
    along_x = encode(width, aspect / diagonal)[:, None, :].expand(-1, height, -1)
    along_y = encode(height, 1 / diagonal)[:, :, None].expand(-1, -1, width)
    return torch.cat([along_x, along_y])


def add_position(x: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """Add a tenth of the embedding to `(T, channels, H, W)`, a map that spans an image of `image_size`."""
    embedding = position_embedding(x.shape[1], x.shape[-2:], image_size[1] / image_size[0], x.device)
    return x + (0.1 * embedding).to(x.dtype)


def resize_map(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resize `(T, channels, H, W)` bilinearly, corner on corner, to height and width `size`."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    # Autocast would widen to float32, and with it the memory traffic of the largest maps.
    with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
        if x.is_cuda and x.requires_grad:
            return _resize_by_products(x, size)
        return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


def _resize_by_products(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """[`resize_map`] as two matrix products: on a GPU the gradient of the other form adds pixel by pixel."""
    rows, columns = (
        _interpolation_matrix(old, new, x.device).to(x.dtype) for old, new in zip(x.shape[-2:], size, strict=True)
    )
    x = x.permute(0, 2, 3, 1)  # channels lie next to each other in memory
    x = columns @ x
    x = (rows @ x.flatten(2)).unflatten(2, x.shape[2:])
    return x.permute(0, 3, 1, 2)


def _interpolation_matrix(old: int, new: int, device: torch.device) -> torch.Tensor:
    """Weights `(new, old)` of linear interpolation, corner on corner."""
    position = torch.arange(new, device=device) * ((old - 1) / max(new - 1, 1))
    return (1 - (position[:, None] - torch.arange(old, device=device)).abs()).clamp(min=0)
