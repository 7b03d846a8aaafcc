"""VGGT-Omega: VGGT with rotary positions throughout, sparser attention between frames and heads of a single pass."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from geovr_hf.conversion_names import decoder_names

from .alternating import AlternatingNetwork
from .base import PublishedNames, normalize_images
from .blocks import Block, FeedForward
from .configuration_vggt_omega import VGGTOmegaConfig
from .dense_head import ShuffleHead, positive_with_confidence
from .outputs import GeometryOutput
from .rotary import RotaryTable, normalized_table


def _block(config: VGGTOmegaConfig, width: int, num_heads: int, **options) -> Block:
    feed_forward = FeedForward(width, width * config.mlp_ratio)
    return Block(config, width, num_heads, feed_forward, eps=1e-5, masked_bias=True, rotary_groups=1, **options)


def _periods(head_dim: int) -> torch.Tensor:
    """Wave lengths of the rotary embedding."""
    count = head_dim // 4
    return 100.0 ** (2 * torch.arange(count) / (2 * count))


class OmegaPatchEmbedding(nn.Module):
    r"""The network that embeds patches: DINOv3's ViT, with coordinates divided by the longer side of the image.

    (transformers' DINOv3 divides each by its own side and is another function.)

    Args:
        config ([`VGGTOmegaConfig`]): The configuration.
    """

    def __init__(self, config: VGGTOmegaConfig):
        super().__init__()
        width = config.hidden_size
        self.num_special = 1 + config.num_storage_tokens
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.storage_tokens = nn.Parameter(torch.zeros(1, config.num_storage_tokens, width))
        self.proj = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size)
        self.blocks = nn.ModuleList(
            _block(config, width, config.vision_num_heads) for _ in range(config.vision_num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.register_buffer("periods", _periods(width // config.vision_num_heads))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Embed `(rows, 3, H, W)`, RGB in [0, 1], as patch tokens `(rows, patches, hidden_size)`."""
        maps = self.proj(normalize_images(frames).to(self.proj.weight.dtype))
        patches = maps.flatten(2).transpose(1, 2).to(self.norm.weight.dtype)
        special = torch.cat([self.cls_token, self.storage_tokens], dim=1).to(patches.dtype)
        x = torch.cat([special.expand(len(patches), -1, -1), patches], dim=1)
        table = normalized_table(maps.shape[-2:], self.num_special, self.periods)
        for block in self.blocks:
            x = block(x, table)
        return self.norm(x)[:, self.num_special :]


class OmegaCameraHead(nn.Module):
    r"""Reads poses from the special tokens of all frames in one pass.

    Args:
        config ([`VGGTOmegaConfig`]): The configuration.
    """

    def __init__(self, config: VGGTOmegaConfig):
        super().__init__()
        width = 2 * config.hidden_size
        self.token_norm = nn.LayerNorm(width)
        self.trunk = nn.ModuleList(
            _block(config, width, config.camera_num_heads) for _ in range(config.camera_num_layers)
        )
        self.trunk_norm = nn.LayerNorm(width)
        self.branch = FeedForward(width, width // 2, 9)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """From special tokens `(B, S, n, 2 * hidden_size)` to pose encodings `(B, S, 9)`."""
        shape = tokens.shape
        x = self.token_norm(tokens).flatten(1, 2)
        for block in self.trunk:
            x = block(x)
        raw = self.branch(self.trunk_norm(x.view(shape)[:, :, 0]))
        return torch.cat([raw[..., :7], F.relu(raw[..., 7:]) + 0.01], dim=-1)


class VGGTOmegaModel(AlternatingNetwork):
    r"""VGGT-Omega: cameras, depth and features of the frames of a clip.

    Args:
        config ([`VGGTOmegaConfig`]): The configuration.
    """

    config: VGGTOmegaConfig
    config_class = VGGTOmegaConfig
    unneeded: ClassVar[tuple[str, ...]] = ("aggregator.patch_embed.mask_token", "text_alignment_head.")

    def __init__(self, config: VGGTOmegaConfig):
        super().__init__(config)
        width, heads = config.hidden_size, config.num_attention_heads
        self.patch_embed = OmegaPatchEmbedding(config)
        self.make_special_tokens(width, config.num_register_tokens)
        self.frame_blocks = nn.ModuleList(
            _block(config, width, heads, qk_norm=True) for _ in range(config.num_hidden_layers)
        )
        self.inter_frame_blocks = nn.ModuleList(
            _block(config, width, heads, qk_norm=True) for _ in range(config.num_hidden_layers)
        )
        self.register_buffer("periods", _periods(width // heads))
        self.camera_head = OmegaCameraHead(config)
        self.depth_head = ShuffleHead(
            2 * width, config.dense_hidden_sizes, config.dense_fusion_size, config.patch_size
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        for name, buffer in module.named_buffers(recurse=False):
            if name == "periods":
                buffer.copy_(_periods(4 * len(buffer)))

    def forward(self, images: torch.Tensor) -> GeometryOutput:
        r"""Look at clips.

        Args:
            images (`torch.FloatTensor` of shape `(B, S, 3, H, W)`): RGB in [0, 1], not normalised.

        Returns:
            [`GeometryOutput`].

        Raises:
            ValueError: The images have another shape, or sides that are no multiples of the patch.
        """
        clip_shape, image_size, grid = images.shape[:2], images.shape[-2:], self.grid_size(images)
        config = self.config
        with self.mixed_precision(images.device):
            layers = self.aggregate(images, {*config.dense_layers, *config.alignment_layers})
            dense = [self.patch_map(layers[layer], grid) for layer in config.dense_layers]
            depth, confidence = positive_with_confidence(self.decode(self.depth_head, dense, image_size))
        with torch.autocast(images.device.type, enabled=False):
            special = layers[-1].unflatten(0, clip_shape)
            pose_enc = self.camera_head(special.to(self.camera_head.token_norm.weight.dtype))
        return GeometryOutput(
            pose_enc=pose_enc,
            depth=depth.unflatten(0, clip_shape),
            depth_confidence=confidence.unflatten(0, clip_shape),
            features=self.alignment_features(layers, grid, clip_shape),
        )

    def embed_patches(self, frames: torch.Tensor) -> torch.Tensor:
        """See [`OmegaPatchEmbedding`]."""
        return self.patch_embed(frames)

    def rotary_tables(self, grid: tuple[int, int], num_frames: int, device: torch.device) -> tuple[RotaryTable, None]:
        """Between frames, nothing is rotated."""
        return normalized_table(grid, self.num_special, self.periods), None

    def between_frames(self, layer: int, x: torch.Tensor, num_clips: int, rotary: None) -> torch.Tensor:
        """All tokens look at each other, or in some layers camera and register tokens alone."""
        count = self.num_special if layer in self.config.register_attention_layers else x.shape[1]
        looking = x[:, :count].reshape(num_clips, -1, x.shape[-1])
        seen = self.inter_frame_blocks[layer](looking, rotary, self.tokens_chunk(count)).view(len(x), count, -1)
        return seen if count == x.shape[1] else torch.cat([seen, x[:, count:]], dim=1)

    @staticmethod
    def published_names(config: VGGTOmegaConfig) -> PublishedNames:
        """Names in `facebook/VGGT-Omega`."""
        return {
            **{
                name: f"aggregator.{name}"
                for name in ("camera_token", "register_token", "frame_blocks", "inter_frame_blocks")
            },
            "periods": "aggregator.rope_embed.periods",
            **{
                f"patch_embed.{name}": f"aggregator.patch_embed.{name}"
                for name in ("cls_token", "storage_tokens", "blocks", "norm")
            },
            "patch_embed.proj": "aggregator.patch_embed.patch_embed.proj",
            "patch_embed.periods": "aggregator.patch_embed.rope_embed.periods",
            **{f"camera_head.{name}": f"camera_head.{name}" for name in ("token_norm", "trunk", "trunk_norm")},
            "camera_head.branch.fc1": "camera_head.camera_branch.0",
            "camera_head.branch.fc2": "camera_head.camera_branch.2",
            **decoder_names("depth_head", "dense_head"),
            "depth_head.value": "dense_head.proj",
            "depth_head.confidence": "dense_head.proj_conf",
        }
