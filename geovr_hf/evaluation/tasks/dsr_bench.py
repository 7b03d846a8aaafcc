"""DSR-Bench (DSR Suite, arXiv 2512.20557): 1,484 questions on how things move in 3D, in videos from the wild.

Rows have `videoID`, `type` (six kinds, each absolute and relative, and one without template), `question`, `options`
and `answer`. The videos are Koala-36M's; the data set does not hold them, so they must be at hand.
"""

from .benchmark import Benchmark, Doc, choice_prompt, score_letter


def text(doc: Doc) -> str:
    """What a row asks."""
    return choice_prompt(doc["question"], list(doc["options"]))


BENCHMARK = Benchmark(
    name="dsrbench",
    title="DSR-Bench",
    dataset_id="TencentARC/DSR_Suite-Data",
    scorer="letter, mean of all questions",
    headline="micro",
    questions="benchmark.parquet",
    question_type=lambda doc: doc["type"],
    text=text,
    media=lambda doc: [f"videos/{doc['videoID']}.mp4", f"{doc['videoID']}.mp4"],
    score=lambda doc, prediction: score_letter(prediction, doc["answer"]),
)
doc_to_text, doc_to_visual = BENCHMARK.doc_to_text, BENCHMARK.doc_to_visual
process_results, macro, micro = BENCHMARK.process_results, BENCHMARK.macro, BENCHMARK.micro
