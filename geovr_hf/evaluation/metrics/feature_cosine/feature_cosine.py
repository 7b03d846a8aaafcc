"""Cosine between predicted and teacher features, layer by layer."""

import evaluate
import torch

from geovr_hf.evaluation.geometry import feature_cosines
from geovr_hf.evaluation.metric_spaces import metric_info, nested


EXAMPLE = {"predictions": [[[[1.0, 0.0], [0.0, 2.0]]]], "references": [[[[1.0, 1.0], [0.0, 1.0]]]]}
_INPUTS = """Args:
    predictions (list of lists of arrays of shape (N, C)): for each clip and layer the features of N tokens.
    references (list of lists of arrays of shape (N, C)): the teacher's, averaged to the same tokens.
Returns:
    layers: mean cosine of each layer, shallow to deep. mean: their mean.
"""
_SOURCE = "Wang and Huang, GeoVR, arXiv:2606.05833 (feature alignment)."


class FeatureCosine(evaluate.Metric):
    """See the module."""

    def _info(self):
        features = {"predictions": nested(3), "references": nested(3)}
        return metric_info(__doc__, _INPUTS, _SOURCE, features)

    def _compute(self, predictions, references):
        clips = [
            feature_cosines([torch.tensor(layer) for layer in ours], [torch.tensor(layer) for layer in theirs])
            for ours, theirs in zip(predictions, references, strict=True)
        ]
        layers = [sum(layer) / len(layer) for layer in zip(*clips, strict=True)]
        return {"layers": layers, "mean": sum(layers) / len(layers)}
