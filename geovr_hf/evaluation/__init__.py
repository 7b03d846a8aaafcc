"""Evaluation: scorers of answers and geometry, their `evaluate` metrics, and benchmarks run by lmms-eval."""

from geovr_hf.evaluation.bootstrap import Bootstrap, Estimate
from geovr_hf.evaluation.consistency import MultiViewConsistency, multi_view_consistency
from geovr_hf.evaluation.depth import DepthMetrics, align_depth, depth_metrics
from geovr_hf.evaluation.geometry import evaluate_geometry, feature_cosines, scale_log_ratio, summarize_clips
from geovr_hf.evaluation.metric_spaces import METRICS, metric_path, push_metric
from geovr_hf.evaluation.poses import (
    RelativePoseErrors,
    Similarity,
    TrajectoryError,
    align_points,
    relative_pose_errors,
    trajectory_error,
)
from geovr_hf.evaluation.typed_scores import Averaging, TypedScores, score_types
from geovr_hf.evaluation.vsi_bench import (
    PROTOCOLS,
    ScoredAnswer,
    VSIBenchScores,
    score_vsi_answer,
    score_vsi_bench,
)


__all__ = [
    "METRICS",
    "PROTOCOLS",
    "Averaging",
    "Bootstrap",
    "DepthMetrics",
    "Estimate",
    "MultiViewConsistency",
    "RelativePoseErrors",
    "ScoredAnswer",
    "Similarity",
    "TrajectoryError",
    "TypedScores",
    "VSIBenchScores",
    "align_depth",
    "align_points",
    "depth_metrics",
    "evaluate_geometry",
    "feature_cosines",
    "metric_path",
    "multi_view_consistency",
    "push_metric",
    "relative_pose_errors",
    "scale_log_ratio",
    "score_types",
    "score_vsi_answer",
    "score_vsi_bench",
    "summarize_clips",
    "trajectory_error",
]
