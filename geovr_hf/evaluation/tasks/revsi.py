"""ReVSI (arXiv 2604.24300), lmms-eval's tasks: its scores, averaged as it averages them, with intervals.

Its answers are right for the frames that a variant shows: give `revsi_32_frame` at least 32 frames, and so on.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from geovr_hf.evaluation.bootstrap import Bootstrap
from geovr_hf.evaluation.typed_scores import Averaging, TypedScores, score_types


TASKS = tuple(f"revsi_{frames}_frame" for frames in ("16", "32", "64", "all"))
# Fewest frames that show what is asked about; the group has all variants. How many "all" are differs by video.
FRAMES = {"revsi_16_frame": 16, "revsi_32_frame": 32, "revsi_64_frame": 64, "revsi": 64}
_NUMERIC_FAMILIES = ("object_abs_distance", "object_counting", "object_size_estimation", "room_size_estimation")
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
    """Type, score, scene and legibility of each question, from what lmms-eval logged of it."""
    return [
        {
            "question_type": doc["question_type"],
            "score": float(doc["acc"]),
            "scene": doc["scene_id"],
            "unreadable": _is_unreadable(str(sample["filtered_resps"][0] or ""), doc["question_type"]),
        }
        for sample in samples
        for doc in [sample["overall_acc"]]
    ]


def _is_unreadable(answer: str, question_type: str) -> bool:
    """Whether there is text of whose first word, which lmms-eval scores, is neither a number nor a letter."""
    word = answer.strip().split(" ")[0].rstrip(".").strip()
    if not answer.strip():
        return False
    if not question_type.startswith(_NUMERIC_FAMILIES):
        return len(word) != 1 or not word.isalpha()
    try:
        return not math.isfinite(float(word))
    except ValueError:
        return True


def average(rows: Sequence[Mapping[str, Any]], bootstrap: Bootstrap) -> TypedScores:
    """Average scored rows, resampling scenes."""
    columns = ([row[name] for row in rows] for name in ("score", "question_type", "scene"))
    scores, types, scenes = columns
    return score_types(scores, types, Averaging(FAMILIES), scenes, bootstrap)
