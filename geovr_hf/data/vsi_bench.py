"""VSI-Bench: 5,130 questions on 288 indoor videos, the benchmark that GeoVR reports."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from geovr_hf.data.formats import Record, Row, find_files, load_rows, require


Subset = Literal["full", "debiased", "pruned"]

FILES: dict[Subset, str] = {
    "full": "test.jsonl",
    "debiased": "test_debiased.parquet",
    "pruned": "test_pruned.parquet",
}
NUMERIC_TYPES = frozenset({"object_counting", "object_abs_distance", "object_size_estimation", "room_size_estimation"})
CHOICE_TYPES = frozenset(
    {
        "object_rel_distance",
        "object_rel_direction_easy",
        "object_rel_direction_medium",
        "object_rel_direction_hard",
        "route_planning",
        "obj_appearance_order",
    }
)


@dataclass(frozen=True)
class VSIBenchPrompt:
    """What is put around a VSI-Bench question. Scores are only comparable under the same prompt.

    The defaults are those of lmms-eval's task `vsibench`.

    Args:
        head (`str`): Line before the question.
        numeric (`str`): Line after a question whose answer is a number.
        choice (`str`): Line after the options of a multiple-choice question.
    """

    head: str = "These are frames of a video."
    numeric: str = "Please answer the question using a single word or phrase."
    choice: str = "Answer with the option's letter from the given choices directly."

    def render(self, question: str, options: list[str] | None) -> str:
        """The text of the user's turn; an empty line of the prompt is left out."""
        tail = [self.numeric] if options is None else ["Options:", *options, self.choice]
        return "\n".join(line for line in (self.head, question, *tail) if line)


def load_vsi_bench(
    path: str | Path = "nyu-visionx/VSI-Bench",
    *,
    subset: Subset = "full",
    prompt: VSIBenchPrompt | None = None,
    streaming: bool = False,
):
    """Load VSI-Bench as stored rows.

    The last message is the reference answer: cut it off before asking a model. Media paths are
    `{dataset}/{scene_name}.mp4`, relative to the folder into which the three archives were unpacked.

    Args:
        path (`str` or `Path`, *optional*, defaults to `"nyu-visionx/VSI-Bench"`):
            A `.jsonl` or `.parquet` file, read whole whatever `subset` says; a folder that holds the published files;
            or a dataset id on the Hub.
        subset (`str`, *optional*, defaults to `"full"`):
            `"full"`, `"debiased"` or `"pruned"`: which of the published files.
        prompt ([`VSIBenchPrompt`], *optional*):
            Defaults to lmms-eval's.
        streaming (`bool`, *optional*, defaults to `False`):
            Read records when they are asked for instead of preparing a table on disk.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: Columns `id, question_type, messages, answer, options`;
        `options` is `None` for questions whose answer is a number.

    Raises:
        ValueError: No such file, an unknown subset, or a malformed record, which is named.
    """
    if subset not in FILES:
        raise ValueError(f"`subset` must be one of {sorted(FILES)}, got {subset!r}.")
    files = find_files(path, FILES[subset], streaming=streaming)
    return load_rows(files, partial(_convert, prompt=prompt or VSIBenchPrompt()), streaming=streaming)


def _convert(record: Record, place: str, *, prompt: VSIBenchPrompt) -> Row:
    question_type = require(record, "question_type", place)
    if question_type not in NUMERIC_TYPES | CHOICE_TYPES:
        raise ValueError(f"{place}: unknown `question_type` {question_type!r}.")
    options = require(record, "options", place) if question_type in CHOICE_TYPES else None
    answer = str(require(record, "ground_truth", place))
    text = prompt.render(require(record, "question", place), options)
    video = f"{require(record, 'dataset', place)}/{require(record, 'scene_name', place)}.mp4"
    return {
        "id": str(require(record, "id", place)),
        "question_type": question_type,
        "messages": [
            {"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": text}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ],
        "answer": answer,
        "options": options,
    }
