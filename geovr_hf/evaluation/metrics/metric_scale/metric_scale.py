"""How far predicted metric scales are off: the logarithm of predicted over true scale."""

import math

import datasets
import evaluate

from geovr_hf.evaluation.geometry import scale_log_ratio
from geovr_hf.evaluation.metric_spaces import metric_info


EXAMPLE = {"predictions": [2.0, 0.5], "references": [1.0, 1.0]}
_INPUTS = """Args:
    predictions (list of float): predicted metres in one unit, one for each clip.
    references (list of float): true metres in one unit.
Returns:
    log_error: mean of |log(p / t)|. factor: its exponential, the factor by which scales are off, at least 1.
    log_bias: mean of log(p / t); above 0 scales are too large.
"""
_SOURCE = "Wang and Huang, GeoVR, arXiv:2606.05833 (metric scale)."


class MetricScale(evaluate.Metric):
    """See the module."""

    def _info(self):
        features = {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
        return metric_info(__doc__, _INPUTS, _SOURCE, features)

    def _compute(self, predictions, references):
        ratios = [scale_log_ratio(ours, true) for ours, true in zip(predictions, references, strict=True)]
        error = sum(map(abs, ratios)) / len(ratios)
        return {"log_error": error, "factor": math.exp(error), "log_bias": sum(ratios) / len(ratios)}
