"""A network as a teacher: frames in, canonical geometry targets out."""

from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from geovr_hf.data.clip import Clip
from geovr_hf.modeling.geometry_geovr import (
    matrix_to_quaternion,
    pose_encoding_to_cameras,
    relative_to_first,
)
from geovr_hf.modeling.targets_geovr import GeometryTargets

from .images import teacher_images
from .metric_network import MetricDepth
from .metric_scale import metric_scale_target
from .networks.base import TeacherNetwork
from .teacher import TeacherSpec


Poses = Literal["canonical", "published"]

# On Hopper cuDNN's attention is the fastest that PyTorch carries; PyTorch itself would take FlashAttention-2 first.
_FASTEST_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


class NetworkTeacher:
    r"""Asks a network about the frames of a clip, and a metric network how large its unit is.

    It is no `nn.Module`: beside a model that trains, it is in no checkpoint and in no DDP or FSDP wrapping.

    Args:
        network ([`TeacherNetwork`]):
            The network.
        spec ([`TeacherSpec`]):
            Its layout and terms.
        fingerprint (`str`):
            Differs whenever targets for the same frames could differ.
        metric ([`MetricDepth`], *optional*):
            Source of metric depth. Without, targets have no metric scale.
        poses (`str`, *optional*, defaults to `"canonical"`):
            `"canonical"`: camera-from-world, frame 0 is the world, unit quaternions with scalar part >= 0.
            `"published"`: the network's own nine numbers, as the published program regresses them; those of Depth
            Anything 3 are camera-to-world.
    """

    def __init__(
        self,
        network: TeacherNetwork,
        spec: TeacherSpec,
        fingerprint: str,
        metric: MetricDepth | None = None,
        poses: Poses = "canonical",
    ):
        if poses not in ("canonical", "published"):
            raise ValueError(f"`poses` must be 'canonical' or 'published', got {poses!r}.")
        self.network, self.spec, self.fingerprint, self.metric, self.poses = network, spec, fingerprint, metric, poses

    @property
    def device(self) -> torch.device:
        """Where the network is, and where targets come out."""
        return self.network.device

    @torch.no_grad()
    def targets(self, clip: Clip | torch.Tensor) -> GeometryTargets:
        """Targets of a clip.

        Args:
            clip ([`Clip`] or `torch.ByteTensor` of shape `(T, H, W, 3)`): The frames.

        Returns:
            `GeometryTargets`: On the teacher's device, features not pooled. Without metric network, or where no pixel
            of the clip qualifies, `metric_scale` is `None`.

        Raises:
            ValueError: The frames have another shape or dtype, or are too elongated.
            RuntimeError: Out of memory; says for which frames, and what helps.
        """
        frames = clip.frames if isinstance(clip, Clip) else clip
        images = teacher_images(frames, self.spec.image_rule)
        with self._explained(images), self.fast_attention():
            return self.look(images.to(self.device, non_blocking=True))

    def look(self, images: torch.Tensor) -> GeometryTargets:
        """Targets of images that follow the image rule.

        Args:
            images (`torch.FloatTensor` of shape `(T, 3, H, W)`): RGB in [0, 1], on the teacher's device.

        Returns:
            `GeometryTargets`: As of `targets`.
        """
        output = self.network(images[None])
        depth, confidence, pose_enc = output.depth[0], output.depth_confidence[0], output.pose_enc[0].float()
        scale = None
        if self.metric is not None:
            metric_depth, sky = self.metric.metric_depth(images, pose_enc[:, 7:])
            scale = metric_scale_target(depth, confidence, metric_depth, sky)
        if self.poses == "canonical":
            pose_enc = canonical_poses(pose_enc, self.network.world_from_cam)
        return GeometryTargets(
            pose_enc=pose_enc,
            depth=depth,
            depth_confidence=confidence,
            metric_scale=scale,
            features=[features[0] for features in output.features],
        )

    @contextmanager
    def fast_attention(self):
        """Have SDPA choose the fastest kernel, on a GPU."""
        with ExitStack() as stack:
            if self.device.type == "cuda":
                stack.enter_context(sdpa_kernel(_FASTEST_FIRST, set_priority=True))
            yield

    @contextmanager
    def _explained(self, images: torch.Tensor):
        try:
            yield
        except RuntimeError as error:
            # On the CPU an allocation that fails has no type of its own.
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            frames, _, height, width = images.shape
            chunk = self.network.frames_chunk_size
            if chunk is None:
                cure = "Load the teacher with `frames_chunk_size=8`, or sample fewer frames."
            elif chunk > 1:
                cure = f"Load the teacher with a smaller `frames_chunk_size` than {chunk}, or sample fewer frames."
            else:
                cure = "Frames pass one at a time already: sample fewer of them."
            raise RuntimeError(
                f"{self.spec.name} ran out of memory on {frames} frames of {height} x {width} pixels. {cure}"
            ) from error


def canonical_poses(pose_enc: torch.Tensor, world_from_cam: bool) -> torch.Tensor:
    r"""Bring a network's poses to the package's convention.

    Args:
        pose_enc (`torch.FloatTensor` of shape `(T, 9)`): The network's pose encodings.
        world_from_cam (`bool`): Whether they are camera-to-world.

    Returns:
        `torch.FloatTensor` of shape `(T, 9)`: Camera-from-world, where frame 0 is the world; unit quaternions of
        scalar part >= 0; fields of view as they were.
    """
    # Intrinsics are not read here, so any size of image will do.
    cam_from_world, _ = pose_encoding_to_cameras(pose_enc, (1, 1), world_from_cam=world_from_cam, min_tangent=1e-6)
    poses = relative_to_first(cam_from_world)
    return torch.cat([poses[..., 3], matrix_to_quaternion(poses[..., :3]), pose_enc[..., 7:]], dim=-1)
