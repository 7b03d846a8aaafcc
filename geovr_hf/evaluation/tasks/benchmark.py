"""What our benchmarks have in common: multiple choice and numbers about a video, averaged by type."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from geovr_hf.evaluation.bootstrap import Bootstrap
from geovr_hf.evaluation.typed_scores import Averaging, TypedScores, score_types
from geovr_hf.trainers.metrics import MRA_THRESHOLDS, parse_number


Doc = Mapping[str, Any]

NUMBER_INSTRUCTION = "Answer with a single number."
CHOICE_INSTRUCTION = "Answer with the letter of the right option."
# A letter at the start, alone or in brackets, before anything that is no letter: "B", "(B)", "b.", "B: left".
_LETTER = re.compile(r"\W*([A-Za-z])(?![A-Za-z])")


def choice_prompt(question: str, options: Sequence[str]) -> str:
    """A question with lettered options and how to answer.

    Args:
        question (`str`): The question.
        options (`Sequence[str]`): `"A. …"`, `"B. …"`, …
    """
    return "\n".join([question.strip(), "Options:", *options, CHOICE_INSTRUCTION])


def number_prompt(question: str) -> str:
    """A question whose answer is a number, and how to answer."""
    return f"{question.strip()}\n{NUMBER_INSTRUCTION}"


def score_letter(prediction: str, answer: str) -> float | None:
    """1 if the letter that stands alone at the start of the prediction is the answer, in any case; `None` without."""
    found = _LETTER.match(prediction)
    return None if found is None else float(found[1].upper() == answer.strip().strip("()").upper())


def score_number(prediction: str, answer: str) -> float | None:
    """Mean relative accuracy of the prediction's first number, as VSI-Bench has it under lmms-eval; `None` without."""
    number, target = parse_number(prediction), float(answer)
    if number is None:
        return None
    if target == 0:
        return float(number == 0)
    return float(np.mean(abs(number - target) / abs(target) <= 1 - MRA_THRESHOLDS))


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: how its rows are asked, answered and averaged.

    Args:
        name (`str`): Name of the task.
        title (`str`): Its readable name.
        dataset_id (`str`): Id of the data set on the Hub.
        scorer (`str`): What the scoring is called in results.
        headline (`str`): `"macro"` or `"micro"`: which average is the benchmark's number.
        questions (`str`): File of the questions in a local copy.
        question_type (`Callable`): Type of a row's question.
        text (`Callable`): What a row asks.
        media (`Callable`): Where a row's video may be, below the folder of the data: paths to try in order.
        score (`Callable`): Score of a row's answer, in `[0, 1]`; `None`, which counts 0, if nothing in it answers.
        families (`Mapping`, *optional*): Families of question types. By default each type is its own.
    """

    name: str
    title: str
    dataset_id: str
    scorer: str
    headline: Literal["macro", "micro"]
    questions: str
    question_type: Callable[[Doc], str]
    text: Callable[[Doc], str]
    media: Callable[[Doc], list[str]]
    score: Callable[[Doc, str], float | None]
    families: Mapping[str, tuple[str, ...]] | None = None

    # ---- what the task file points to ----

    def doc_to_text(self, doc: Doc) -> str:
        """What a row asks."""
        return self.text(doc)

    def doc_to_visual(self, doc: Doc) -> list[str]:
        """The video of a row, in the folder into which lmms-eval unpacks the data set."""
        home = Path(os.getenv("HF_HOME", "~/.cache/huggingface")).expanduser()
        return [str(self.find_video(doc, home / self.name))]

    def process_results(self, doc: Doc, results: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Score one answer."""
        score = self.score(doc, results[0])
        row = {
            "question_type": self.question_type(doc),
            "score": score or 0.0,
            "scene": self.media(doc)[0],
            "unreadable": score is None and bool(results[0].strip()),
        }
        return {"macro": row, "micro": row}

    def macro(self, rows: Sequence[Mapping[str, Any]]) -> float:
        """Average over families."""
        return self.average(rows, Bootstrap(replicates=0)).macro.value

    def micro(self, rows: Sequence[Mapping[str, Any]]) -> float:
        """Mean over questions."""
        return self.average(rows, Bootstrap(replicates=0)).micro.value

    # ---- what reports use ----

    def average(self, rows: Sequence[Mapping[str, Any]], bootstrap: Bootstrap | None = None) -> TypedScores:
        """Average scored rows, resampling videos.

        Args:
            rows (`Sequence[Mapping]`): `question_type`, `score` and `scene` of each question.
            bootstrap ([`Bootstrap`], *optional*): Replicates, seed and confidence of the intervals.
        """
        types = [row["question_type"] for row in rows]
        families = self.families or {kind: (kind,) for kind in sorted({*types})}
        scores = [row["score"] for row in rows]
        return score_types(scores, types, Averaging(families), [row["scene"] for row in rows], bootstrap)

    def find_video(self, doc: Doc, folder: Path) -> Path:
        """The video of a row.

        Raises:
            ValueError: There is none. All places that were tried are named.
        """
        tried = [folder / path for path in self.media(doc)]
        for path in tried:
            if path.is_file():
                return path
        raise ValueError(
            f"{self.title} needs a video that is not there: {' or '.join(map(str, tried))}. Name the folder that "
            f"holds the data with --data {self.name}=DIR."
        )
