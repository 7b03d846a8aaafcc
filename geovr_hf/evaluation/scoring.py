"""From the engine's answered samples to scores with intervals, and what of a score needs no sight."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from geovr_hf.evaluation.bootstrap import Bootstrap, Estimate
from geovr_hf.evaluation.task_loading import BENCHMARKS, VSI_FAMILY
from geovr_hf.evaluation.tasks import revsi
from geovr_hf.evaluation.tasks.vsi_family import scene_of_row
from geovr_hf.evaluation.typed_scores import TypedScores
from geovr_hf.evaluation.views import SEEN
from geovr_hf.evaluation.vsi_bench import PROTOCOLS, VSIBenchScores, score_vsi_bench


# What tasks of lmms-eval call the number of all their questions: "average", "overall_accuracy", "vsibench_overall", …
_AVERAGE = re.compile(r"(?<![a-z])(average|overall|avg)(?![a-z])")


@dataclass
class ViewScores:
    """Scores of one task under one view.

    Args:
        scorers (`dict[str, TypedScores]`): Averages by the name of the scoring; the first one is the headline's. Empty
            for a task that only the engine scores.
        counts (`dict[str, int]`): Empty and unreadable answers, where they are counted.
        scorer (`str`): What the scoring of the headline is called.
        engine (`dict[str, float]`): The engine's own numbers.
        average (`str`): `"macro"` or `"micro"`: which average is the task's number.
        samples (`list[dict]`): Each question: type, truth, answer, score under each scoring.
    """

    scorers: dict[str, TypedScores]
    counts: dict[str, int]
    scorer: str
    engine: dict[str, float]
    average: str
    samples: list[dict[str, Any]] = field(repr=False)

    @property
    def headline(self) -> Estimate:
        """The task's number."""
        if not self.scorers:
            value = self.engine.get(_overall(self.engine), float("nan"))
            return Estimate(value, float("nan"), float("nan"), len(self.samples))
        return getattr(next(iter(self.scorers.values())), self.average)

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file: everything but the single answers."""
        return {
            "headline": self.headline.to_dict(),
            "scorers": {name: scores.to_dict() for name, scores in self.scorers.items()},
            **self.counts,
            "engine": self.engine,
        }


def score_samples(
    task: str, samples: Sequence[Mapping[str, Any]], engine: Mapping[str, Any], bootstrap: Bootstrap, protocol: str
) -> ViewScores:
    """Score the answers of one task.

    Args:
        task (`str`): Name of the task.
        samples (`Sequence[Mapping]`): lmms-eval's logged samples.
        engine (`Mapping`): lmms-eval's own results of the task.
        bootstrap ([`Bootstrap`]): Of the intervals.
        protocol (`str`): VSI-Bench's protocol of the headline. Both are computed.

    Returns:
        [`ViewScores`]
    """
    samples = sorted(samples, key=lambda sample: sample["doc_id"])
    answers = [str(sample["filtered_resps"][0] or "").strip() for sample in samples]
    numbers = _engine_numbers(engine)
    if task in VSI_FAMILY:
        return _score_vsi(samples, answers, numbers, bootstrap, protocol)
    if task in BENCHMARKS:
        return _score_benchmark(task, samples, answers, numbers, bootstrap)
    rows = [
        {"doc_id": sample["doc_id"], "truth": sample["target"], "answer": answer}
        for sample, answer in zip(samples, answers, strict=True)
    ]
    if task in revsi.TASKS:
        scored = revsi.scored_rows(samples)
        rows = [{**row, **found} for row, found in zip(rows, scored, strict=True)]
        scores = {"lmms-eval": revsi.average(scored, bootstrap)}
        return ViewScores(scores, _counts(answers, scored), "lmms-eval's own", numbers, "macro", rows)
    # Which of these answers lmms-eval could read, it does not tell.
    counts, overall = {"num_empty": sum(not answer for answer in answers)}, _overall(numbers)
    return ViewScores({}, counts, f"lmms-eval's own{f' {overall}' if overall else ''}", numbers, "macro", rows)


def _score_vsi(samples, answers, numbers, bootstrap, protocol) -> ViewScores:
    docs = [sample["doc"] for sample in samples]
    truths, kinds = ([doc[name] for doc in docs] for name in ("ground_truth", "question_type"))
    scenes = [scene_of_row(doc) for doc in docs]
    found: dict[str, VSIBenchScores] = {
        name: score_vsi_bench(answers, truths, kinds, name, clusters=scenes, bootstrap=bootstrap)
        for name in sorted(PROTOCOLS, key=lambda name: name != protocol)
    }
    first = found[protocol]
    rows = [
        {
            "doc_id": sample["doc_id"],
            "scene": scene,
            "question_type": kind,
            "truth": truth,
            "answer": answer,
            "scores": {name: scores.answers[place].score for name, scores in found.items()},
        }
        for place, (sample, scene, kind, truth, answer) in enumerate(
            zip(samples, scenes, kinds, truths, answers, strict=True)
        )
    ]
    counts = {"num_empty": first.num_empty, "num_unreadable": first.num_unreadable}
    scorers = {name: scores.scores for name, scores in found.items()}
    return ViewScores(scorers, counts, f"VSI-Bench's protocol {protocol}", numbers, "macro", rows)


def _score_benchmark(task, samples, answers, numbers, bootstrap) -> ViewScores:
    benchmark = BENCHMARKS[task]
    scored = [
        benchmark.process_results(sample["doc"], [answer])["macro"]
        for sample, answer in zip(samples, answers, strict=True)
    ]
    rows = [
        {"doc_id": sample["doc_id"], "truth": sample["target"], "answer": answer, **row}
        for sample, answer, row in zip(samples, answers, scored, strict=True)
    ]
    counts = _counts(answers, scored)
    scores = {benchmark.name: benchmark.average(scored, bootstrap)}
    return ViewScores(scores, counts, benchmark.scorer, numbers, benchmark.headline, rows)


def _counts(answers: Sequence[str], scored: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {
        "num_empty": sum(not answer for answer in answers),
        "num_unreadable": sum(row["unreadable"] for row in scored),
    }


def _overall(engine: Mapping[str, float]) -> str | None:
    """Name of the engine's number for the whole task: an average rather than a category, or else the first."""
    averages = [name for name in engine if _AVERAGE.search(name.lower())]
    return min(averages, key=len) if averages else next(iter(engine), None)


def _engine_numbers(results: Mapping[str, Any]) -> dict[str, float]:
    """The engine's numbers without its standard errors and names."""
    return {
        name.split(",")[0]: float(value)
        for name, value in results.items()
        if "," in name and "_stderr" not in name and isinstance(value, int | float)
    }


def blind_check(views: Mapping[str, ViewScores]) -> dict[str, dict[str, Any]]:
    """How much of a task's score is left without sight.

    Args:
        views (`Mapping[str, ViewScores]`): Scores by view, `"seen"` among them.

    Returns:
        `dict[str, dict]`: For each other view its `score`, the share of the score that `survives`, and what sight
        `gain`s, with an interval where questions were resampled.
    """
    seen = views[SEEN]
    checks = {}
    for view, blind in views.items():
        if view == SEEN:
            continue
        value, whole = blind.headline.value, seen.headline.value
        check: dict[str, Any] = {"score": value, "survives": value / whole if whole else None}
        if seen.scorers:
            name = next(iter(seen.scorers))
            check["gain"] = seen.scorers[name].gain_over(blind.scorers[name], seen.average).to_dict()
        checks[view] = check
    return checks
