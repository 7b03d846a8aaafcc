"""Absolute trajectory error: distances between camera centres after the best alignment of the whole path."""

import evaluate
import torch

from geovr_hf.evaluation.metric_spaces import metric_info, nested
from geovr_hf.evaluation.poses import trajectory_error


EXAMPLE = {
    "predictions": [[[0, 0, -z, 0, 0, 0, 1, 1, 1] for z in (0, 1, 2)]],
    "references": [[[-2 * x, 0, 0, 0, 0, 0, 1, 1, 1] for x in (0, 1, 2)]],
    "alignment": "sim3",
}
_INPUTS = """Args:
    predictions (list of arrays of shape (T, 9)): pose encodings of each clip: camera-from-world translation,
        quaternion x y z w, vertical and horizontal field of view in radians; OpenCV axes.
    references (list of arrays of shape (T, 9)): the true ones.
    alignment (str): "sim3" (default), "se3" or "none": what the prediction may be fitted by.
Returns:
    rmse, mean, max: means over clips, in the unit of the references. alignment.
"""
_SOURCE = "Umeyama, Least-squares estimation of transformation parameters between two point patterns, TPAMI 1991."


class TrajectoryErrorMetric(evaluate.Metric):
    """See the module."""

    def _info(self):
        features = {"predictions": nested(2, "float64"), "references": nested(2, "float64")}
        return metric_info(__doc__, _INPUTS, _SOURCE, features)

    def _compute(self, predictions, references, alignment="sim3"):
        pairs = zip(predictions, references, strict=True)
        clips = [trajectory_error(torch.tensor(ours), torch.tensor(true), alignment) for ours, true in pairs]
        means = {name: sum(getattr(clip, name) for clip in clips) / len(clips) for name in ("rmse", "mean", "max")}
        return {**means, "alignment": alignment}
