"""Depth maps against measured depth: AbsRel, RMSE and delta < 1.25, after a named alignment."""

import evaluate
import torch

from geovr_hf.evaluation.depth import depth_metrics
from geovr_hf.evaluation.metric_spaces import metric_info, nested


EXAMPLE = {
    "predictions": [[[[1.0, 2.0], [3.0, 4.0]]]],
    "references": [[[[2.0, 4.0], [6.0, 0.0]]]],
    "alignment": "median",
}
_INPUTS = """Args:
    predictions (list of arrays of shape (T, H, W)): predicted depth of each clip.
    references (list of arrays of shape (T, H, W)): true depth; 0 where nothing was measured.
    alignment (str): "raw" (default), "median" or "scale-and-shift"; fitted to each clip.
Returns:
    abs_rel, rmse, delta: means over clips. num_clips: clips with measured depth. alignment.
"""
_SOURCE = "Eigen et al., Depth map prediction from a single image, arXiv:1406.2283."


class DepthError(evaluate.Metric):
    """See the module."""

    def _info(self):
        features = {"predictions": nested(3), "references": nested(3)}
        return metric_info(__doc__, _INPUTS, _SOURCE, features)

    def _compute(self, predictions, references, alignment="raw"):
        pairs = zip(predictions, references, strict=True)
        clips = [depth_metrics(torch.tensor(ours), torch.tensor(true), None, alignment) for ours, true in pairs]
        clips = [clip for clip in clips if clip is not None]
        if not clips:
            raise ValueError("No clip has measured depth: all references are 0.")
        means = {name: sum(getattr(clip, name) for clip in clips) / len(clips) for name in clips[0]._fields}
        return {**means, "num_clips": len(clips), "alignment": alignment}
