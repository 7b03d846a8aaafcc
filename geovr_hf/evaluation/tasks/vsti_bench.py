"""VSTI-Bench (VLM-3R, arXiv 2505.20279): where the camera is and how it moves, in ScanNet, ScanNet++ and ARKitScenes.

Seven question types of multiple choice and two of numbers make five families. On 2026-07-13 the authors corrected the
camera positions: 306 questions were dropped, many answers changed, and results on the older file are not comparable.
Options and answers are the data set's; the words around them are ours, where the authors use VSI-Bench's.
"""

from .benchmark import Benchmark, Doc, choice_prompt, number_prompt, score_letter, score_number


NUMERIC_TYPES = ("camera_obj_abs_dist", "camera_displacement")
FAMILIES = {
    "camera_obj_abs_dist": ("camera_obj_abs_dist",),
    "camera_displacement": ("camera_displacement",),
    "camera_movement_direction": ("camera_movement_direction",),
    "obj_obj_relative_pos": tuple(f"obj_obj_relative_pos_{axis}" for axis in ("nf", "lr", "ud")),
    "camera_obj_rel_dist": tuple(f"camera_obj_rel_dist_v{version}" for version in (1, 2, 3)),
}


def text(doc: Doc) -> str:
    """What a row asks."""
    if doc["question_type"] in NUMERIC_TYPES:
        return number_prompt(doc["question"])
    return choice_prompt(doc["question"], doc["options"])


def score(doc: Doc, prediction: str) -> float | None:
    """Mean relative accuracy of a number, exact match of a letter."""
    if doc["question_type"] in NUMERIC_TYPES:
        return score_number(prediction, doc["ground_truth"])
    return score_letter(prediction, doc["mc_answer"])


BENCHMARK = Benchmark(
    name="vstibench",
    title="VSTI-Bench",
    dataset_id="Journey9ni/vstibench",
    scorer="mean relative accuracy (<=) and letter, mean of five families",
    headline="macro",
    questions="test.json",
    question_type=lambda doc: doc["question_type"],
    text=text,
    media=lambda doc: [doc["video_path"]],
    score=score,
    families=FAMILIES,
)
doc_to_text, doc_to_visual = BENCHMARK.doc_to_text, BENCHMARK.doc_to_visual
process_results, macro, micro = BENCHMARK.process_results, BENCHMARK.macro, BENCHMARK.micro
