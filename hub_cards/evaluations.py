"""Results on a card: as tables with the conditions they were measured under, and as the Hub's `model-index`."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from geovr_hf.hub_cards.markdown import plain, table


TASK = "video-text-to-text"
LOWER_IS_BETTER = ("loss", "error", "abs_rel", "ratio")
HIGHER_IS_BETTER = ("accuracy", "delta")


@dataclass
class CardEvaluation:
    """Results on one evaluation set.

    Args:
        metrics (`dict[str, float]`):
            This model's results by metric name.
        dataset_name (`str`, *optional*):
            Readable name of the set. Results on a named set also enter the card's `model-index`.
        dataset_id (`str`, *optional*):
            Id of the set on the Hub; defaults to the name.
        split (`str`, *optional*):
            Split of the set.
        num_examples (`int`, *optional*):
            Number of questions or clips.
        references (`dict[str, dict[str, float]]`, *optional*):
            Results to compare with, by column title, e.g. `{"before training": {...}, "blind guesser": {...}}`.
    """

    metrics: dict[str, float]
    dataset_name: str | None = None
    dataset_id: str | None = None
    split: str | None = None
    num_examples: int | None = None
    references: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name, split and size of the set, as far as they are known."""
        parts = [
            plain(self.dataset_name or "Evaluation set of the training run"),
            self.split and f"split {plain(self.split)}",
            self.num_examples and f"{plain(self.num_examples)} examples",
        ]
        return ", ".join(part for part in parts if part)

    @property
    def table(self) -> str:
        """The results as a Markdown table, references beside them."""
        return table(
            ["metric", "this model", *self.references],
            [
                [f"{name}{_arrow(name)}", value, *(reference.get(name) for reference in self.references.values())]
                for name, value in self.metrics.items()
            ],
        )

    def eval_results(self) -> list[EvalResult]:
        """The results as entries of the card's `model-index`: none for a set without a name."""
        if self.dataset_name is None:
            return []
        return [
            EvalResult(
                task_type=TASK,
                dataset_type=self.dataset_id or self.dataset_name,
                dataset_name=self.dataset_name,
                dataset_split=self.split,
                metric_type=name,
                metric_value=value,
            )
            for name, value in self.metrics.items()
        ]


def _arrow(metric: str) -> str:
    """The direction in which a metric gets better, where its name tells."""
    if any(word in metric for word in LOWER_IS_BETTER):
        return " ↓"
    return " ↑" if any(word in metric for word in HIGHER_IS_BETTER) else ""


@dataclass(frozen=True)
class EvaluationRecord:
    """One number, with all that it takes to measure it again.

    Args:
        task (`str`):
            Name of the benchmark, e.g. `"VSI-Bench"`.
        dataset (`str`):
            Its data: an id on the Hub where there is one.
        protocol (`str`):
            Whose way of asking and scoring this is, e.g. `"geovr"` or `"lmms-eval"`. Numbers of two protocols do not
            compare.
        metric (`str`):
            Name of the metric.
        value (`float`):
            Its value.
        ci (`Sequence[float]`, *optional*):
            Bounds of the 95 % confidence interval, lower and upper.
        prompt (`str`, *optional*):
            What was asked, or the name of the template.
        frames (`int` or `str`, *optional*):
            How many frames of a clip were shown, or how they were chosen.
        decoding (`str` or `dict[str, Any]`, *optional*):
            How answers were generated, e.g. `"greedy, 16 new tokens"`.
        scorer (`str`, *optional*):
            What scored the answers, with its version, e.g. `"geovr_hf 0.1.0"`.
        subset (`str`, *optional*):
            The part of the data that this is about, e.g. a question type; by default all of it.
        split (`str`, *optional*):
            Split of the data.
        revision (`str`, *optional*):
            Revision of the data on the Hub.
        num_examples (`int`, *optional*):
            Number of questions.

    Raises:
        ValueError: A value or bound that is no finite number, or bounds that do not enclose the value.
    """

    task: str
    dataset: str
    protocol: str
    metric: str
    value: float
    ci: Sequence[float] | None = None
    prompt: str | None = None
    frames: int | str | None = None
    decoding: str | dict[str, Any] | None = None
    scorer: str | None = None
    subset: str | None = None
    split: str | None = None
    revision: str | None = None
    num_examples: int | None = None

    def __post_init__(self):
        """Refuse what is no result."""
        numbers = [self.value, *(self.ci or ())]
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise ValueError(
                f"{self.metric} of {self.task} is no finite number: {self.value!r}, interval {self.ci!r}."
            )
        if self.ci is not None and not (len(self.ci) == 2 and self.ci[0] <= self.value <= self.ci[1]):
            raise ValueError(f"`ci` of {self.metric} must enclose {self.value}, lower bound first, got {self.ci!r}.")

    @property
    def conditions(self) -> dict[str, Any]:
        """What was the same for all numbers of a run."""
        named = {name: getattr(self, name) for name in ("protocol", "scorer", "prompt", "frames", "decoding")}
        return {name: value for name, value in named.items() if value is not None}

    def eval_result(self) -> EvalResult:
        """This number as an entry of the card's `model-index`."""
        interval = {} if self.ci is None else {"confidence_interval_95": list(self.ci)}
        return EvalResult(
            task_type=TASK,
            dataset_type=self.dataset,
            dataset_name=self.task,
            dataset_config=self.subset,
            dataset_split=self.split,
            dataset_revision=self.revision,
            metric_type=self.metric,
            metric_name=f"{self.metric} ({self.protocol})",
            metric_value=self.value,
            metric_args=self.conditions | interval,
        )


def read_records(path: str | os.PathLike) -> list[EvaluationRecord]:
    """Read a JSON file of results: a list of objects with the fields of [`EvaluationRecord`].

    Args:
        path (`str` or `os.PathLike`): The file. An object that has the list under `"results"` will do, too.

    Returns:
        `list[EvaluationRecord]`: In the order of the file.

    Raises:
        ValueError: The file is no such list, or an entry lacks a field, has an unknown one, or holds no number.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    entries = content.get("results") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path} holds no list of results.")
    known = {field.name for field in fields(EvaluationRecord)}
    needed = {"task", "dataset", "protocol", "metric", "value"}
    for number, entry in enumerate(entries):
        if problems := sorted(needed - entry.keys()) or sorted(entry.keys() - known):
            lacks = "lacks" if needed - entry.keys() else "has the unknown"
            raise ValueError(
                f"Result {number} of {path} {lacks} {', '.join(problems)}. Known: {', '.join(sorted(known))}."
            )
    return [EvaluationRecord(**entry) for entry in entries]


def record_sections(records: Sequence[EvaluationRecord]) -> list[dict[str, Any]]:
    """Group records that were measured alike.

    Returns:
        `list[dict[str, Any]]`: For each group its `title`, its `conditions` as text, and its `table`, Markdown.
    """
    groups: dict[str, list[EvaluationRecord]] = {}
    for record in records:
        key = json.dumps([record.task, record.dataset, record.split, record.revision, record.conditions], default=str)
        groups.setdefault(key, []).append(record)
    sections = []
    for group in groups.values():
        first = group[0]
        where = {"split": first.split, "revision": first.revision}
        title = ", ".join(
            [f"{plain(first.task)} ({plain(first.dataset)})"]
            + [f"{name} {plain(value)}" for name, value in where.items() if value]
        )
        rows = [
            [
                record.subset or "all",
                f"{record.metric}{_arrow(record.metric)}",
                record.value,
                None if record.ci is None else f"{plain(float(record.ci[0]))} to {plain(float(record.ci[1]))}",
                record.num_examples,
            ]
            for record in group
        ]
        header = ["questions", "metric", "this model", "95 % interval", "number of questions"]
        filled = [column for column in range(5) if any(row[column] is not None for row in rows)]
        sections.append(
            {
                "title": title,
                "conditions": [f"{name}: {_condition(value)}" for name, value in first.conditions.items()],
                "table": table([header[i] for i in filled], [[row[i] for i in filled] for row in rows]),
            }
        )
    return sections


def _condition(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{plain(name)} {plain(item)}" for name, item in value.items())
    return plain(value)


def index_metadata(
    model_id: str, evaluations: Sequence[CardEvaluation], records: Sequence[EvaluationRecord]
) -> dict[str, Any]:
    """The fields of a card's front matter that hold results; they are `None` without any.

    Args:
        model_id (`str`): Id of the model.
        evaluations (`Sequence[CardEvaluation]`): Results by metric name.
        records (`Sequence[EvaluationRecord]`): Results with their conditions.
    """
    results = [result for evaluation in evaluations for result in evaluation.eval_results()]
    results += [record.eval_result() for record in records]
    return {
        "metrics": list(dict.fromkeys(result.metric_type for result in results)) or None,
        "model_name": model_id.split("/")[-1] if results else None,
        "eval_results": results or None,
    }
