"""All errors of a clip's geometry by name, and their means over clips with confidence intervals."""

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional as F

from geovr_hf.evaluation.bootstrap import Bootstrap, Estimate
from geovr_hf.evaluation.consistency import multi_view_consistency
from geovr_hf.evaluation.depth import DEPTH_ALIGNMENTS, depth_metrics
from geovr_hf.evaluation.poses import AUC_THRESHOLDS, relative_pose_errors, trajectory_error
from geovr_hf.modeling.targets_geovr import GeometryTargets


def scale_log_ratio(prediction: torch.Tensor | float, target: torch.Tensor | float) -> float:
    r"""Natural logarithm of predicted over true metric scale: 0 is right, log 2 is twice too large.

    Args:
        prediction (`torch.FloatTensor` of shape `()` or `float`): Predicted metres per unit.
        target (`torch.FloatTensor` of shape `()` or `float`): True metres per unit.

    Raises:
        ValueError: One of them is not positive.
    """
    prediction, target = (torch.as_tensor(scale).double() for scale in (prediction, target))
    if not (prediction > 0 and target > 0):
        raise ValueError(f"Metric scales must be positive, got {float(prediction)} for {float(target)}.")
    return float((prediction / target).log())


def feature_cosines(prediction: Sequence[torch.Tensor], target: Sequence[torch.Tensor]) -> list[float]:
    r"""Mean cosine of predicted and true features, layer by layer.

    Args:
        prediction (`Sequence[torch.FloatTensor]` of shapes `(T, h, w, C)`): Predicted features.
        target (`Sequence[torch.FloatTensor]` of the same shapes): The teacher's, averaged to the same grid.

    Returns:
        `list[float]`: In `[-1, 1]` for each layer. A feature of length 0 counts as 0.

    Raises:
        ValueError: The number of layers or a shape differs.
    """
    shapes = [[tuple(layer.shape) for layer in layers] for layers in (prediction, target)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"Features must agree in layers and shapes, got {shapes[0]} and {shapes[1]}.")
    return [
        float(F.cosine_similarity(ours.double(), theirs.double(), dim=-1).mean())
        for ours, theirs in zip(prediction, target, strict=True)
    ]


def evaluate_geometry(prediction: GeometryTargets, target: GeometryTargets) -> dict[str, float]:
    r"""Every error that a clip's prediction and truth allow.

    Names of depth errors end in their alignment. `depth_*` are in teacher units, `depth_metric_*` in metres: each side
    times its own metric scale.

    Args:
        prediction ([`GeometryTargets`]): What the model predicts, in the fields that the truth has, too.
        target ([`GeometryTargets`]): What is true of the clip.

    Returns:
        `dict[str, float]`: `depth_abs_rel_{alignment}`, `depth_rmse_…` and `depth_delta_…`; the same as
        `depth_metric_…`, aligned by nothing; `rotation_error_deg`, `direction_error_deg` and `pose_auc_{degrees}` over
        all pairs of frames; `ate_sim3` in the truth's unit; `log_scale_error` (`|log(p / t)|`) and `log_scale_bias`;
        `feature_cosine_{layer}`; and of the prediction alone `consistency_reprojection_px`, `consistency_depth_error`,
        `consistency_share` and `consistency_overlap`.
    """
    return {
        **_depth_errors(prediction, target),
        **_pose_errors(prediction, target),
        **_scale_errors(prediction, target),
        **_feature_cosines(prediction, target),
        **_consistency(prediction),
    }


def _depth_errors(prediction: GeometryTargets, target: GeometryTargets) -> dict[str, float]:
    if prediction.depth is None or target.depth is None:
        return {}
    errors = {}
    for alignment in DEPTH_ALIGNMENTS:
        found = depth_metrics(prediction.depth, target.depth, target.depth_confidence, alignment)
        if found is not None:
            errors |= {f"depth_{name}_{alignment}": value for name, value in found._asdict().items()}
    if prediction.metric_scale is not None and target.metric_scale is not None:
        ours, theirs = (clip.depth.double() * clip.metric_scale.double() for clip in (prediction, target))
        found = depth_metrics(ours, theirs, target.depth_confidence)
        if found is not None:
            errors |= {f"depth_metric_{name}_raw": value for name, value in found._asdict().items()}
    return errors


def _pose_errors(prediction: GeometryTargets, target: GeometryTargets) -> dict[str, float]:
    if prediction.pose_enc is None or target.pose_enc is None:
        return {}
    pairs = relative_pose_errors(prediction.pose_enc, target.pose_enc)
    if pairs is None:
        return {}
    errors = {"rotation_error_deg": float(pairs.rotation_deg.mean())}
    if pairs.direction_deg.isfinite().any():
        errors["direction_error_deg"] = float(pairs.direction_deg.nanmean())
    errors |= {f"pose_auc_{threshold}": pairs.auc(threshold) for threshold in AUC_THRESHOLDS}
    return errors | {"ate_sim3": trajectory_error(prediction.pose_enc, target.pose_enc).rmse}


def _scale_errors(prediction: GeometryTargets, target: GeometryTargets) -> dict[str, float]:
    if prediction.metric_scale is None or target.metric_scale is None:
        return {}
    bias = scale_log_ratio(prediction.metric_scale, target.metric_scale)
    return {"log_scale_error": abs(bias), "log_scale_bias": bias}


def _feature_cosines(prediction: GeometryTargets, target: GeometryTargets) -> dict[str, float]:
    if prediction.features is None or target.features is None:
        return {}
    cosines = feature_cosines(prediction.features, target.features)
    return {f"feature_cosine_{layer}": cosine for layer, cosine in enumerate(cosines)}


def _consistency(prediction: GeometryTargets) -> dict[str, float]:
    if prediction.pose_enc is None or prediction.depth is None:
        return {}
    found = multi_view_consistency(prediction.pose_enc, prediction.depth, prediction.depth_confidence)
    if found is None:
        return {}
    return {
        "consistency_reprojection_px": found.reprojection_px,
        "consistency_depth_error": found.depth_error,
        "consistency_share": found.consistent,
        "consistency_overlap": found.overlap,
    }


def summarize_clips(
    clips: Sequence[Mapping[str, float]], clusters: Sequence | None = None, bootstrap: Bootstrap | None = None
) -> dict[str, Estimate]:
    """Mean of each error over clips, with a confidence interval.

    Args:
        clips (`Sequence[Mapping[str, float]]`): What [`evaluate_geometry`] says of each clip. An error that a clip
            does not have is averaged over the others.
        clusters (`Sequence`, *optional*): What each clip is resampled with, its scene for example.
        bootstrap ([`Bootstrap`], *optional*): Replicates, seed and confidence of the intervals.

    Returns:
        `dict[str, Estimate]`: By the names of the errors.
    """
    bootstrap = bootstrap or Bootstrap()
    summary = {}
    for name in dict.fromkeys(name for clip in clips for name in clip):
        has = [place for place, clip in enumerate(clips) if name in clip]
        own = None if clusters is None else [clusters[place] for place in has]
        summary[name] = bootstrap.mean([clips[place][name] for place in has], own)
    return summary
