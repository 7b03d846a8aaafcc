"""Scores of questions by their type, averaged as a benchmark averages them, with confidence intervals."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from geovr_hf.evaluation.bootstrap import Bootstrap, Estimate, safe_ratio


@dataclass(frozen=True)
class Averaging:
    """How a benchmark makes one number of its questions.

    Args:
        families (`Mapping[str, tuple[str, ...]]`): The types that are reported and averaged, each with the question
            types it consists of, in the order in which they are added up.
        pooled (`bool`, *optional*, defaults to `False`): Whether the questions of a family count alike. Otherwise its
            question types do.
        missing_as_zero (`bool`, *optional*, defaults to `False`): Whether a family without questions counts as 0.
            Otherwise it is left out.
    """

    families: Mapping[str, tuple[str, ...]]
    pooled: bool = False
    missing_as_zero: bool = False

    @property
    def question_types(self) -> tuple[str, ...]:
        """All question types."""
        return tuple(kind for kinds in self.families.values() for kind in kinds)

    def averages(self, sums: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Averages out of sums and counts of the question types.

        Args:
            sums (`np.ndarray` of shape `(R, types)`): Sum of the scores of each question type, in `R` data sets.
            counts (`np.ndarray` of shape `(R, types)`): Number of its questions.

        Returns:
            `dict[str, np.ndarray]`: For each question type, each family, `"macro"` and `"micro"` an array of shape
            `(R,)`; NaN where there are no questions.
        """
        means = safe_ratio(sums, counts)
        averages = dict(zip(self.question_types, means.T, strict=True))
        place = {kind: index for index, kind in enumerate(self.question_types)}
        families = {}
        for family, kinds in self.families.items():
            members = [place[kind] for kind in kinds]
            if self.pooled:
                families[family] = safe_ratio(sums[:, members].sum(1), counts[:, members].sum(1))
            else:
                families[family] = _mean_of_defined(means[:, members])
        stacked = np.stack(list(families.values()), axis=1)
        macro = np.nan_to_num(stacked).sum(1) / len(families) if self.missing_as_zero else _mean_of_defined(stacked)
        return averages | families | {"macro": macro, "micro": safe_ratio(sums.sum(1), counts.sum(1))}


@dataclass(frozen=True)
class TypedScores:
    """Scores in `[0, 1]` by type.

    Args:
        macro (`Estimate`): Average over the families.
        micro (`Estimate`): Mean over all questions, whatever their type.
        types (`dict[str, Estimate]`): The families that have questions.
        subtypes (`dict[str, Estimate]`): Question types of families that have several.
        missing_types (`list[str]`): Families without questions.
        bootstrap (`Bootstrap`): How the intervals were computed.
        num_clusters (`int`): Number of clusters that were resampled.
        replicates (`dict[str, np.ndarray]`): Macro and micro average of each resampled data set. Two runs on the same
            questions are resampled alike, so that their differences have intervals, too.
    """

    macro: Estimate
    micro: Estimate
    types: dict[str, Estimate]
    subtypes: dict[str, Estimate]
    missing_types: list[str]
    bootstrap: Bootstrap
    num_clusters: int
    replicates: dict[str, np.ndarray] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "macro": self.macro.to_dict(),
            "micro": self.micro.to_dict(),
            "types": {name: estimate.to_dict() for name, estimate in self.types.items()},
            "subtypes": {name: estimate.to_dict() for name, estimate in self.subtypes.items()},
            "missing_types": self.missing_types,
            "num_questions": self.micro.count,
            "num_clusters": self.num_clusters,
            "confidence": self.bootstrap.confidence,
            "replicates": self.bootstrap.replicates,
            "seed": self.bootstrap.seed,
        }

    def gain_over(self, other: "TypedScores", average: str = "macro") -> Estimate:
        """How much higher this score is than another on the same questions, with an interval of the difference.

        Args:
            other (`TypedScores`): Scores of the same questions and clusters, in the same order, under the same
                bootstrap.
            average (`str`, *optional*, defaults to `"macro"`): `"macro"` or `"micro"`.

        Raises:
            ValueError: The two were not resampled alike.
        """
        if self.bootstrap != other.bootstrap or self.num_clusters != other.num_clusters:
            raise ValueError("Only scores of the same questions under the same bootstrap can be compared.")
        ours, theirs = getattr(self, average), getattr(other, average)
        low, high = self.bootstrap.interval(self.replicates[average] - other.replicates[average])
        return Estimate(ours.value - theirs.value, low, high, ours.count)


def score_types(
    scores: Sequence[float],
    question_types: Sequence[str],
    averaging: Averaging,
    clusters: Sequence[Hashable] | None = None,
    bootstrap: Bootstrap | None = None,
) -> TypedScores:
    """Average scores by type.

    Args:
        scores (`Sequence[float]`): Score of each question.
        question_types (`Sequence[str]`): Its type.
        averaging (`Averaging`): How the benchmark averages.
        clusters (`Sequence`, *optional*): What each question is resampled with, its scene for example.
        bootstrap ([`Bootstrap`], *optional*): Replicates, seed and confidence of the intervals.

    Returns:
        [`TypedScores`]

    Raises:
        ValueError: No questions, lists of different lengths, or an unknown question type.
    """
    lengths = {len(scores), len(question_types)} | ({len(clusters)} if clusters is not None else set())
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(f"Scores, types and clusters must be of one length above 0, got {sorted(lengths)}.")
    kinds = averaging.question_types
    if unknown := sorted({*question_types} - {*kinds}):
        raise ValueError(f"`question_type` must be one of {', '.join(kinds)}; got {', '.join(map(repr, unknown))}.")
    bootstrap = bootstrap or Bootstrap()
    scores, groups = np.asarray(scores, np.float64), np.array([kinds.index(kind) for kind in question_types])
    counts = np.bincount(groups, minlength=len(kinds))
    sums = np.array([scores[groups == group].sum() for group in range(len(kinds))])
    exact = averaging.averages(sums[None], counts[None].astype(np.float64))
    resampled = averaging.averages(*bootstrap.resample(scores, groups, len(kinds), clusters))
    numbers = dict(zip(kinds, counts.tolist(), strict=True)) | {"macro": len(scores), "micro": len(scores)}
    for family, members in averaging.families.items():
        numbers[family] = sum(int(counts[kinds.index(kind)]) for kind in members)

    def estimates(names):
        return {
            name: Estimate(float(exact[name][0]), *bootstrap.interval(resampled[name]), numbers[name])
            for name in names
            if numbers[name]
        }

    families = averaging.families
    return TypedScores(
        **estimates(["macro", "micro"]),
        types=estimates(families),
        subtypes=estimates(kind for members in families.values() if len(members) > 1 for kind in members),
        missing_types=[family for family in families if not numbers[family]],
        bootstrap=bootstrap,
        num_clusters=len(scores) if clusters is None else len(set(clusters)),
        replicates={name: resampled[name] for name in ("macro", "micro")},
    )


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN."""
    defined = np.isfinite(values)
    return safe_ratio(np.where(defined, values, 0).sum(-1), defined.sum(-1))
