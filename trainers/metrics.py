"""Metrics: how well questions are answered, and how far predicted geometry is from its targets.

Pure functions. Answers are scored by the rules of VSI-Bench as lmms-eval implements them. Geometry is compared on the
clip's own targets; angles are in degrees, lengths in teacher units or, where said so, in metres.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from geovr_hf.modeling.geometry_geovr import quaternion_to_matrix, relative_to_first
from geovr_hf.modeling.targets_geovr import GeometryTargets


# Accuracy thresholds of VSI-Bench's mean relative accuracy. `linspace`, and not multiples of 0.05, because ties such
# as 9 for 10 fall on a threshold and its last bit decides them.
MRA_THRESHOLDS = np.linspace(0.5, 0.95, 10)

_SMALL = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ADDENDS = {word: n for n, word in enumerate(_SMALL)} | {word: 10 * n for n, word in enumerate(_TENS, start=2)}
_NUMBER_WORDS = {*_ADDENDS, "hundred", "thousand"}
_DIGITS = re.compile(r"-?\d+(?:\.\d+)?")
_WORD = re.compile(r"[a-z]+")
_CHOICE = re.compile(r"[A-Za-z]")
_DIFFICULTY = re.compile(r"_(easy|medium|hard)$")


# ---- answers ----


def parse_number(text: str) -> float | None:
    r"""Read the first number in a text, in digits or in English words, exactly as lmms-eval's VSI-Bench does.

    Args:
        text (`str`): An answer. Thousands separators and exponents are not read: "1,000" is 1, ".5" is 5.

    Returns:
        `float` or `None`: The number, `None` if there is none. Words for more than a float can hold, at which
        lmms-eval raises, are none.

    Examples:
        >>> parse_number("about 3.5 meters"), parse_number("twenty-one chairs"), parse_number("many")
        (3.5, 21.0, None)
    """
    text = text.strip().lower()
    digits = _DIGITS.search(text)
    words: list[re.Match] = []
    for word in _WORD.finditer(text):
        if word[0] in _NUMBER_WORDS:
            words.append(word)
        elif words and word[0] != "and":
            break
    if digits is not None and (not words or digits.start() < words[0].start()):
        return float(digits[0])
    return _number_in_words(word[0] for word in words) if words else None


def _number_in_words(words: Iterable[str]) -> float | None:
    total = group = 0
    for word in words:
        if word == "hundred":
            group = (group or 1) * 100
        elif word == "thousand":
            total, group = total + (group or 1) * 1000, 0
        else:
            group += _ADDENDS[word]
    try:
        return float(total + group)
    except OverflowError:  # a model that repeats "hundred"
        return None


def parse_choice(text: str) -> str:
    """Read the option an answer names: the text up to its first space, without a final period, in upper case.

    Args:
        text (`str`): An answer.

    Returns:
        `str`: "A" for "a", "A." and "A. chair"; something that equals no letter for "The answer is A" or "".
    """
    return text.split(" ")[0].rstrip(".").strip().upper()


def mean_relative_accuracy(prediction: float, target: float) -> float:
    r"""Mean relative accuracy of a number: the share of thresholds `theta` with `|p - t| / |t| <= 1 - theta`.

    Args:
        prediction (`float`): The answered number.
        target (`float`): The true number. A true zero is met by zero alone.

    Returns:
        `float`: In `[0, 1]`, over the thresholds 0.50, 0.55, ..., 0.95 of VSI-Bench.
    """
    if target == 0:
        return float(prediction == 0)
    return float(np.mean(abs(prediction - target) / abs(target) <= 1 - MRA_THRESHOLDS))


def score_answer(prediction: str, answer: str) -> float:
    r"""Score one answer by what kind of answer is expected.

    Args:
        prediction (`str`): The model's text. An empty or odd one, or what is no text, scores 0.
        answer (`str`): The reference. A single letter is a choice (0 or 1), a number is scored by
            [`mean_relative_accuracy`], anything else must be met in full, whatever its case.

    Returns:
        `float`: In `[0, 1]`.
    """
    if not isinstance(prediction, str):
        return 0.0
    answer = answer.strip()
    if _CHOICE.fullmatch(answer):
        return float(parse_choice(prediction) == answer.upper())
    try:
        target = float(answer)
    except ValueError:
        return float(prediction.strip().rstrip(".").casefold() == answer.rstrip(".").casefold())
    number = parse_number(prediction)
    return 0.0 if number is None else mean_relative_accuracy(number, target)


def average_scores(scores: Iterable[tuple[str | None, float]]) -> dict[str, float]:
    r"""Average scores by question type, then over types, as VSI-Bench does.

    Args:
        scores (`Iterable[tuple[str | None, float]]`): Question type and score of each answer. Types that differ only
            in a final `_easy`, `_medium` or `_hard` count as one type, the plain mean of its difficulties. Questions
            without a type form a type of their own, which is left out of the names.

    Returns:
        `dict[str, float]`: The mean of each type under its name, and of all types under `"answer_accuracy"`. Empty
        without scores.
    """
    by_type = defaultdict(list)
    for question_type, score in scores:
        by_type[question_type or ""].append(score)
    by_family = defaultdict(list)
    for question_type in sorted(by_type):
        by_family[_DIFFICULTY.sub("", question_type)].append(float(np.mean(by_type[question_type])))
    means = {family: float(np.mean(parts)) for family, parts in by_family.items()}
    if not means:
        return {}
    overall = float(np.mean(list(means.values())))
    means.pop("", None)
    return {"answer_accuracy": overall, **means}


# ---- geometry ----

# What `geometry_errors` may return.
GEOMETRY_ERRORS = (
    "depth_abs_rel",
    "depth_delta_1.25",
    "depth_abs_rel_metric",
    "depth_delta_1.25_metric",
    "rotation_error_deg",
    "translation_error",
    "translation_error_m",
    "translation_direction_error_deg",
    "log_scale_ratio",
)


class DepthErrors(NamedTuple):
    """Depth errors over the measured pixels of a clip, each of shape `()`."""

    abs_rel: torch.Tensor
    delta: torch.Tensor


def depth_errors(
    prediction: torch.Tensor, target: torch.Tensor, confidence: torch.Tensor | None = None, threshold: float = 1.25
) -> DepthErrors | None:
    r"""Compare depth maps where the target was measured. No alignment: the prediction counts as it is.

    Args:
        prediction (`torch.FloatTensor` of shape `(T, H, W)`): Predicted depth.
        target (`torch.FloatTensor` of shape `(T, H, W)`): True depth in the same unit.
        confidence (`torch.FloatTensor` of shape `(T, H, W)`, *optional*): Pixels with confidence 0 take no part.
        threshold (`float`, *optional*, defaults to 1.25): Bound of the ratio in `delta`.

    Returns:
        `DepthErrors` or `None`: Mean of `|p - t| / t`, and the share of pixels with `max(p / t, t / p) < threshold`;
        `None` if nothing was measured.
    """
    measured = target > 0 if confidence is None else confidence > 0
    if not measured.any():
        return None
    prediction, target = prediction[measured].float(), target[measured].float()
    ratio = torch.maximum(prediction / target, target / prediction.clamp(min=1e-9))
    return DepthErrors(((prediction - target).abs() / target).mean(), (ratio < threshold).float().mean())


class PoseErrors(NamedTuple):
    """Pose errors of a clip, means over the frames after the first, each of shape `()`."""

    rotation_deg: torch.Tensor
    translation: torch.Tensor
    direction_deg: torch.Tensor | None


def pose_errors(prediction: torch.Tensor, target: torch.Tensor, min_baseline: float = 1e-3) -> PoseErrors | None:
    r"""Compare camera paths. Each is first expressed relative to its own first frame.

    Args:
        prediction (`torch.FloatTensor` of shape `(T, 9)`): Pose encodings, camera-from-world.
        target (`torch.FloatTensor` of shape `(T, 9)`): True pose encodings in the same unit.
        min_baseline (`float`, *optional*, defaults to 1e-3): A shorter true translation has no direction.

    Returns:
        `PoseErrors` or `None`: Angle between the rotations; length of the difference of the translations, in their
        unit; angle between the translations (`None` if the camera stands still). `None` for a single frame.
    """
    if len(target) < 2:
        return None
    rotation, translation = _later_cameras(prediction.float())
    true_rotation, true_translation = _later_cameras(target.float())
    angle = rotation_angles(rotation, true_rotation)
    moving = true_translation.norm(dim=-1) > min_baseline
    direction = None
    if moving.any():
        direction = direction_angles(translation[moving], true_translation[moving]).mean()
    return PoseErrors(angle.mean(), (translation - true_translation).norm(dim=-1).mean(), direction)


def rotation_angles(rotation: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Angles between rotations in degrees.

    Args:
        rotation (`torch.FloatTensor` of shape `(..., 3, 3)`): Rotation matrices.
        other (`torch.FloatTensor` of shape `(..., 3, 3)`): As many others.

    Returns:
        `torch.FloatTensor` of shape `(...)`: From 0 to 180.
    """
    # atan2 of chord and trace: arccos alone loses all precision at small angles.
    difference = rotation @ other.mT
    chord = torch.linalg.matrix_norm(difference - difference.mT) / 2**0.5
    trace = difference.diagonal(dim1=-2, dim2=-1).sum(-1) - 1
    return torch.atan2(chord, trace).rad2deg()


def direction_angles(vector: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Angles between vectors in degrees.

    Args:
        vector (`torch.FloatTensor` of shape `(..., 3)`): Predicted vectors. One of length 0 has no direction: it
            counts as opposite, or a model that never moves would be right everywhere.
        other (`torch.FloatTensor` of shape `(..., 3)`): True vectors, none of length 0.

    Returns:
        `torch.FloatTensor` of shape `(...)`: From 0 to 180.
    """
    angles = torch.atan2(torch.linalg.cross(vector, other).norm(dim=-1), (vector * other).sum(-1)).rad2deg()
    return torch.where(vector.norm(dim=-1) > 0, angles, 180.0)


def _later_cameras(pose_enc: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotations `(T - 1, 3, 3)` and translations `(T - 1, 3)` of the later cameras, from the first camera."""
    cam_from_world = torch.cat([quaternion_to_matrix(pose_enc[:, 3:7]), pose_enc[:, :3, None]], dim=-1)
    cam_from_first = relative_to_first(cam_from_world)[1:]
    return cam_from_first[..., :3], cam_from_first[..., 3]


def geometry_errors(
    target: GeometryTargets,
    pose_enc: torch.Tensor | None = None,
    depth: torch.Tensor | None = None,
    metric_scale: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    r"""All the errors of one clip that its targets and the predictions allow.

    Names that end in `_metric` and `_m` compare metres: each side is multiplied by its own metric scale.

    Args:
        target (`GeometryTargets`): What is true of the clip.
        pose_enc (`torch.FloatTensor` of shape `(T, 9)`, *optional*): Predicted cameras.
        depth (`torch.FloatTensor` of shape `(T, H, W)`, *optional*): Predicted depth, in teacher units.
        metric_scale (`torch.FloatTensor` of shape `()`, *optional*): Predicted metres per unit.

    Returns:
        `dict[str, torch.Tensor]`: Scalars under `depth_abs_rel`, `depth_delta_1.25`, `depth_abs_rel_metric`,
        `depth_delta_1.25_metric`, `rotation_error_deg`, `translation_error`, `translation_error_m`,
        `translation_direction_error_deg` and `log_scale_ratio` (`|log(p / t)|`, see [`name_geometry_means`]).
    """
    errors = {}
    # Stored targets are float16, which would round a product with the scale, or overflow.
    target = replace(target, features=None).to(torch.float32)
    has_scale = metric_scale is not None and target.metric_scale is not None
    if has_scale:
        errors["log_scale_ratio"] = (metric_scale.float() / target.metric_scale.float()).log().abs()
    if depth is not None and target.depth is not None:
        units = {"": (1.0, 1.0)} | ({"_metric": (metric_scale, target.metric_scale)} if has_scale else {})
        for suffix, (scale, true_scale) in units.items():
            found = depth_errors(depth * scale, target.depth * true_scale, target.depth_confidence)
            if found is not None:
                errors[f"depth_abs_rel{suffix}"] = found.abs_rel
                errors[f"depth_delta_1.25{suffix}"] = found.delta
    if pose_enc is not None and target.pose_enc is not None:
        found = pose_errors(pose_enc, target.pose_enc)
        if found is not None:
            errors["rotation_error_deg"] = found.rotation_deg
            errors["translation_error"] = found.translation
            if found.direction_deg is not None:
                errors["translation_direction_error_deg"] = found.direction_deg
            if has_scale:
                errors["translation_error_m"] = pose_errors(
                    _scaled(pose_enc, metric_scale), _scaled(target.pose_enc, target.metric_scale)
                ).translation
    return errors


def _scaled(pose_enc: torch.Tensor, metric_scale: torch.Tensor) -> torch.Tensor:
    return torch.cat([pose_enc[:, :3] * metric_scale, pose_enc[:, 3:]], dim=1)


def name_geometry_means(means: dict[str, float]) -> dict[str, float]:
    """Turn means of [`geometry_errors`] over clips into the numbers that are reported.

    Args:
        means (`dict[str, float]`): Mean of each error.

    Returns:
        `dict[str, float]`: The same, with `scale_ratio = exp(log_scale_ratio)`: the geometric mean of the factors, at
        least 1, by which predicted scales are off.
    """
    reported = {name: mean for name, mean in means.items() if name != "log_scale_ratio"}
    if "log_scale_ratio" in means:
        reported["scale_ratio"] = math.exp(means["log_scale_ratio"])
    return reported
