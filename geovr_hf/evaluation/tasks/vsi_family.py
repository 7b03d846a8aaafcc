"""Tasks with VSI-Bench's question types: lmms-eval's own, on a local copy if there is one, and synthetic rooms.

Their answers are scored under both protocols; the engine's own numbers stay beside them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from geovr_hf.data.vsi_bench import FILES, VSIBenchPrompt

from .benchmark import Doc


SYNTHETIC_ROOMS = "synthetic-rooms"
# lmms-eval's tasks, by the file of a local copy that has their questions.
VSI_TASKS = {"vsibench": FILES["full"], "vsibench_debiased": FILES["debiased"], "vsibench_pruned": FILES["pruned"]}
LMMS_PROMPT = VSIBenchPrompt()


def lmms_text(doc: Doc) -> str:
    """A question as lmms-eval asks it."""
    return LMMS_PROMPT.render(doc["question"], doc["options"])


def published_text(doc: Doc) -> str:
    """A question as the published evaluation of GeoVR asks it."""
    if doc["options"] is None:
        return f"{doc['question']}\nPlease answer the question ONLY using a single Arabic numeral."
    return "\n".join([doc["question"], *doc["options"], "Answer with ONLY the option's letter directly."])


def rooms_text(doc: Doc) -> str:
    """A question as synthetic rooms ask it in training."""
    return doc["prompt"]


PROMPTS: dict[str, Callable[[Doc], str]] = {
    "lmms-eval": lmms_text,
    "published": published_text,
    "rooms": rooms_text,
}


def forgiving(process_results: Callable[[Doc, list[str]], Any]) -> Callable[[Doc, list[str]], Any]:
    """lmms-eval's scoring, which raises at words for a number that is too large, made to score such an answer 0."""

    def process(doc: Doc, results: list[str]) -> Any:
        try:
            return process_results(doc, results)
        except OverflowError:
            return process_results(doc, [""])

    return process


def video_of(doc: Doc, folder: Path) -> Path:
    """The video of a row in a local copy: `{dataset}/{scene_name}.mp4`.

    Raises:
        ValueError: There is none.
    """
    path = folder / doc["dataset"] / f"{doc['scene_name']}.mp4"
    if not path.is_file():
        raise ValueError(
            f"No such video: {path}. Unpack the archives of VSI-Bench into {folder}, so that it has the folders "
            "arkitscenes, scannet and scannetpp."
        )
    return path


def scene_of_row(doc: Doc) -> str:
    """What a row is resampled with."""
    return f"{doc['dataset']}/{doc['scene_name']}"


def local_questions(task: str, folder: Path) -> Path:
    """The file with the questions of a task in a local copy.

    Raises:
        ValueError: There is none.
    """
    path = folder / VSI_TASKS.get(task, "test.jsonl")
    if not path.is_file():
        raise ValueError(f"{folder} holds no {path.name}, the questions of {task}.")
    return path


def rooms_config(engine_config: dict[str, Any]) -> dict[str, Any]:
    """lmms-eval's configuration of VSI-Bench, made that of synthetic rooms.

    Args:
        engine_config (`dict`): Configuration of `vsibench`.
    """
    return {**engine_config, "task": SYNTHETIC_ROOMS, "doc_to_text": rooms_text, "lmms_eval_specific_kwargs": None}
