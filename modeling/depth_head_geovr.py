"""The depth head: a dense prediction transformer (DPT) decoder on four hidden states of the visual tokens.

After docs/numerics.md: the dense head of VGGT-Omega, without confidence, on the language model's states.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


class DepthHead(nn.Module):
    r"""Predicts a depth map per frame from the hidden states of its visual tokens.

    Four states, shallow to deep, become maps of 4, 2, 1 and 1/2 times the token grid, which are fused from the deepest
    up. The result has a quarter of the depth map's resolution; its channels are unfolded into the pixels.

    Frames are independent, so they can pass in chunks: that bounds the memory of the activations to one chunk's in
    inference, and with `gradient_checkpointing` in training too. `model.gradient_checkpointing_enable()` sets that
    attribute.

    Args:
        hidden_size (`int`):
            Width of the hidden states.
        out_channels (`Sequence[int]`):
            Channels of the four maps, shallow to deep. Multiples of 4.
        fusion_size (`int`):
            Channels in which maps are fused. A multiple of 4.
        patch_size (`int`, *optional*, defaults to 32):
            Pixels of the language model's frame per visual token, along each axis.
        tile (`int`, *optional*, defaults to 28):
            Pixels of the depth map per cell of the target's grid, along each axis. A multiple of 4.
        frames_chunk_size (`int`, *optional*):
            Frames that pass at once; all of them by default. It does not change results.

    Raises:
        ValueError: There are not four `out_channels`, or a size is not a multiple of 4.
    """

    def __init__(
        self,
        hidden_size: int,
        out_channels: Sequence[int],
        fusion_size: int,
        patch_size: int = 32,
        tile: int = 28,
        frames_chunk_size: int | None = None,
    ):
        super().__init__()
        if len(out_channels) != 4 or any(size % 4 for size in (*out_channels, fusion_size, tile)):
            raise ValueError(
                "The depth head needs four `out_channels`, and these, `fusion_size` and `tile` must be multiples of "
                f"4, got {tuple(out_channels)}, {fusion_size} and {tile}."
            )
        self.patch_size = patch_size
        self.tile = tile
        self.frames_chunk_size = frames_chunk_size
        self.gradient_checkpointing = False

        first, second, _, fourth = out_channels
        self.norm = nn.LayerNorm(hidden_size)
        self.projects = nn.ModuleList(nn.Conv2d(hidden_size, channels, 1) for channels in out_channels)
        self.resizes = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, 4, stride=4),
                nn.ConvTranspose2d(second, second, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(fourth, fourth, 3, stride=2, padding=1),
            ]
        )
        self.laterals = nn.ModuleList(
            nn.Conv2d(channels, fusion_size, 3, padding=1, bias=False) for channels in out_channels
        )
        self.fusions = nn.ModuleList(FusionBlock(fusion_size, deepest=stage == 3) for stage in range(4))
        self.projection = nn.Conv2d(fusion_size, (tile // 4) ** 2, 1)

    def forward(
        self, states: Sequence[torch.Tensor], image_size: tuple[int, int], target_size: tuple[int, int]
    ) -> torch.Tensor:
        r"""Predict depth.

        Args:
            states (`Sequence[torch.FloatTensor]` of four shapes `(T, h, w, hidden_size)`):
                Hidden states of a clip's visual tokens, shallow to deep.
            image_size (`tuple[int, int]`):
                Height and width of the frames that the language model saw: `patch_size` times the token grid.
            target_size (`tuple[int, int]`):
                Height and width of the depth maps. Multiples of `tile`.

        Returns:
            `torch.FloatTensor` of shape `(T, *target_size)`, float32: Depth, > 0, in the teacher's unit.

        Raises:
            ValueError: There are not four states of one shape, or a size does not fit its grid.
        """
        self._check_sizes(states, image_size, target_size)
        chunks = zip(*(state.split(self.frames_chunk_size or len(state)) for state in states), strict=True)
        return torch.cat([self._decode_chunk(chunk, image_size, target_size) for chunk in chunks])

    def _decode_chunk(self, states, image_size, target_size) -> torch.Tensor:
        if self.gradient_checkpointing and self.training:
            return checkpoint(
                self._decode, states, image_size, target_size, use_reentrant=False, preserve_rng_state=False
            )
        return self._decode(states, image_size, target_size)

    def _decode(self, states, image_size, target_size) -> torch.Tensor:
        maps = []
        for state, project, resize, lateral in zip(states, self.projects, self.resizes, self.laterals, strict=True):
            x = project(self.norm(state).permute(0, 3, 1, 2))
            maps.append(lateral(resize(_add_position(x, image_size))))

        fused = None
        for stage in (3, 2, 1, 0):
            finer = maps[max(stage - 1, 0)]
            fused = self.fusions[stage](maps[stage], fused, finer.shape[-2:])
        fused = _resize(fused, [4 * side // self.tile for side in target_size])
        folded = self.projection(_add_position(fused, target_size))
        # float32 before the exponential: in bfloat16 its steps would be 1 % of the depth.
        return F.pixel_shuffle(folded.float(), self.tile // 4).squeeze(1).exp()

    def _check_sizes(self, states, image_size, target_size):
        shapes = [tuple(state.shape) for state in states]
        if len(shapes) != 4 or len(set(shapes)) > 1 or len(shapes[0]) != 4:
            raise ValueError(
                f"`states` must be four tensors of one shape (frames, height, width, channels), got {shapes}."
            )
        grid = shapes[0][1:3]
        if tuple(image_size) != tuple(self.patch_size * side for side in grid):
            raise ValueError(
                f"`image_size` must be {self.patch_size} times the token grid {grid}, got {tuple(image_size)}."
            )
        if any(side <= 0 or side % self.tile for side in target_size):
            raise ValueError(
                f"`target_size` must be multiples of {self.tile}, got {tuple(target_size)}. Resize the depth target."
            )


class FusionBlock(nn.Module):
    r"""Adds a stage's map to the deeper stages' and brings the sum to the size of the next finer stage.

    Args:
        channels (`int`): Channels of all maps.
        deepest (`bool`): Whether nothing is deeper, so that there is no sum and no unit for it.
    """

    def __init__(self, channels: int, deepest: bool):
        super().__init__()
        self.lateral_unit = None if deepest else ResidualUnit(channels)
        self.output_unit = ResidualUnit(channels)
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
        return _resize(self.projection(self.output_unit(x)), size)


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


def _add_position(x: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """Add a tenth of the embedding to `(T, channels, H, W)`, a map that spans an image of `image_size`."""
    embedding = position_embedding(x.shape[1], x.shape[-2:], image_size[1] / image_size[0], x.device)
    return x + (0.1 * embedding).to(x.dtype)


def _resize(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)
