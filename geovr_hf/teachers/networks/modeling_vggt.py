"""VGGT (arXiv 2503.11651): blocks within frames and over all frames take turns; heads read cameras and depth."""

from typing import ClassVar

import torch
from torch import nn
from transformers import Dinov2WithRegistersModel

from .base import PublishedNames, TeacherNetwork, in_chunks, normalize_images, per_frame, side_by_side
from .blocks import Block, FeedForward
from .configuration_vggt import VGGTConfig
from .dense_head import DenseHead, RectifiedResidualUnit, positive_with_confidence
from .outputs import GeometryOutput
from .published_names import dense_head_names, dinov2_names
from .rotary import axial_table, grid_positions
from .vggt_camera_head import VGGTCameraHead


class VGGTModel(TeacherNetwork):
    r"""VGGT without tracking: cameras, depth and features of the frames of a clip.

    A frame's tokens are one camera token, the registers and the patches. A layer's output is that of its block within
    frames beside that of its block over all frames; the first half of its patches are the features to align with.

    Args:
        config ([`VGGTConfig`]): The configuration.
    """

    config: VGGTConfig
    config_class = VGGTConfig
    unneeded: ClassVar[tuple[str, ...]] = ("point_head.", "track_head.")

    def __init__(self, config: VGGTConfig):
        super().__init__(config)
        width, heads = config.hidden_size, config.num_attention_heads
        self.num_special = 1 + config.num_register_tokens
        self.patch_embed = Dinov2WithRegistersModel(config.vision_config)
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, width))
        self.register_token = nn.Parameter(torch.zeros(1, 2, config.num_register_tokens, width))

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
            poses = self.beside(self._refine_poses, last)
            dense = [self._patches(layers[layer], grid) for layer in config.dense_layers]
            depth, confidence = positive_with_confidence(self._decode(self.depth_head, dense, image_size))
            points = None if self.point_head is None else self._decode(self.point_head, dense, image_size)
        poses = poses()
        output = GeometryOutput(
            pose_enc=poses[-1],
            depth=depth.unflatten(0, clip_shape),
            depth_confidence=confidence.unflatten(0, clip_shape),
            features=tuple(
                self._patches(layers[layer], grid)[..., : config.hidden_size].unflatten(0, clip_shape)
                for layer in config.alignment_layers
            ),
            pose_enc_iterations=tuple(poses),
        )
        if points is not None:
            raw = points[:, :3].permute(0, 2, 3, 1).unflatten(0, clip_shape)
            output.world_points = raw.sign() * raw.abs().expm1()
            output.world_points_confidence = 1 + points[:, 3].exp().unflatten(0, clip_shape)
        return output

    def aggregate(self, images: torch.Tensor, wanted: set[int]) -> dict[int, torch.Tensor]:
        r"""Run the blocks.

        Args:
            images (`torch.FloatTensor` of shape `(B, S, 3, H, W)`): RGB in [0, 1].
            wanted (`set[int]`): Layers to keep.

        Returns:
            `dict[int, torch.FloatTensor]`: By layer, the outputs of its block within frames and of its block over all
            frames, side by side, `(B * S, special + patches, 2 * hidden_size)`, in the dtype of the matrices; and
            under -1 the special tokens of the last layer, as they are.
        """
        num_clips, num_frames = images.shape[:2]
        patches = in_chunks(self.embed_patches, self.frames_chunk_size, images.flatten(0, 1))
        special = torch.cat([per_frame(t, num_clips, num_frames) for t in (self.camera_token, self.register_token)], 1)
        x = torch.cat([special.to(patches.dtype), patches], dim=1)

        positions = grid_positions(self.grid_size(images), self.num_special, images.device)
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        table = axial_table(positions, head_dim, self.config.rope_base)
        all_frames = tuple(values.repeat(num_frames, 1) for values in table)

        kept: dict[int, torch.Tensor] = {}
        for layer, (frame_block, global_block) in enumerate(zip(self.frame_blocks, self.global_blocks, strict=True)):
            x = local = in_chunks(lambda rows, block=frame_block: block(rows, table), self.frames_chunk_size, x)
            x = global_block(x.view(num_clips, -1, x.shape[-1]), all_frames, self._tokens_chunk(x)).view_as(x)
            if layer in wanted:
                kept[layer] = side_by_side(local, x, self.matrix_dtype)
        kept[-1] = torch.cat([half[:, : self.num_special] for half in (local, x)], dim=-1)
        return kept

    def embed_patches(self, frames: torch.Tensor) -> torch.Tensor:
        """Embed `(rows, 3, H, W)`, RGB in [0, 1], as patch tokens `(rows, patches, hidden_size)`."""
        vit = self.patch_embed
        x = vit.embeddings(normalize_images(frames)).to(vit.layernorm.weight.dtype)
        x = vit.layernorm(vit.encoder(x).last_hidden_state)
        return x[:, 1 + self.config.vision_config.num_register_tokens :]

    def _refine_poses(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        with torch.autocast(tokens.device.type, enabled=False):
            return self.camera_head(tokens.to(self.camera_head.token_norm.weight.dtype))

    def _tokens_chunk(self, x: torch.Tensor) -> int | None:
        return None if self.frames_chunk_size is None else self.frames_chunk_size * x.shape[1]

    def _patches(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        return tokens[:, self.num_special :].unflatten(1, grid)

    def _decode(self, head: DenseHead, maps: list[torch.Tensor], image_size: tuple[int, int]) -> torch.Tensor:
        return in_chunks(lambda *rows: head(rows, image_size), self.dense_chunk_size, *maps)

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
