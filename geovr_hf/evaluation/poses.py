"""Camera paths against true ones: relative poses of all pairs of frames, and the path as a whole."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from geovr_hf.modeling.geometry_geovr import compose_poses, invert_pose, quaternion_to_matrix
from geovr_hf.trainers.metrics import direction_angles, rotation_angles


AUC_THRESHOLDS = (5, 15, 30)
TrajectoryAlignment = Literal["sim3", "se3", "none"]


@dataclass(frozen=True)
class RelativePoseErrors:
    """Errors of the relative poses of `P` pairs of frames, in degrees.

    Args:
        rotation_deg (`torch.FloatTensor` of shape `(P,)`): Angle between predicted and true relative rotation.
        direction_deg (`torch.FloatTensor` of shape `(P,)`): Angle between the translations, sign included. NaN where
            the camera did not move between the two frames: that has no direction.
    """

    rotation_deg: torch.Tensor
    direction_deg: torch.Tensor

    @property
    def worst_deg(self) -> torch.Tensor:
        """The larger of the two errors of each pair, that of the rotation where there is no direction."""
        return torch.fmax(self.rotation_deg, self.direction_deg)

    def auc(self, threshold: float, binned: bool = False) -> float:
        """Area under the curve of the share of pairs whose worse error is below an angle, from 0 to `threshold`.

        Args:
            threshold (`float`): Largest angle in degrees.
            binned (`bool`, *optional*, defaults to `False`): Sum up the curve at whole degrees, as the evaluations of
                VGGT and its kin do, instead of integrating it. Pairs within a degree of the truth then count in full.

        Returns:
            `float`: In `[0, 1]`, higher is better.
        """
        errors = self.worst_deg.double()
        if binned:
            degrees = torch.arange(1, int(threshold) + 1, dtype=errors.dtype)
            return float((errors[:, None] < degrees).double().mean())
        return float((1 - errors / threshold).clamp(min=0).mean())


def relative_pose_errors(
    prediction: torch.Tensor, target: torch.Tensor, min_baseline: float = 1e-3
) -> RelativePoseErrors | None:
    r"""Compare the relative poses of all pairs of frames. Neither world nor scale of the paths matters.

    Args:
        prediction (`torch.FloatTensor` of shape `(T, 9)`): Pose encodings, camera-from-world.
        target (`torch.FloatTensor` of shape `(T, 9)`): True pose encodings.
        min_baseline (`float`, *optional*, defaults to 1e-3): A shorter true translation has no direction.

    Returns:
        [`RelativePoseErrors`] or `None`: `None` for fewer than two frames.

    Raises:
        ValueError: The two differ in shape.
    """
    _check_paths(prediction, target)
    if len(target) < 2:
        return None
    first, second = torch.triu_indices(len(target), len(target), offset=1)
    relative, true = (
        compose_poses(poses[second], invert_pose(poses[first])) for poses in map(_cam_from_world, (prediction, target))
    )
    moved = true[..., 3].norm(dim=-1) > min_baseline
    direction = torch.full_like(moved, float("nan"), dtype=true.dtype)
    direction[moved] = direction_angles(relative[moved][..., 3], true[moved][..., 3])
    return RelativePoseErrors(rotation_angles(relative[..., :3], true[..., :3]), direction)


class TrajectoryError(NamedTuple):
    """Distances between aligned predicted and true camera centres, in the unit of the truth.

    Args:
        rmse (`float`): Root of the mean squared distance: the absolute trajectory error.
        mean (`float`): Mean distance.
        max (`float`): Largest distance.
        scale (`float`): Factor that the alignment applied to the prediction.
    """

    rmse: float
    mean: float
    max: float
    scale: float


def trajectory_error(
    prediction: torch.Tensor, target: torch.Tensor, alignment: TrajectoryAlignment = "sim3"
) -> TrajectoryError:
    r"""Absolute trajectory error: distances between camera centres after the best alignment of the whole path.

    Args:
        prediction (`torch.FloatTensor` of shape `(T, 9)`): Pose encodings, camera-from-world.
        target (`torch.FloatTensor` of shape `(T, 9)`): True pose encodings.
        alignment (`str`, *optional*, defaults to `"sim3"`): What the prediction is allowed: `"sim3"` rotation,
            translation and scale, `"se3"` no scale, `"none"` nothing.

    Returns:
        [`TrajectoryError`]

    Raises:
        ValueError: The two differ in shape, or the alignment is unknown.
    """
    _check_paths(prediction, target)
    centres, true = (invert_pose(_cam_from_world(poses))[..., 3] for poses in (prediction, target))
    scale = centres.new_ones(())
    if alignment in ("sim3", "se3"):
        similarity = align_points(centres, true, with_scale=alignment == "sim3")
        centres, scale = similarity.apply(centres), similarity.scale
    elif alignment != "none":
        raise ValueError(f"`alignment` must be sim3, se3 or none; got {alignment!r}.")
    distances = (centres - true).norm(dim=-1)
    return TrajectoryError(
        float(distances.square().mean().sqrt()), float(distances.mean()), float(distances.max()), float(scale)
    )


class Similarity(NamedTuple):
    """The map `x -> scale R x + t`."""

    scale: torch.Tensor
    rotation: torch.Tensor
    translation: torch.Tensor

    def apply(self, points: torch.Tensor) -> torch.Tensor:
        """Map points of shape `(N, 3)`."""
        return self.scale * points @ self.rotation.mT + self.translation


def align_points(source: torch.Tensor, target: torch.Tensor, with_scale: bool = True) -> Similarity:
    r"""Similarity with the least squared distance from points to their targets (Umeyama, TPAMI 1991, eqs. 40 to 42).

    Points on a line, or all in one place, leave rotation or scale open; of the best maps one is returned, and the
    distance that remains is the least all the same.

    Args:
        source (`torch.FloatTensor` of shape `(N, 3)`): Points.
        target (`torch.FloatTensor` of shape `(N, 3)`): Where they should be.
        with_scale (`bool`, *optional*, defaults to `True`): Whether they may be scaled.

    Returns:
        [`Similarity`]: Scale `()`, rotation `(3, 3)` and translation `(3,)`.
    """
    source_mean, target_mean = source.mean(0), target.mean(0)
    centred = source - source_mean
    u, stretch, vt = torch.linalg.svd((target - target_mean).mT @ centred / len(source))
    # Without this the best map could be a reflection.
    signs = torch.ones_like(stretch)
    signs[2] = torch.sign(torch.linalg.det(u) * torch.linalg.det(vt))
    rotation = u @ torch.diag(signs) @ vt
    variance = centred.square().sum(1).mean()
    scale = (stretch * signs).sum() / variance if with_scale and variance > 0 else torch.ones_like(variance)
    return Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)


def _cam_from_world(pose_enc: torch.Tensor) -> torch.Tensor:
    pose_enc = pose_enc.double()
    return torch.cat([quaternion_to_matrix(pose_enc[:, 3:7]), pose_enc[:, :3, None]], dim=-1)


def _check_paths(prediction: torch.Tensor, target: torch.Tensor) -> None:
    if prediction.shape != target.shape or target.ndim != 2 or target.shape[1] != 9:
        raise ValueError(
            "Pose encodings must both have shape (frames, 9), "
            f"got {tuple(prediction.shape)} and {tuple(target.shape)}."
        )
