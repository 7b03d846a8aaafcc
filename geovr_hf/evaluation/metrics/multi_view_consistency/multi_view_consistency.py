"""Whether the depth maps and cameras of a clip agree with each other. No truth is needed."""

import evaluate
import torch

from geovr_hf.evaluation.consistency import multi_view_consistency
from geovr_hf.evaluation.metric_spaces import metric_info, nested


EXAMPLE = {
    "predictions": [
        {
            "pose_enc": [[0, 0, 0, 0, 0, 0, 1, 1, 1], [0.1, 0, 0, 0, 0, 0, 1, 1, 1]],
            "depth": [[[2.0] * 8] * 6] * 2,
        }
    ]
}
_INPUTS = """Args:
    predictions (list of dict): of each clip `pose_enc` of shape (T, 9) (camera-from-world translation, quaternion
        x y z w, vertical and horizontal field of view in radians; OpenCV axes) and `depth` of shape (T, H, W) in the
        same unit.
Returns:
    reprojection_px, depth_error, consistent, overlap: means over clips.
"""
_SOURCE = "Schoenberger et al., Pixelwise view selection for unstructured multi-view stereo, ECCV 2016."


class MultiViewConsistencyMetric(evaluate.Metric):
    """See the module."""

    def _info(self):
        features = {"predictions": {"pose_enc": nested(2, "float64"), "depth": nested(3)}}
        return metric_info(__doc__, _INPUTS, _SOURCE, features)

    def _compute(self, predictions):
        clips = [
            multi_view_consistency(torch.tensor(clip["pose_enc"]), torch.tensor(clip["depth"])) for clip in predictions
        ]
        clips = [clip for clip in clips if clip is not None]
        if not clips:
            raise ValueError("No frame of any clip sees a pixel of its neighbour: nothing can be compared.")
        return {name: sum(getattr(clip, name) for clip in clips) / len(clips) for name in clips[0]._fields}
