"""VGGT's camera head: refines a pose from the camera tokens of all frames."""

import torch
import torch.nn.functional as F
from torch import nn

from .blocks import Block, FeedForward
from .configuration_vggt import VGGTConfig


class VGGTCameraHead(nn.Module):
    r"""Refines pose encodings in a few rounds (spec: VGGT, arXiv 2503.11651, section 3.4).

    In each round the running pose modulates the frames' camera tokens, always the same ones; blocks let the frames
    look at each other; what comes out is added to the pose. The running pose is fed back without its activation.

    Args:
        config ([`VGGTConfig`]): The configuration.
    """

    def __init__(self, config: VGGTConfig):
        super().__init__()
        width = 2 * config.hidden_size
        self.iterations = config.camera_iterations
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, 9))
        self.token_norm = nn.LayerNorm(width)
        self.embed_pose = nn.Linear(9, width)
        self.modulation = nn.Linear(width, 3 * width)
        self.trunk = nn.ModuleList(
            Block(config, width, config.camera_num_heads, FeedForward(width, 4 * width), eps=1e-5)
            for _ in range(config.camera_num_layers)
        )
        self.trunk_norm = nn.LayerNorm(width)
        self.pose_branch = FeedForward(width, width // 2, 9)

    def forward(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        r"""Predict poses.

        Args:
            tokens (`torch.FloatTensor` of shape `(B, S, 2 * hidden_size)`): Camera tokens of the last layer.

        Returns:
            `list[torch.FloatTensor]` of shapes `(B, S, 9)`: Pose encodings after each round.
        """
        tokens = self.token_norm(tokens)
        plain = F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
        pose, poses = None, []
        for _ in range(self.iterations):
            embedded = self.embed_pose(self.empty_pose_tokens.expand_as(plain[..., :9]) if pose is None else pose)
            shift, scale, gate = self.modulation(F.silu(embedded)).chunk(3, dim=-1)
            x = tokens + gate * (plain * (1 + scale) + shift)
            for block in self.trunk:
                x = block(x)
            change = self.pose_branch(self.trunk_norm(x))
            pose = change if pose is None else pose + change
            poses.append(torch.cat([pose[..., :7], F.relu(pose[..., 7:])], dim=-1))
        return poses
