"""STI-Bench (arXiv 2503.23765): precise spatial and temporal questions on desktops, rooms and streets.

A question is about a stretch of its video, which the prompt names. Rows have `Video`, `Task`, `Question`, `Candidates`
(options by letter), `Answer`, `time_start` and `time_end` in seconds. The words around the question are ours.
"""

import json

from .benchmark import Benchmark, Doc, choice_prompt, score_letter


def text(doc: Doc) -> str:
    """What a row asks."""
    candidates = doc["Candidates"]
    if isinstance(candidates, str):
        candidates = json.loads(candidates)
    # Arrow gives every row all letters, with None for those that it does not have.
    options = [f"{letter}. {option}" for letter, option in sorted(candidates.items()) if option is not None]
    return choice_prompt(
        f"Between {doc['time_start']} s and {doc['time_end']} s of the video: {doc['Question']}", options
    )


BENCHMARK = Benchmark(
    name="stibench",
    title="STI-Bench",
    dataset_id="MINT-SJTU/STI-Bench",
    scorer="letter, mean of all questions",
    headline="micro",
    questions="qa.parquet",
    question_type=lambda doc: doc["Task"],
    text=text,
    media=lambda doc: [f"video/{doc['Video']}", doc["Video"]],
    score=lambda doc, prediction: score_letter(prediction, doc["Answer"]),
)
doc_to_text, doc_to_visual = BENCHMARK.doc_to_text, BENCHMARK.doc_to_visual
process_results, macro, micro = BENCHMARK.process_results, BENCHMARK.macro, BENCHMARK.micro
