"""What the teachers' networks return."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class GeometryOutput(ModelOutput):
    r"""Geometry of `B` clips of `S` frames, in the network's own unit and convention.

    Args:
        pose_enc (`torch.FloatTensor` of shape `(B, S, 9)`, float32):
            Translation (3), quaternion x, y, z, w (4, not normalised), vertical and horizontal field of view (2,
            radians). OpenCV axes. Camera-from-world, but camera-to-world if the network's class has
            `world_from_cam = True`.
        depth (`torch.FloatTensor` of shape `(B, S, H, W)`, float32):
            Depth along z, > 0.
        depth_confidence (`torch.FloatTensor` of shape `(B, S, H, W)`, float32):
            Confidence of the depth, >= 1.
        features (`tuple[torch.FloatTensor]` of shapes `(B, S, h, w, C)`):
            Features of the configured alignment layers, shallow to deep.
        pose_enc_iterations (`tuple[torch.FloatTensor]` of shapes `(B, S, 9)`, *optional*):
            The pose after each refinement, if the network refines.
        world_points (`torch.FloatTensor` of shape `(B, S, H, W, 3)`, *optional*):
            Points in the world, by the point head if it was asked for.
        world_points_confidence (`torch.FloatTensor` of shape `(B, S, H, W)`, *optional*):
            Their confidence.
        rays (`torch.FloatTensor` of shape `(B, S, 8h, 8w, 6)`, *optional*):
            Rays, by the ray head if it was asked for.
        rays_confidence (`torch.FloatTensor` of shape `(B, S, 8h, 8w)`, *optional*):
            Their confidence.
        reference_view (`torch.LongTensor` of shape `(B,)`, *optional*):
            The frame that the others refer to, if the network chose one.
    """

    pose_enc: torch.Tensor | None = None
    depth: torch.Tensor | None = None
    depth_confidence: torch.Tensor | None = None
    features: tuple[torch.Tensor, ...] | None = None
    pose_enc_iterations: tuple[torch.Tensor, ...] | None = None
    world_points: torch.Tensor | None = None
    world_points_confidence: torch.Tensor | None = None
    rays: torch.Tensor | None = None
    rays_confidence: torch.Tensor | None = None
    reference_view: torch.Tensor | None = None


@dataclass
class MetricDepthOutput(ModelOutput):
    r"""Depth of `B` clips of `S` frames for a camera of a canonical focal length.

    Args:
        depth (`torch.FloatTensor` of shape `(B, S, H, W)`, float32):
            Depth, > 0: metres for a focal length of 300 pixels. Sky is as far as the farthest of the rest.
        raw_depth (`torch.FloatTensor` of shape `(B, S, H, W)`, float32):
            Depth before the sky was filled.
        sky (`torch.FloatTensor` of shape `(B, S, H, W)`, float32):
            Sky score, >= 0; sky from 0.3 on.
    """

    depth: torch.Tensor | None = None
    raw_depth: torch.Tensor | None = None
    sky: torch.Tensor | None = None
