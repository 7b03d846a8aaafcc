"""VGGT (arXiv 2503.11651): blocks within frames and over all frames take turns; heads read cameras and depth."""

from typing import ClassVar

import torch
from torch import nn
from transformers import Dinov2WithRegistersModel

from .alternating import AlternatingNetwork
from .base import PublishedNames, normalize_images
from .blocks import Block, FeedForward
from .configuration_vggt import VGGTConfig
from .dense_head import DenseHead, RectifiedResidualUnit, positive_with_confidence
from .outputs import GeometryOutput
from .published_names import dense_head_names, dinov2_names
from .rotary import RotaryTable, axial_table, grid_positions
from .streams import beside
from .vggt_camera_head import VGGTCameraHead


class VGGTModel(AlternatingNetwork):
    r"""VGGT without tracking: cameras, depth and features of the frames of a clip.

    The first half of a layer's patches, those of its block within frames, are the features to align with.

    Args:
        config ([`VGGTConfig`]): The configuration.
    """

    config: VGGTConfig
    config_class = VGGTConfig
    unneeded: ClassVar[tuple[str, ...]] = ("point_head.", "track_head.")

    def __init__(self, config: VGGTConfig):
        super().__init__(config)
        width, heads = config.hidden_size, config.num_attention_heads
        self.patch_embed = Dinov2WithRegistersModel(config.vision_config)
        self.make_special_tokens(width, config.num_register_tokens)

        def blocks() -> nn.ModuleList:
            return nn.ModuleList(
                Block(config, width, heads, FeedForward(width, width * config.mlp_ratio), eps=1e-5, qk_norm=True)
                for _ in range(config.num_hidden_layers)
            )

        self.frame_blocks = blocks()
        self.global_blocks = blocks()
        self.camera_head = VGGTCameraHead(config)
        dense = (2 * width, config.dense_hidden_sizes, config.dense_fusion_size)
        self.depth_head = DenseHead(*dense, output_channels=2, residual_unit=RectifiedResidualUnit)
        self.point_head = (
            DenseHead(*dense, output_channels=4, residual_unit=RectifiedResidualUnit) if config.point_head else None
        )
        self.post_init()

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
            last = layers[-1][:, 0].unflatten(0, clip_shape)
            # Many tiny kernels one after the other: the dense head hides them.
            poses = beside("cameras", self._refine_poses, last)
            dense = [self.patch_map(layers[layer], grid) for layer in config.dense_layers]
            depth, confidence = positive_with_confidence(self.decode(self.depth_head, dense, image_size))
            points = None if self.point_head is None else self.decode(self.point_head, dense, image_size)
        poses = poses()
        output = GeometryOutput(
            pose_enc=poses[-1],
            depth=depth.unflatten(0, clip_shape),
            depth_confidence=confidence.unflatten(0, clip_shape),
            features=self.alignment_features(layers, grid, clip_shape),
            pose_enc_iterations=tuple(poses),
        )
        if points is not None:
            raw = points[:, :3].permute(0, 2, 3, 1).unflatten(0, clip_shape)
            output.world_points = raw.sign() * raw.abs().expm1()
            output.world_points_confidence = 1 + points[:, 3].exp().unflatten(0, clip_shape)
        return output

    def embed_patches(self, frames: torch.Tensor) -> torch.Tensor:
        """Embed `(rows, 3, H, W)`, RGB in [0, 1], as patch tokens `(rows, patches, hidden_size)`."""
        vit = self.patch_embed
        x = vit.embeddings(normalize_images(frames)).to(vit.layernorm.weight.dtype)
        x = vit.layernorm(vit.encoder(x).last_hidden_state)
        return x[:, 1 + self.config.vision_config.num_register_tokens :]

    def rotary_tables(
        self, grid: tuple[int, int], num_frames: int, device: torch.device
    ) -> tuple[RotaryTable, RotaryTable]:
        """Between frames, tokens are rotated as within their own."""
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        within = axial_table(grid_positions(grid, self.num_special, device), head_dim, self.config.rope_base)
        return within, tuple(values.repeat(num_frames, 1) for values in within)

    def between_frames(self, layer: int, x: torch.Tensor, num_clips: int, rotary: RotaryTable) -> torch.Tensor:
        """All tokens of all frames look at each other."""
        tokens = x.view(num_clips, -1, x.shape[-1])
        return self.global_blocks[layer](tokens, rotary, self.tokens_chunk(x.shape[1])).view_as(x)

    def _refine_poses(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        with torch.autocast(tokens.device.type, enabled=False):
            return self.camera_head(tokens.to(self.camera_head.token_norm.weight.dtype))

    @staticmethod
    def published_names(config: VGGTConfig) -> PublishedNames:
        """Names in `facebook/VGGT-1B`."""
        return {
            **{
                name: f"aggregator.{name}"
                for name in ("camera_token", "register_token", "frame_blocks", "global_blocks")
            },
            **dinov2_names("patch_embed", "aggregator.patch_embed", config.vision_config.num_hidden_layers),
            **{
                f"camera_head.{name}": f"camera_head.{name}"
                for name in ("empty_pose_tokens", "token_norm", "embed_pose", "trunk", "trunk_norm", "pose_branch")
            },
            "camera_head.modulation": "camera_head.poseLN_modulation.1",
            **dense_head_names("depth_head", "depth_head"),
            **dense_head_names("point_head", "point_head"),
        }
