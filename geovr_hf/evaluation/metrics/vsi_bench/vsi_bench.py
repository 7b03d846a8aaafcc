"""VSI-Bench: how well questions about a video's space are answered, under a named protocol."""

import datasets
import evaluate

from geovr_hf.evaluation.bootstrap import Bootstrap
from geovr_hf.evaluation.metric_spaces import metric_info
from geovr_hf.evaluation.vsi_bench import score_vsi_bench


EXAMPLE = {
    "predictions": ["4", "B. left"],
    "references": [
        {"ground_truth": "5", "question_type": "object_counting"},
        {"ground_truth": "B", "question_type": "object_rel_direction_easy"},
    ],
    "protocol": "lmms-eval",
}
_INPUTS = """Args:
    predictions (list of str): what the model wrote, one text a question.
    references (list of dict): `ground_truth` and `question_type` of each question, as VSI-Bench has them.
    protocol (str): "lmms-eval" (default) or "published".
    clusters (list): what each question is resampled with for the intervals, its scene for example.
    replicates (int), seed (int), confidence (float): of the bootstrap; 1000, 0 and 0.95.
Returns:
    protocol, macro, micro, types and subtypes (each with value, low, high, count), num_empty, num_unreadable,
    missing_types. Scores are in [0, 1].
"""
_SOURCE = "Yang et al., Thinking in Space, arXiv:2412.14171; lmms-eval 0.7.3, task vsibench."


class VSIBench(evaluate.Metric):
    """See the module."""

    def _info(self):
        features = {
            "predictions": datasets.Value("string"),
            "references": {"ground_truth": datasets.Value("string"), "question_type": datasets.Value("string")},
        }
        return metric_info(__doc__, _INPUTS, _SOURCE, features)

    def _compute(
        self, predictions, references, protocol="lmms-eval", clusters=None, replicates=1000, seed=0, confidence=0.95
    ):
        scores = score_vsi_bench(
            predictions,
            [reference["ground_truth"] for reference in references],
            [reference["question_type"] for reference in references],
            protocol,
            clusters=clusters,
            bootstrap=Bootstrap(replicates, seed, confidence),
        )
        return scores.to_dict()
