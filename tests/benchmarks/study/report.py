"""Tables and figures from the result files of all arms that ran. An arm that did not run has no row."""

import json
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from geovr_hf.evaluation import Estimate, TypedScores, score_types, summarize_clips
from geovr_hf.evaluation.vsi_bench import AVERAGING, FAMILIES
from geovr_hf.visualization.atomic_files import atomic_path

from .answers import PROTOCOL, by_family, score
from .pictures import write_pictures
from .settings import ARMS, VIEWS


SETS = (*(f"test/{view}" for view in VIEWS), "shifted/clip")
# Types whose answer is a length or an area.
METRIC_TYPES = ("object_abs_distance", "object_size_estimation", "room_size_estimation")
REFERENCES = ("language", "language-longer")  # what the gains of the others are over
GEOMETRY_ROWS = (
    "depth_abs_rel_raw", "depth_abs_rel_median", "depth_delta_raw", "depth_metric_abs_rel_raw", "rotation_error_deg",
    "direction_error_deg", "pose_auc_5", "pose_auc_15", "pose_auc_30", "ate_sim3", "log_scale_error",
)  # fmt: skip


def load(folder: Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any], dict[str, Any]]:
    """Results by arm, in the order of `ARMS` and of seeds, the guessers' scores, and the cost of a step.

    Raises:
        ValueError: There are none, or arms ran under different settings.
    """
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*-*.json"))]
    if not runs:
        raise ValueError(f"{folder} holds no results.")
    settings = {json.dumps({**run["study"], "longer": None}, sort_keys=True) for run in runs}
    if len(settings) > 1:
        raise ValueError(f"The results in {folder} were made under different settings and cannot be compared.")
    by_arm = {arm: sorted((r for r in runs if r["arm"] == arm), key=lambda r: r["seed"]) for arm in ARMS}
    others = (
        json.loads(path.read_text()) if path.exists() else {} for path in (folder / "blind.json", folder / "cost.json")
    )
    return {arm: found for arm, found in by_arm.items() if found}, *others


def typed_scores(runs: list[dict[str, Any]], name: str, families: Collection[str] = FAMILIES) -> TypedScores:
    """Scores of an arm on a set: each question's mean over seeds; rooms are resampled, seeds are not."""
    asked = {kind for family in families for kind in FAMILIES[family]}
    chosen = [[answer for answer in run["answers"][name] if answer["type"] in asked] for run in runs]
    per_seed = [[score(answer) for answer in answers] for answers in chosen]
    answers = chosen[0]
    rooms = [answer["id"].rsplit("-", 1)[0] for answer in answers]
    return score_types(
        np.mean(per_seed, axis=0).tolist(), [answer["type"] for answer in answers], AVERAGING[PROTOCOL], rooms
    )


def guessed(scores: dict[str, dict[str, float]]) -> dict[str, float]:
    """The better guesser of each question type, by VSI-Bench's types, and their mean as `macro`."""
    return by_family({kind: max(found["constant"], found["words"]) for kind, found in scores.items()})


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def scores_section(arms: dict[str, list], scores: dict[str, dict[str, TypedScores]], blind: dict) -> str:
    """Mean of the types on each set, and what each arm gains over language alone, for as many steps and for longer."""
    references = [arm for arm in REFERENCES if arm in scores]
    sets = ("test/clip", "shifted/clip")
    by_seed = {
        arm: {run["seed"]: typed_scores([run], "test/clip").macro.value for run in runs} for arm, runs in arms.items()
    }
    language = by_seed["language"]
    rows = []
    for arm, found in scores.items():
        row = [arm, str(len(arms[arm])), *(_cell(found[name].macro) for name in SETS)]
        for reference in references:
            gains = [found[name].gain_over(scores[reference][name]) for name in sets]
            row += [""] * len(gains) if arm == reference else [_cell(gain) for gain in gains]
        row.append(" ".join(f"{100 * value:.1f}" for value in by_seed[arm].values()))
        gains = [
            value - language[seed] for seed, value in by_seed[arm].items() if seed in language and arm != "language"
        ]
        rows.append([*row, " ".join(f"{100 * gain:.1f}" for gain in gains)])
    if blind:
        values = {name: f"{100 * guessed(blind[name]['answers'])['macro']:.1f}" for name in ("test", "shifted")}
        rows.append(["guesser without clip", "", values["test"], "", "", values["shifted"]])
        rows[-1] += [""] * (2 * len(references) + 2)
    gains = [f"gain over {reference}, {name.split('/')[0]}" for reference in references for name in sets]
    head = ["arm", "seeds", *SETS, *gains, "each seed, test", "its gain over language"]
    return _table(head, rows)


def types_section(scores: dict[str, dict[str, TypedScores]], blind: dict, name: str) -> str:
    """Each question type on one set."""
    guesser = guessed(blind[name.split("/")[0]]["answers"]) if blind else {}
    rows = [
        [family, *(_cell(found[name].types.get(family)) for found in scores.values())]
        + [f"{100 * guesser[family]:.1f}" if family in guesser else ""]
        for family in FAMILIES
    ]
    return _table(["question type", *scores, "guesser"], rows)


def kinds_section(arms: dict[str, list]) -> str:
    """Answers that are a length or an area, and all others: means of their types, gains, and each seed."""
    rows = []
    references = [arm for arm in REFERENCES if arm in arms]
    for title, families in (
        ("lengths and areas", METRIC_TYPES),
        ("others", [family for family in FAMILIES if family not in METRIC_TYPES]),
    ):
        for name in ("test/clip", "shifted/clip"):
            found = {arm: typed_scores(runs, name, families) for arm, runs in arms.items()}
            for arm, scores in found.items():
                gains = ["" if arm == other else _cell(scores.gain_over(found[other])) for other in references]
                seeds = [typed_scores([run], name, families).macro.value for run in arms[arm]]
                each = " ".join(f"{100 * value:.1f}" for value in seeds)
                rows.append([f"{title}, {name.split('/')[0]}", arm, _cell(scores.macro), *gains, each])
    return _table(
        ["answers", "arm", "mean of types", *(f"gain over {other}" for other in references), "each seed"], rows
    )


def geometry_section(arms: dict[str, list], blind: dict, name: str) -> str:
    """Errors of the heads, with intervals over rooms, beside one guess for all clips."""
    columns = {}
    for arm, runs in arms.items():
        clips = [clip for run in runs for clip in run["geometry"][name]]
        if clips:
            rooms = [place for run in runs for place in range(len(run["geometry"][name]))]
            columns[arm] = summarize_clips(clips, rooms)
    if blind:
        columns["guess"] = summarize_clips(blind[name]["geometry"])
    rows = [
        [
            row,
            *(
                f"{c[row].value:.3f} ({c[row].low:.3f} to {c[row].high:.3f})" if row in c else ""
                for c in columns.values()
            ),
        ]
        for row in GEOMETRY_ROWS
    ]
    return _table(["error", *columns], rows)


def skills_section(arms: dict[str, list]) -> list[str]:
    """Right answers to flat questions, which the warm-up taught, as means over seeds; nothing if none were asked."""
    shares = {arm: [run["skills"] for run in runs if "skills" in run] for arm, runs in arms.items()}
    kinds = sorted({kind for found in shares.values() for one in found for kind in one if kind.startswith("picture_")})
    rows = [
        [arm, *(f"{100 * np.mean([one.get(kind, np.nan) for one in found]):.0f}" for kind in kinds)]
        for arm, found in shares.items()
        if found
    ]
    table = _table(["arm", *(kind.removeprefix("picture_") for kind in kinds)], rows)
    title = "## What is left of the warm-up: flat questions about test rooms, percent right"
    return [f"{title}\n\n{table}"] if rows else []


def probes_section(arms: dict[str, list]) -> str:
    """R^2 of each probe: at the best layer of the mean over seeds, and at the last."""
    rows = []
    for arm, runs in arms.items():
        row = [arm]
        for probe in runs[0]["probes"]:
            curve = np.mean([run["probes"][probe] for run in runs], axis=0)
            row.append(f"{np.nanmax(curve):.3f} (layer {int(np.nanargmax(curve))}), last {curve[-1]:.3f}")
        rows.append(row)
    return _table(["arm", *next(iter(arms.values()))[0]["probes"]], rows)


def cost_section(arms: dict[str, list], costs: dict[str, dict[str, Any]]) -> str:
    """What a step of each arm takes by itself, and how long its runs took side by side."""
    rows = []
    for arm, runs in arms.items():
        cost, seconds = costs.get(arm), np.mean([run["seconds"]["training"] for run in runs])
        alone = [""] * 5
        if cost:
            ratio = cost["seconds_per_step"] / costs["language"]["seconds_per_step"]
            memory = "" if cost["peak_gib"] is None else f"{cost['peak_gib']:.1f}"
            alone = [f"{cost['parameters'] / 1e6:.1f}", f"{cost['seconds_per_step']:.4f}", f"{ratio:.2f}", memory]
            alone.append(cost["device"])
        study = runs[0]["study"]
        steps = {"start": 0, "language-longer": round(study["longer"] * study["steps"])}.get(arm, study["steps"])
        rows.append([arm, str(steps), f"{seconds:.0f}", *alone])
    head = [
        "arm",
        "steps",
        "s of a run, side by side",
        "M parameters",
        "s a step, alone",
        "times language",
        "peak GiB",
    ]
    return _table([*head, "device"], rows)


def write_report(folder: Path, out: Path) -> None:
    """Write report.md and the figures."""
    arms, blind, costs = load(folder)
    scores: dict[str, dict[str, TypedScores]] = defaultdict(dict)
    for arm, runs in arms.items():
        for name in SETS:
            scores[arm][name] = typed_scores(runs, name)
    if "language" not in scores:
        raise ValueError(f"{folder} holds no run of the arm `language`, against which all others are measured.")
    pictures = write_pictures(
        out, arms, scores, {name: guessed(blind[name]["answers"]) for name in ("test", "shifted") if blind}
    )
    study = {key: value for key, value in arms["language"][0]["study"].items() if key != "longer"}
    starts = defaultdict(list)
    for arm, runs in arms.items():
        for run in runs:
            starts[run["warm_up"]["digest"]].append(f"{arm}:{run['seed']}")
    shared = (
        "All runs started from one warm-up."
        if len(starts) == 1
        else (
            "**Not all runs started from the same warm-up**: "
            + "; ".join(", ".join(names) for names in starts.values())
            + "."
        )
    )
    skills = ", ".join(
        f"{kind.removeprefix('picture_')} {100 * share:.0f}"
        for kind, share in arms["language"][0]["warm_up"]["skills"].items()
        if kind.startswith("picture_")
    )
    if skills:
        shared += f" Right answers of the warmed-up backbone to flat questions about test rooms, percent: {skills}."
    sections = [
        "# Results of the study",
        f"Scores: VSI-Bench's, protocol `{PROTOCOL}`, percent, with 95 % intervals of a bootstrap over rooms; a "
        "question's score is its mean over seeds, so the intervals do not say how much seeds differ: the last columns "
        "do. `black` and `shuffled` are the same questions on black frames and on frames in a random order. "
        f"{shared}",
        scores_section(arms, scores, blind),
        *(f"## Types: {name}\n\n{types_section(scores, blind, name)}" for name in ("test/clip", "shifted/clip")),
        f"## Answers that are lengths or areas, and others\n\n{kinds_section(arms)}",
        *(f"## Geometry: {name}\n\n{geometry_section(arms, blind, name)}" for name in ("test", "shifted")),
        *skills_section(arms),
        f"## Linear probes (R² on test rooms)\n\n{probes_section(arms)}",
        f"## Cost\n\n{cost_section(arms, costs)}",
        "## Figures\n\n" + "\n\n".join(f"![{caption}]({name})" for name, caption in pictures.items()),
        f"## Settings\n\n```json\n{json.dumps(study, indent=2)}\n```",
    ]
    with atomic_path(out / "report.md") as temporary:
        temporary.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
