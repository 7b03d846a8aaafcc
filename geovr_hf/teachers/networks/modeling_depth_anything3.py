"""Depth Anything 3 for any number of views (arXiv 2511.10647): one plain transformer, cameras and depth."""

from typing import ClassVar

import torch
from torch import nn

from .base import PublishedNames, TeacherNetwork, in_chunks, normalize_images, side_by_side
from .configuration_depth_anything3 import DepthAnything3Config
from .da3_backbone import DepthAnything3Backbone
from .da3_heads import DepthAnything3CameraEncoder, DepthAnything3CameraHead, DepthAnything3RayHead
from .da3_reference import ReferenceView, choose_reference, reference_first
from .dense_head import DenseHead, positive_with_confidence
from .outputs import GeometryOutput
from .published_names import da3_backbone_names, da3_ray_names, dense_head_names
from .rotary import RotaryTable, axial_table, grid_positions


class DepthAnything3Model(TeacherNetwork):
    r"""Depth Anything 3 without Gaussians: cameras, depth and features of the frames of a clip.

    Its poses are camera-to-world.

    Args:
        config ([`DepthAnything3Config`]): The configuration.
    """

    config: DepthAnything3Config
    config_class = DepthAnything3Config
    unneeded: ClassVar[tuple[str, ...]] = (
        "model.gs_head.",
        "model.gs_adapter.",
        "model.cam_enc.",
        *(f"model.head.scratch.refinenet{stage}_aux." for stage in (1, 2, 3, 4)),
        "model.head.scratch.output_conv1_aux.",
        "model.head.scratch.output_conv2_aux.",
    )
    world_from_cam: ClassVar[bool] = True

    def __init__(self, config: DepthAnything3Config):
        super().__init__(config)
        width = 2 * config.hidden_size
        self.backbone = DepthAnything3Backbone(config, config.alternation_start)
        self.camera_token = nn.Parameter(torch.zeros(1, 2, config.hidden_size))
        self.camera_head = DepthAnything3CameraHead(width)
        self.depth_head = DenseHead(width, config.dense_hidden_sizes, config.dense_fusion_size, output_channels=2)
        self.ray_head = DepthAnything3RayHead(config.dense_fusion_size) if config.ray_head else None
        self.camera_encoder = DepthAnything3CameraEncoder(config) if config.camera_encoder else None
        self.post_init()

    def forward(
        self,
        images: torch.Tensor,
        cam_from_world: torch.Tensor | None = None,
        intrinsics: torch.Tensor | None = None,
        reference_view: ReferenceView = "first",
    ) -> GeometryOutput:
        r"""Look at clips.

        Args:
            images (`torch.FloatTensor` of shape `(B, S, 3, H, W)`):
                RGB in [0, 1], not normalised.
            cam_from_world (`torch.FloatTensor` of shape `(B, S, 3, 4)`, *optional*):
                Known cameras, for a network with a camera encoder.
            intrinsics (`torch.FloatTensor` of shape `(B, S, 3, 3)`, *optional*):
                Their pinhole matrices in pixels.
            reference_view (`str`, *optional*, defaults to `"first"`):
                The frame that the others refer to, see [`choose_reference`]; from three frames on, without known
                cameras.

        Returns:
            [`GeometryOutput`].

        Raises:
            ValueError: The images have another shape, or sides that are no multiples of the patch; cameras are given
                to a network without camera encoder; an unknown `reference_view`.
        """
        clip_shape, image_size, grid = images.shape[:2], images.shape[-2:], self.grid_size(images)
        if cam_from_world is not None and self.camera_encoder is None:
            raise ValueError("Known cameras need the camera encoder: configure `camera_encoder=True`.")
        with self.mixed_precision(images.device):
            cameras = None if cam_from_world is None else self.camera_encoder(cam_from_world, intrinsics, image_size)
            layers, reference = self.run_blocks(images, cameras, reference_view)
            dense = [self._dense_map(layers[layer], grid) for layer in self.config.dense_layers]
            depth, confidence = positive_with_confidence(self._decode(dense, image_size))
            features = tuple(
                self._normed_patches(layers[layer][1], grid).unflatten(0, clip_shape)
                for layer in self.config.alignment_layers
            )
            rays = self._rays(dense, image_size) if self.ray_head is not None else None
        with torch.autocast(images.device.type, enabled=False):
            tokens = torch.cat([half[:, 0] for half in layers[self.config.dense_layers[-1]]], dim=-1)
            pose_enc = self.camera_head(tokens.to(self.camera_head.fc1.weight.dtype)).unflatten(0, clip_shape)
        output = GeometryOutput(
            pose_enc=pose_enc,
            depth=depth.unflatten(0, clip_shape),
            depth_confidence=confidence.unflatten(0, clip_shape),
            features=features,
            reference_view=reference,
        )
        if rays is not None:
            output.rays = rays[:, :6].permute(0, 2, 3, 1).unflatten(0, clip_shape)
            output.rays_confidence = 1 + rays[:, 6].exp().unflatten(0, clip_shape)
        return output

    def run_blocks(
        self, images: torch.Tensor, cameras: torch.Tensor | None = None, reference_view: ReferenceView = "first"
    ) -> tuple[dict[int, tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
        r"""Run the backbone.

        Args:
            images (`torch.FloatTensor` of shape `(B, S, 3, H, W)`): RGB in [0, 1].
            cameras (`torch.FloatTensor` of shape `(B, S, hidden_size)`, *optional*): Tokens of known cameras.
            reference_view (`str`, *optional*, defaults to `"first"`): See [`choose_reference`].

        Returns:
            `tuple[dict[int, tuple[torch.FloatTensor, torch.FloatTensor]], torch.LongTensor]`: By layer that a head or
            the alignment reads, the outputs `(B * S, 1 + patches, hidden_size)` of the latest block within frames and
            of the layer's own block, frames in their own order; and the reference frame of each clip.
        """
        config, backbone = self.config, self.backbone
        num_clips, num_frames = images.shape[:2]
        x = in_chunks(
            lambda frames: backbone.embedding(normalize_images(frames)), self.frames_chunk_size, images.flatten(0, 1)
        )
        within, between = self._rotary_tables(self.grid_size(images), num_frames, images.device)
        reference = torch.zeros(num_clips, dtype=torch.long, device=images.device)
        order = None
        wanted = {*config.dense_layers, *config.alignment_layers}

        kept = {}
        for layer, block in enumerate(backbone.blocks):
            alternating = layer >= config.alternation_start
            if layer == config.alternation_start - 1 and num_frames >= 3 and cameras is None:
                reference = choose_reference(reference_view, x[:, 0].unflatten(0, (num_clips, num_frames)))
                if reference_view != "first":
                    order = reference_first(reference, num_frames)
                    x = self._reorder(x, order)
            if layer == config.alternation_start:
                tokens = self._camera_tokens(num_clips, num_frames) if cameras is None else cameras
                x = torch.cat([tokens.flatten(0, 1)[:, None].to(x.dtype), x[:, 1:]], dim=1)
            if alternating and layer % 2 == 1:
                chunk = None if self.frames_chunk_size is None else self.frames_chunk_size * x.shape[1]
                x = block(x.view(num_clips, -1, x.shape[-1]), between, chunk).view_as(x)
            else:
                table = within if alternating else None
                x = local = in_chunks(
                    lambda rows, block=block, table=table: block(rows, table), self.frames_chunk_size, x
                )
            if layer in wanted:
                halves = (local, x)
                if order is not None:
                    halves = tuple(self._reorder(half, order.argsort(dim=-1)) for half in halves)
                kept[layer] = halves
        return kept, reference

    def _rotary_tables(self, grid: tuple[int, int], num_frames: int, device) -> tuple[RotaryTable, RotaryTable]:
        """Tables within a frame and between frames. Between frames all patches share one position."""
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        positions = grid_positions(grid, 1, device)
        within = axial_table(positions, head_dim, self.config.rope_base)
        between = axial_table(positions.clamp(max=1).repeat(num_frames, 1), head_dim, self.config.rope_base)
        return within, between

    def _camera_tokens(self, num_clips: int, num_frames: int) -> torch.Tensor:
        others = self.camera_token[:, 1:].expand(-1, num_frames - 1, -1)
        return torch.cat([self.camera_token[:, :1], others], dim=1).expand(num_clips, -1, -1)

    @staticmethod
    def _reorder(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        """Reorder the frames of `(B * S, tokens, C)` as `(B, S)` says."""
        clips = x.unflatten(0, order.shape)
        return clips.gather(1, order[..., None, None].expand_as(clips)).flatten(0, 1)

    def _dense_map(self, halves: tuple[torch.Tensor, torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
        """What the dense head reads of a layer: the half within frames as it is, the other one normed."""
        local, current = (half[:, 1:] for half in halves)
        return side_by_side(local, self.backbone.norm(current), self.matrix_dtype).unflatten(1, grid)

    def _normed_patches(self, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        return self.backbone.norm(x[:, 1:]).to(self.matrix_dtype).unflatten(1, grid)

    def _decode(self, maps: list[torch.Tensor], image_size: tuple[int, int]) -> torch.Tensor:
        return in_chunks(lambda *rows: self.depth_head(rows, image_size), self.dense_chunk_size, *maps)

    def _rays(self, maps: list[torch.Tensor], image_size: tuple[int, int]) -> torch.Tensor:
        def decode(*rows: torch.Tensor) -> torch.Tensor:
            return self.ray_head(self.depth_head.pyramid(rows, image_size), image_size)

        return in_chunks(decode, self.dense_chunk_size, *maps)

    @staticmethod
    def published_names(config: DepthAnything3Config) -> PublishedNames:
        """Names in the files of `depth-anything/DA3-*`."""
        return {
            **da3_backbone_names("backbone"),
            "camera_token": "model.backbone.pretrained.camera_token",
            "camera_head.fc1": "model.cam_dec.backbone.0",
            "camera_head.fc2": "model.cam_dec.backbone.2",
            "camera_head.translation": "model.cam_dec.fc_t",
            "camera_head.rotation": "model.cam_dec.fc_qvec",
            "camera_head.field_of_view": "model.cam_dec.fc_fov.0",
            **dense_head_names("depth_head", "model.head"),
            **da3_ray_names("ray_head", "model.head"),
            "camera_encoder": "model.cam_enc",
        }
