r"""VSI-Bench's score under the two protocols in use, bit for bit. They are not interchangeable: name the one used.

| | `lmms-eval` (0.7.3) | `published` (GeoVR's own scorer) |
|---|---|---|
| choice | text up to the first space, without a final period, any case | first character, case matters |
| number | first number in the text, in digits or words | the whole text must be a number |
| mean relative accuracy | \|p - t\| / t `<=` 1 - theta | \|p - t\| / t `<` 1 - theta |
| relative direction | mean of easy, medium and hard | all its questions pooled |
| average | over the types present | over all eight, 0 for a type without questions |

Where the originals raise, an answer scores 0 and is counted: an empty answer to a choice (`published`), any answer
but 0 where the truth is 0 (`lmms-eval`).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from geovr_hf.data.vsi_bench import CHOICE_TYPES
from geovr_hf.evaluation.bootstrap import Bootstrap
from geovr_hf.evaluation.typed_scores import Averaging, TypedScores, score_types
from geovr_hf.trainers.metrics import MRA_THRESHOLDS, parse_choice, parse_number


Protocol = Literal["lmms-eval", "published"]
PROTOCOLS: tuple[Protocol, ...] = ("lmms-eval", "published")

DIRECTION = "object_rel_direction"
# The eight types in the order in which the published scorer adds them up.
FAMILIES = {
    "object_counting": ("object_counting",),
    "object_abs_distance": ("object_abs_distance",),
    "object_size_estimation": ("object_size_estimation",),
    "room_size_estimation": ("room_size_estimation",),
    "object_rel_distance": ("object_rel_distance",),
    DIRECTION: tuple(f"{DIRECTION}_{difficulty}" for difficulty in ("easy", "medium", "hard")),
    "route_planning": ("route_planning",),
    "obj_appearance_order": ("obj_appearance_order",),
}
# lmms-eval adds up the types in alphabetical order, relative direction last.
AVERAGING: dict[Protocol, Averaging] = {
    "lmms-eval": Averaging(dict(sorted(FAMILIES.items(), key=lambda family: (family[0] == DIRECTION, family[0])))),
    "published": Averaging(FAMILIES, pooled=True, missing_as_zero=True),
}
QUESTION_TYPES = AVERAGING["published"].question_types
_PUBLISHED_BOUNDS = [1.0 - round(0.5 + 0.05 * step, 2) for step in range(10)]


@dataclass(frozen=True)
class ScoredAnswer:
    """One answer.

    Args:
        score (`float`): In `[0, 1]`.
        empty (`bool`): Whether there is no text.
        unreadable (`bool`): Whether there is something, but nothing in it that the protocol takes for an answer: no
            number, or no letter of an option. Such an answer scores 0.
    """

    score: float
    empty: bool = False
    unreadable: bool = False


def score_vsi_answer(
    prediction: str | None, ground_truth: str, question_type: str, protocol: Protocol = "lmms-eval"
) -> ScoredAnswer:
    """Score one answer as the protocol's own code does.

    Args:
        prediction (`str`, *optional*): What the model wrote. `None` counts as empty, anything else that is no text as
            unreadable.
        ground_truth (`str`): VSI-Bench's `ground_truth`: a letter or a number.
        question_type (`str`): One of VSI-Bench's ten types.
        protocol (`str`, *optional*, defaults to `"lmms-eval"`): `"lmms-eval"` or `"published"`.

    Returns:
        [`ScoredAnswer`]

    Raises:
        ValueError: Unknown protocol or question type. No prediction raises.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"`protocol` must be one of {', '.join(PROTOCOLS)}; got {protocol!r}.")
    if question_type not in QUESTION_TYPES:
        raise ValueError(f"`question_type` must be one of {', '.join(QUESTION_TYPES)}; got {question_type!r}.")
    text = "" if prediction is None else prediction
    if not isinstance(text, str):
        return ScoredAnswer(0.0, unreadable=True)
    empty = not text.strip()
    score_kind = _score_choice if question_type in CHOICE_TYPES else _score_number
    score, readable = score_kind(text, str(ground_truth), protocol)
    return ScoredAnswer(score, empty=empty, unreadable=not (empty or readable))


def _score_choice(text: str, truth: str, protocol: Protocol) -> tuple[float, bool]:
    if protocol == "published":
        letter = text[:1].strip()
        return float(letter != "" and letter == truth.strip()), letter.isalpha()
    word = text.split(" ")[0].rstrip(".").strip()
    # Lower case as in the original: for some letters outside ASCII, upper case would decide otherwise.
    return float(word.lower() == truth.lower()), len(parse_choice(text)) == 1 and word.isalpha()


def _score_number(text: str, truth: str, protocol: Protocol) -> tuple[float, bool]:
    target = _as_float(truth)
    if protocol == "published":
        number = _as_float(text)
        if number is None or target is None:
            return 0.0, number is not None
        error = _relative_error(number, target)
        return sum(error < bound for bound in _PUBLISHED_BOUNDS) / 10.0, True
    number = parse_number(text)
    if number is None or target is None:
        return 0.0, number is not None
    return float(np.mean(_relative_error(number, target) <= 1 - MRA_THRESHOLDS)), True


def _relative_error(number: float, target: float) -> float:
    if target == 0:
        return 0.0 if number == 0 else float("inf")
    return abs(number - target) / target


def _as_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@dataclass(frozen=True)
class VSIBenchScores:
    """VSI-Bench's scores under one protocol.

    Args:
        protocol (`str`): The protocol.
        scores (`TypedScores`): Averages with intervals. `scores.macro` is the benchmark's number; it is the number of
            another benchmark if `scores.missing_types` names any.
        answers (`list[ScoredAnswer]`): Each question, in the given order.
    """

    protocol: Protocol
    scores: TypedScores
    answers: list[ScoredAnswer] = field(repr=False)

    @property
    def num_empty(self) -> int:
        """Number of answers without text."""
        return sum(answer.empty for answer in self.answers)

    @property
    def num_unreadable(self) -> int:
        """Number of answers with text that answers nothing."""
        return sum(answer.unreadable for answer in self.answers)

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file: everything but the single answers."""
        counts = {"num_empty": self.num_empty, "num_unreadable": self.num_unreadable}
        return {"protocol": self.protocol, **self.scores.to_dict(), **counts}


def score_vsi_bench(
    predictions: Sequence[str | None],
    ground_truths: Sequence[str],
    question_types: Sequence[str],
    protocol: Protocol = "lmms-eval",
    *,
    clusters: Sequence[Hashable] | None = None,
    bootstrap: Bootstrap | None = None,
) -> VSIBenchScores:
    """Score a run on VSI-Bench, or on any questions of its ten types.

    Args:
        predictions (`Sequence[str]`): What the model wrote, question by question.
        ground_truths (`Sequence[str]`): The letters and numbers that are right.
        question_types (`Sequence[str]`): VSI-Bench's types.
        protocol (`str`, *optional*, defaults to `"lmms-eval"`): `"lmms-eval"` or `"published"`.
        clusters (`Sequence`, *optional*): What each question is resampled with, its scene for example. By default
            questions are resampled one by one, which is too optimistic where several share a video.
        bootstrap ([`Bootstrap`], *optional*): Replicates, seed and confidence of the intervals.

    Returns:
        [`VSIBenchScores`]

    Raises:
        ValueError: No questions, lists of different lengths, unknown protocol or question type.
    """
    lengths = {len(predictions), len(ground_truths), len(question_types)}
    if len(lengths) > 1:
        raise ValueError(f"Predictions, truths and types must be of one length, got {sorted(lengths)}.")
    answers = [
        score_vsi_answer(prediction, truth, kind, protocol)
        for prediction, truth, kind in zip(predictions, ground_truths, question_types, strict=True)
    ]
    scores = score_types(
        [answer.score for answer in answers], question_types, AVERAGING[protocol], clusters, bootstrap
    )
    return VSIBenchScores(protocol, scores, answers)
