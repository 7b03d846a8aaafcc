"""Heads of Depth Anything 3 beside the dense one: cameras from tokens, tokens from known cameras, and rays."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from geovr_hf.modeling.dense_decoder_geovr import FusionBlock, add_position, fuse_pyramid
from geovr_hf.modeling.geometry_geovr import cameras_to_pose_encoding

from .blocks import Block, FeedForward
from .configuration_depth_anything3 import DepthAnything3Config


class DepthAnything3CameraHead(nn.Module):
    r"""Reads a camera-to-world pose encoding from each frame's class token.

    Args:
        width (`int`): Width of the tokens.
    """

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        self.translation = nn.Linear(width, 3)
        self.rotation = nn.Linear(width, 4)
        self.field_of_view = nn.Linear(width, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """From `(..., width)` to `(..., 9)`."""
        x = F.relu(self.fc2(F.relu(self.fc1(tokens))))
        return torch.cat([self.translation(x), self.rotation(x), F.relu(self.field_of_view(x))], dim=-1)


class DepthAnything3CameraEncoder(nn.Module):
    r"""Turns known cameras into the tokens that stand for them.

    Args:
        config ([`DepthAnything3Config`]): The configuration.
    """

    def __init__(self, config: DepthAnything3Config):
        super().__init__()
        width = config.hidden_size
        self.pose_branch = FeedForward(9, width // 2, width)
        self.token_norm = nn.LayerNorm(width)
        self.trunk = nn.ModuleList(
            Block(config, width, config.camera_encoder_num_heads, FeedForward(width, 4 * width), eps=1e-5)
            for _ in range(config.camera_encoder_num_layers)
        )
        self.trunk_norm = nn.LayerNorm(width)

    def forward(
        self, cam_from_world: torch.Tensor, intrinsics: torch.Tensor, image_size: tuple[int, int]
    ) -> torch.Tensor:
        r"""Encode cameras.

        Args:
            cam_from_world (`torch.FloatTensor` of shape `(B, S, 3, 4)`): Camera-from-world poses.
            intrinsics (`torch.FloatTensor` of shape `(B, S, 3, 3)`): Pinhole matrices in pixels.
            image_size (`tuple[int, int]`): Height and width of the images in pixels.

        Returns:
            `torch.FloatTensor` of shape `(B, S, hidden_size)`: A token per frame.
        """
        pose_enc = cameras_to_pose_encoding(cam_from_world, intrinsics, image_size, world_from_cam=True)
        x = self.token_norm(self.pose_branch(pose_enc))
        for block in self.trunk:
            x = block(x)
        return self.trunk_norm(x)


class DepthAnything3RayHead(nn.Module):
    r"""Predicts rays from the maps that the dense head fuses.

    Args:
        fusion_size (`int`): Channels of these maps.
    """

    def __init__(self, fusion_size: int):
        super().__init__()
        half = fusion_size // 2
        self.fusions = nn.ModuleList(FusionBlock(fusion_size, deepest=stage == 3) for stage in range(4))
        self.neck = nn.Sequential(
            *(nn.Conv2d(*channels, 3, padding=1) for channels in pairwise([fusion_size, half] * 3))
        )
        self.conv = nn.Conv2d(half, 32, 3, padding=1)
        self.norm = nn.LayerNorm(32)
        self.projection = nn.Conv2d(32, 7, 1)

    def forward(self, pyramid: Sequence[torch.Tensor], image_size: tuple[int, int]) -> torch.Tensor:
        """From the dense head's pyramid to rays and raw confidence `(T, 7, 8h, 8w)`, float32."""
        x = add_position(self.neck(fuse_pyramid(self.fusions, pyramid, upsampling=2)), image_size)
        x = self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.projection(F.relu(x)).float()
