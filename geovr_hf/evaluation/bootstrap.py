"""Confidence intervals of mean scores by a seeded bootstrap over clusters.

Questions about one video stand and fall together. Resampling single questions would count them as independent and
report intervals that are too narrow; here whole clusters (videos, scenes, clips) are drawn with replacement.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np


_CHUNK = 10_000_000  # cluster draws held in memory at once


@dataclass(frozen=True)
class Estimate:
    """A mean score with its confidence interval.

    Args:
        value (`float`): The score itself. NaN if nothing was scored.
        low (`float`): Lower end of the interval.
        high (`float`): Upper end.
        count (`int`): Number of scores behind it.
    """

    value: float
    low: float
    high: float
    count: int

    def to_dict(self) -> dict[str, float | int]:
        """For a JSON file."""
        return {"value": self.value, "low": self.low, "high": self.high, "count": self.count}


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are computed.

    Args:
        replicates (`int`, *optional*, defaults to 1000): Number of resampled data sets; 0 for no intervals (NaN).
        seed (`int`, *optional*, defaults to 0): Seed of the draws.
        confidence (`float`, *optional*, defaults to 0.95): Probability mass between the two percentiles.

    Raises:
        ValueError: A value out of range.
    """

    replicates: int = 1000
    seed: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        """Refuse what makes no interval."""
        if self.replicates < 0 or not 0 < self.confidence < 1:
            raise ValueError(
                "Need `replicates` of at least 0 and `confidence` between 0 and 1, "
                f"got {self.replicates} and {self.confidence}."
            )

    def resample(
        self, scores: np.ndarray, groups: np.ndarray, num_groups: int, clusters: Sequence[Hashable] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sums and numbers of the scores of each group in each resampled data set.

        Args:
            scores (`np.ndarray` of shape `(N,)`): Scores.
            groups (`np.ndarray` of shape `(N,)`): Group of each score, from 0.
            num_groups (`int`): Number of groups `G`.
            clusters (`Sequence`, *optional*): What each score is drawn together with. By default each is alone.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: Sums and counts, each of shape `(replicates, G)`.
        """
        members = np.arange(len(scores)) if clusters is None else _numbers(clusters)
        num_clusters = int(members.max()) + 1 if len(members) else 0
        sums, counts = np.zeros((2, num_clusters, num_groups))
        np.add.at(sums, (members, groups), scores)
        np.add.at(counts, (members, groups), 1)
        drawn = [(draws @ sums, draws @ counts) for draws in self._draws(num_clusters)]
        if not drawn:
            return np.empty((0, num_groups)), np.empty((0, num_groups))
        return tuple(np.concatenate(part) for part in zip(*drawn, strict=True))

    def _draws(self, num_clusters: int) -> Iterator[np.ndarray]:
        """How often each cluster is in each resampled data set, some data sets at a time."""
        rng = np.random.default_rng(self.seed)
        at_once = max(1, _CHUNK // max(num_clusters, 1))
        for start in range(0, self.replicates if num_clusters else 0, at_once):
            size = min(at_once, self.replicates - start)
            yield rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=size).astype(np.float64)

    def interval(self, replicates: np.ndarray) -> tuple[float, float]:
        """Percentiles of a statistic over resampled data sets; those in which it is undefined (NaN) are left out."""
        defined = replicates[np.isfinite(replicates)]
        if len(defined) == 0:
            return float("nan"), float("nan")
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(defined, [tail, 1 - tail])
        return float(low), float(high)

    def mean(self, scores: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Estimate:
        """Mean of scores with its interval.

        Args:
            scores (`Sequence[float]`): Scores.
            clusters (`Sequence`, *optional*): What each is drawn together with.

        Returns:
            [`Estimate`]
        """
        scores = np.asarray(scores, dtype=np.float64)
        sums, counts = self.resample(scores, np.zeros(len(scores), dtype=int), 1, clusters)
        value = float(scores.mean()) if len(scores) else float("nan")
        return Estimate(value, *self.interval(safe_ratio(sums[:, 0], counts[:, 0])), len(scores))


def safe_ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`sums / counts`, NaN where nothing was counted."""
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _numbers(labels: Sequence[Hashable]) -> np.ndarray:
    """Labels as numbers from 0, in order of first appearance."""
    order = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return np.array([order[label] for label in labels], dtype=int)
