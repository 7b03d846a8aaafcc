"""The backbone of Depth Anything 3: DINOv2, whose deeper blocks may look at all frames."""

import torch
import torch.nn.functional as F
from torch import nn

from .blocks import Block, FeedForward, SwiGLU
from .configuration_depth_anything3 import DepthAnything3BackboneConfig


class DepthAnything3Embedding(nn.Module):
    r"""Patches, class token and positions.

    Positions are resized by a scale factor with an offset of 0.1 and without antialiasing, as DINOv2 first did it;
    transformers' DINOv2 resizes to a size, which samples the table elsewhere.

    Args:
        config ([`DepthAnything3BackboneConfig`]): The configuration.
    """

    def __init__(self, config: DepthAnything3BackboneConfig):
        super().__init__()
        width = config.hidden_size
        self.side = config.image_size // config.patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.side**2, width))
        self.proj = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size)
        self._resized: tuple | None = None

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Embed normalised images `(rows, 3, H, W)` as `(rows, 1 + patches, hidden_size)`."""
        maps = self.proj(frames.to(self.proj.weight.dtype))
        patches = maps.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        return tokens + self.positions(maps.shape[-2:])

    def positions(self, grid: tuple[int, int]) -> torch.Tensor:
        """Positions of the class token and a grid of patches: `(1, 1 + rows * columns, hidden_size)`."""
        if tuple(grid) == (self.side, self.side):
            return self.pos_embed
        # Clip after clip has the same size, and on a GPU this resize takes as long as ten blocks.
        key = (tuple(grid), self.pos_embed.data_ptr(), self.pos_embed._version, self.pos_embed.dtype)
        if self.pos_embed.requires_grad or self._resized is None or self._resized[0] != key:
            self._resized = (key, self._resize(grid))
        return self._resized[1]

    def _resize(self, grid: tuple[int, int]) -> torch.Tensor:
        table = self.pos_embed[:, 1:].unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        scale = tuple((size + 0.1) / self.side for size in grid)
        resized = F.interpolate(table.float(), scale_factor=scale, mode="bicubic", antialias=False)
        return torch.cat([self.pos_embed[:, :1], resized.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)], dim=1)


def backbone_block(config: DepthAnything3BackboneConfig, **options) -> Block:
    """A block of the backbone; `options` are those of [`Attention`]."""
    width, inner = config.hidden_size, config.hidden_size * config.mlp_ratio
    # A gated layer keeps two thirds of the width, rounded up to a multiple of 8.
    feed_forward = SwiGLU(width, (inner * 2 // 3 + 7) // 8 * 8) if config.gated_mlp else FeedForward(width, inner)
    return Block(config, width, config.num_attention_heads, feed_forward, eps=1e-6, **options)


class DepthAnything3Backbone(nn.Module):
    r"""Embedding, blocks and final norm. Without alternation every frame is by itself.

    Args:
        config ([`DepthAnything3BackboneConfig`]): The configuration.
        alternation_start (`int`, *optional*): First block whose queries and keys are normalised; `None` for none.
    """

    def __init__(self, config: DepthAnything3BackboneConfig, alternation_start: int | None = None):
        super().__init__()
        self.embedding = DepthAnything3Embedding(config)
        start = config.num_hidden_layers if alternation_start is None else alternation_start
        self.blocks = nn.ModuleList(
            backbone_block(config, qk_norm=layer >= start) for layer in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size)
