"""Results for people: a Markdown report with a picture of each task; and for the model card: plain data.

`card.json` is the list of [`~geovr_hf.hub_cards.EvaluationRecord`] that `geovr push --results` reads.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from geovr_hf.evaluation.overlap import SceneOverlap
from geovr_hf.evaluation.views import SEEN
from geovr_hf.hub_cards import EvaluationRecord
from geovr_hf.visualization.atomic_files import atomic_path


NOT_CHECKED = "not checked; where a question of this task was filmed is not known here."
REPORT, CARD = "report.md", "card.json"
VIEW_TITLES = {SEEN: "clip", "black": "black frames", "shuffled": "shuffled clip"}
DATASETS = {
    "vsibench": ("VSI-Bench", "nyu-visionx/VSI-Bench"),
    "vsibench_debiased": ("VSI-Bench-Debiased", "nyu-visionx/VSI-Bench"),
    "vsibench_pruned": ("VSI-Bench-Pruned", "nyu-visionx/VSI-Bench"),
    "vstibench": ("VSTI-Bench", "Journey9ni/vstibench"),
    "stibench": ("STI-Bench", "MINT-SJTU/STI-Bench"),
    "dsrbench": ("DSR-Bench", "TencentARC/DSR_Suite-Data"),
    "synthetic-rooms": ("Synthetic rooms", "geovr_hf/synthetic-rooms"),
}


def write_report(out: Path, results: Mapping[str, Any]) -> None:
    """Write `report.md`, a picture of each task whose types are known, and `card.json`.

    Without matplotlib there are no pictures.

    Args:
        out (`Path`): Folder of the run.
        results (`Mapping`): What `results.json` holds.
    """
    sections = [_head(results)]
    for name, task in results["tasks"].items():
        picture = _draw(out / f"{name}.png", task)
        sections.append(_section(name, task, picture))
    with atomic_path(out / REPORT) as unfinished:
        unfinished.write_text("\n\n".join(sections) + "\n")
    with atomic_path(out / CARD) as unfinished:
        records = [asdict(record) for record in card_records(results)]
        unfinished.write_text(json.dumps(records, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def card_records(results: Mapping[str, Any]) -> list[EvaluationRecord]:
    """Results as a model card takes them, each number with the conditions it was measured under.

    Args:
        results (`Mapping`): What `results.json` holds.

    Returns:
        `list[EvaluationRecord]`: For each task and scoring its number, its types, and what is left without sight.
    """
    versions, settings, frames = results["versions"], results["settings"], results["frames"]
    seen = [_span(frames["frames_per_question"]), frames["sampling"]]
    if settings["tokens_per_frame"] is not None:
        seen.append(f"at most {settings['tokens_per_frame']} tokens each")
    if settings["geometry_tokens"]:
        seen.append("closed by geometry tokens")
    prompt = settings["prompt"] or "the task's own"
    if settings["system_prompt"] is not None:
        prompt += f", after the system turn {settings['system_prompt']!r}"
    records = []
    for name, task in results["tasks"].items():
        title, dataset = DATASETS.get(name, (name, task["dataset"]))
        # A part of the questions must not stand for the benchmark, nor take the place of its number on a card.
        part = "" if settings["limit"] is None else f"[:{task['num_questions']}]"
        decoding = {key: value for key, value in task["generation"].items() if value is not None}
        conditions = {
            "prompt": prompt,
            "frames": ", ".join(seen),
            "decoding": decoding | {"dtype": results["model"]["dtype"], "seed": settings["seed"]},
            "scorer": f"geovr_hf {versions['geovr_hf']} on lmms-eval {versions['lmms-eval']}",
            "split": f"{task['split']}{part}",
        }
        records += [EvaluationRecord(title, dataset, **number, **conditions) for number in _numbers(task)]
    return records


def _numbers(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Protocol, metric, value, interval, subset and count of each number of a task."""
    average = task["average"]
    for view, scores in task["views"].items():
        # What is left without sight is another metric, not a condition: nobody must take it for the model's score.
        blind = "" if view == SEEN else f"_on_{VIEW_TITLES[view].replace(' ', '_')}"
        for protocol, found in scores["scorers"].items():
            metric = f"{average}_score{blind}" if blind else f"{average}_accuracy"
            yield {"protocol": protocol, "metric": metric, **_estimate(found[average], found)}
            for kind, estimate in () if blind else found["types"].items():
                yield {"protocol": protocol, "metric": "accuracy", "subset": kind, **_estimate(estimate, found)}
        for metric, value in () if scores["scorers"] else scores["engine"].items():
            if value is not None:
                known = {"value": value, "num_examples": task["num_questions"]}
                yield {"protocol": "lmms-eval", "metric": f"{metric}{blind}", **known}


def _estimate(estimate: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, Any]:
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    # Percentiles of resampled means may miss the mean itself, by a rounding where all questions score alike.
    known = low is not None and scores["confidence"] == 0.95
    ci = [min(low, value), max(high, value)] if known else None
    return {"value": value, "ci": ci, "num_examples": estimate["count"]}


# ---- for people ----


def _head(results: Mapping[str, Any]) -> str:
    model, settings, frames = results["model"], results["settings"], results["frames"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    span = frames["frames_per_question"]
    facts = {
        "model": f"{model['name']} ({model['kind']}, {model['num_parameters']:,} parameters, {model['dtype']})",
        "frames": f"{frames['sampling']}, {_span(span)} a question; "
        + ("geometry tokens" if settings["geometry_tokens"] else "no geometry tokens"),
        "prompt tokens": _span(frames["prompt_tokens"]),
        "prompt": settings["prompt"] or "the task's own",
        "seed": settings["seed"],
        "hardware": results["hardware"],
        "versions": versions,
        "date": results["date"],
    }
    return "\n".join(["# Evaluation", "", *(f"- {name}: {fact}" for name, fact in facts.items())])


def _section(name: str, task: Mapping[str, Any], picture: Path | None) -> str:
    seen = task["views"][SEEN]
    lines = [f"## {DATASETS.get(name, (name,))[0]}", ""]
    generation = ", ".join(f"{key} {value}" for key, value in sorted(task["generation"].items()) if value is not None)
    lines += [f"{task['num_questions']} questions, scored by {task['scorer']}. Generation: {generation}."]
    if "num_empty" in seen:
        unreadable = f", {seen['num_unreadable']} unreadable; they score 0" if "num_unreadable" in seen else ""
        lines += ["", f"{seen['num_empty']} answers are empty{unreadable}."]
    lines += ["", _table(task)]
    for view, check in task["blind"].items():
        lines += ["", _blind_sentence(view, check)]
    left_out = task.get("left_out", ())
    for view in left_out:
        lines += ["", f"The {VIEW_TITLES[view]} was left out: no question shows several frames, which have an order."]
    if not task["blind"] and not left_out:
        lines += ["", "The blind check was not run."]
    if "scene_overlap" in task:
        overlap = task["scene_overlap"]
        lines += ["", f"Scenes: {SceneOverlap(**overlap) if overlap else NOT_CHECKED}"]
    if picture is not None:
        lines += ["", f"![scores by type]({picture.name})"]
    lines += ["", "A question as it was asked:", "", "```text", task["prompt_example"], "```"]
    return "\n".join(lines)


def _table(task: Mapping[str, Any]) -> str:
    views = list(task["views"])
    header = ["type", "questions", *(VIEW_TITLES[view] for view in views)]
    rows = []
    scorers = task["views"][SEEN]["scorers"]
    for number, scorer in enumerate(scorers):
        found = {view: task["views"][view]["scorers"][scorer] for view in views}
        for kind in found[SEEN]["types"] if number == 0 else ():
            rows.append([kind, found[SEEN]["types"][kind]["count"], *(found[view]["types"][kind] for view in views)])
        for average in ("macro", "micro"):
            title = f"**{average}** ({scorer})"
            rows.append([title, found[SEEN][average]["count"], *(found[view][average] for view in views)])
    for metric in () if scorers else task["views"][SEEN]["engine"]:
        rows.append([metric, "", *(task["views"][view]["engine"].get(metric) for view in views)])
    lines = [header, ["---"] + ["---:"] * (len(header) - 1)]
    lines += [[str(kind), str(count), *map(_cell, cells)] for kind, count, *cells in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Mapping[str, float] | float | None) -> str:
    if value is None:
        return ""
    if not isinstance(value, Mapping):
        return f"{value:.4g}"
    if value["value"] is None:
        return ""
    if value["low"] is None:
        return f"{100 * value['value']:.1f}"
    return f"{100 * value['value']:.1f} ({100 * value['low']:.1f} to {100 * value['high']:.1f})"


def _blind_sentence(view: str, check: Mapping[str, Any]) -> str:
    if check["score"] is None:
        return f"With {VIEW_TITLES[view]} there is no score."
    if check["survives"] is None:
        return f"With {VIEW_TITLES[view]} the score is {check['score']:.3f}; with sight it is 0."
    sentence = f"With {VIEW_TITLES[view]}, {100 * check['survives']:.0f} % of the score survives"
    if "gain" in check:
        sentence += f"; sight gains {_cell(check['gain'])} points"
    return sentence + "."


def _span(values: list[int] | None) -> str:
    if values is None:
        return "unknown"
    low, high = values
    return f"{low}" if low == high else f"{low} to {high}"


def _draw(path: Path, task: Mapping[str, Any]) -> Path | None:
    if not task["views"][SEEN]["scorers"]:
        return None
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return None
    from geovr_hf.visualization import accuracy_bars_figure, save_figure

    first = next(iter(task["views"][SEEN]["scorers"]))
    values, ends = {}, {}
    for view, scores in task["views"].items():
        types = scores["scorers"][first]["types"]
        values[VIEW_TITLES[view]] = {kind: found["value"] for kind, found in types.items()}
        ends[VIEW_TITLES[view]] = {
            kind: (found["low"], found["high"]) for kind, found in types.items() if found["low"] is not None
        }
    save_figure(accuracy_bars_figure(values, intervals=ends), path)
    return path
