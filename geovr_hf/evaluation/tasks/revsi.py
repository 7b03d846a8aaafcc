"""ReVSI (arXiv 2604.24300), lmms-eval's tasks: its scores, averaged as it averages them, with intervals.

Its answers are right for the frames that a variant shows: give `revsi_32_frame` at least 32 frames, and so on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from geovr_hf.evaluation.bootstrap import Bootstrap
from geovr_hf.evaluation.typed_scores import Averaging, TypedScores, score_types


TASKS = tuple(f"revsi_{frames}_frame" for frames in ("16", "32", "64", "all"))
FAMILIES = {
    "object_abs_distance": ("object_abs_distance",),
    "object_counting": ("object_counting_single", "object_counting_multiple"),
    "object_rel_direction": tuple(
        f"object_rel_direction_{view}_{difficulty}"
        for view in ("forward", "backward")
        for difficulty in ("easy", "hard")
    ),
    "object_rel_distance": ("object_rel_distance_closest", "object_rel_distance_farthest"),
    "object_size_estimation": ("object_size_estimation",),
    "room_size_estimation": ("room_size_estimation_single", "room_size_estimation_multiple"),
    "route_planning": ("route_planning",),
}


def scored_rows(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Type, score and scene of each question, from what lmms-eval logged of it."""
    docs = [sample["overall_acc"] for sample in samples]
    return [
        {"question_type": doc["question_type"], "score": float(doc["acc"]), "scene": doc["scene_id"]} for doc in docs
    ]


def average(rows: Sequence[Mapping[str, Any]], bootstrap: Bootstrap) -> TypedScores:
    """Average scored rows, resampling scenes."""
    columns = ([row[name] for row in rows] for name in ("score", "question_type", "scene"))
    scores, types, scenes = columns
    return score_types(scores, types, Averaging(FAMILIES), scenes, bootstrap)
