"""Relative camera poses of all pairs of frames: rotation and direction errors, and AUC at 5, 15 and 30 degrees."""

import evaluate
import torch

from geovr_hf.evaluation.metric_spaces import metric_info, nested
from geovr_hf.evaluation.poses import AUC_THRESHOLDS, relative_pose_errors


EXAMPLE = {
    "predictions": [[[0, 0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 0, 0, 1, 1, 1]]],
    "references": [[[0, 0, 0, 0, 0, 0, 1, 1, 1], [0, 0.1, 1, 0, 0, 0, 1, 1, 1]]],
}
_INPUTS = """Args:
    predictions (list of arrays of shape (T, 9)): pose encodings of each clip: camera-from-world translation,
        quaternion x y z w, vertical and horizontal field of view in radians; OpenCV axes.
    references (list of arrays of shape (T, 9)): the true ones.
    binned (bool): sum the curve up at whole degrees, as VGGT's evaluation does, instead of integrating it.
Returns:
    rotation_error_deg, direction_error_deg, auc_5, auc_15, auc_30: means over clips. direction_error_deg is None if no
    camera moves.
"""
_SOURCE = "Wang et al., VGGT, arXiv:2503.11651 (AUC of relative poses)."


class RelativePose(evaluate.Metric):
    """See the module."""

    def _info(self):
        features = {"predictions": nested(2, "float64"), "references": nested(2, "float64")}
        return metric_info(__doc__, _INPUTS, _SOURCE, features)

    def _compute(self, predictions, references, binned=False):
        pairs = zip(predictions, references, strict=True)
        clips = [relative_pose_errors(torch.tensor(ours), torch.tensor(true)) for ours, true in pairs]
        clips = [clip for clip in clips if clip is not None]
        if not clips:
            raise ValueError("No clip has two frames: there is no relative pose.")
        directions = [clip.direction_deg.nanmean() for clip in clips if clip.direction_deg.isfinite().any()]
        return {
            "rotation_error_deg": float(torch.stack([clip.rotation_deg.mean() for clip in clips]).mean()),
            "direction_error_deg": float(torch.stack(directions).mean()) if directions else None,
            **{f"auc_{t}": sum(clip.auc(t, binned) for clip in clips) / len(clips) for t in AUC_THRESHOLDS},
        }
