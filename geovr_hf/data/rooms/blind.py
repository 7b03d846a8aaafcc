"""What a guesser scores who reads the questions and never sees a clip.

Three guessers, from blind to cunning:

- `chance`: a random option (numbers: none).
- `constant`: for each question type the one answer that scores best over the very questions it is scored on.
- `words`: the best answer given the words. Numbers: the best constant for the category asked about. Choices: the
  option whose words were right most often, be it a category, a direction or that one thing comes before another. It is
  fitted on one half of the rooms and scored on the other, both ways round.

Scores are VSI-Bench's: accuracy, and mean relative accuracy for numbers. A model that has learnt to see beats them.

    python -m geovr_hf.data.rooms.blind --rooms 500
"""

import argparse
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from itertools import combinations

import numpy as np
from tqdm import tqdm

from .asking import ASKERS, NUMERIC_TYPES, QUESTION_TYPES
from .clips import find_room
from .questions import LETTERS, Question
from .scene import RoomsSpec


Halves = tuple[list[Question], list[Question]]  # of the questions of a type, by rooms

_CONFIDENCES = np.linspace(0.5, 0.95, 10)


def relative_accuracy(guesses: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Mean relative accuracy of VSI-Bench for arrays that broadcast.

    It is the share of theta in 0.5, 0.55, ..., 0.95 with `|guess - target| / target <= 1 - theta`.
    """
    error = np.abs(guesses - targets) / targets
    return (error[..., None] <= 1 - _CONFIDENCES).mean(axis=-1)


def best_constant(targets: np.ndarray) -> tuple[float, float]:
    """The number that has the greatest mean relative accuracy over positive targets, and that accuracy."""
    candidates = np.geomspace(targets.min(), targets.max(), 200)
    candidates = np.unique(np.concatenate([candidates, targets]))
    scores = relative_accuracy(candidates[:, None], targets).mean(axis=1)
    return float(candidates[scores.argmax()]), float(scores.max())


def blind_scores(rooms: Sequence[Sequence[Question]]) -> dict[str, dict[str, float]]:
    """Score the guessers on each question type.

    Args:
        rooms (`list[list[Question]]`): The questions about each room. What one question gives away of a room is not
            held against another: halves share no room.

    Returns:
        For each type that occurs: `count`, `chance` (choices only), `constant` and `words`, scores in 0..1.
    """
    by_type: dict[str, Halves] = {}
    for number, questions in enumerate(rooms):
        for question in questions:
            by_type.setdefault(question.question_type, ([], []))[number % 2].append(question)
    return {
        kind: (_numeric_scores if kind in NUMERIC_TYPES else _choice_scores)(by_type[kind])
        for kind in ASKERS
        if kind in by_type
    }


def _numeric_scores(halves: Halves) -> dict[str, float]:
    questions = [*halves[0], *halves[1]]
    targets = np.array([float(question.answer) for question in questions])
    scores = []
    for fit, test in _both_ways(halves):
        by_subject = defaultdict(list)
        for question in fit:
            by_subject[question.subjects[:1]].append(float(question.answer))
        overall, _ = best_constant(np.array([float(question.answer) for question in fit]))
        constants = {subject: best_constant(np.array(values))[0] for subject, values in by_subject.items()}
        for question in test:
            guess = constants.get(question.subjects[:1], overall)
            scores.append(float(relative_accuracy(np.array(guess), np.array(float(question.answer)))))
    return {"count": len(questions), "constant": best_constant(targets)[1], "words": _mean(scores)}


def _choice_scores(halves: Halves) -> dict[str, float]:
    questions = [*halves[0], *halves[1]]
    letters = [question.answer for question in questions]
    scores = []
    for fit, test in _both_ways(halves):
        # One success in four offers of its own keeps a rare cue from looking certain.
        offered, right = defaultdict(lambda: 4.0), defaultdict(lambda: 1.0)
        for question in fit:
            for letter, option in zip(LETTERS, question.options, strict=False):
                for cue in _cues(question, option):
                    offered[cue] += 1
                    right[cue] += letter == question.answer
        for question in test:
            appeal = [_mean([np.log(right[c] / offered[c]) for c in _cues(question, o)]) for o in question.options]
            scores.append(float(LETTERS[int(np.argmax(appeal))] == question.answer))
    return {
        "count": len(questions),
        "chance": _mean([1 / len(question.options) for question in questions]),
        "constant": max(letters.count(letter) for letter in LETTERS) / len(letters),
        "words": _mean(scores),
    }


def _cues(question: Question, option: str) -> list[Hashable]:
    """What there is to learn about an option from its words."""
    content = option.partition(". ")[2]
    if question.question_type == "obj_appearance_order":
        return list(combinations(content.split(", "), 2))
    return [content]


def _both_ways(halves: Halves) -> Iterator[Halves]:
    even, odd = halves
    if even and odd:
        yield even, odd
        yield odd, even


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def sample_questions(
    num_rooms: int, seed: int = 0, spec: RoomsSpec | None = None, questions_per_room: int = 8
) -> list[list[Question]]:
    """The questions about each of a data set's rooms, without rendering its clips."""
    spec = RoomsSpec() if spec is None else spec
    return [
        find_room(spec, seed, number, questions_per_room, QUESTION_TYPES)[2]
        for number in tqdm(range(num_rooms), desc="rooms", unit="room")
    ]


def table(scores: dict[str, dict[str, float]]) -> str:
    """The scores of `blind_scores` as a Markdown table, in percent, with VSI-Bench's mean over its eight types."""
    lines = ["| question type | questions | chance | constant | words |", "|---|---:|---:|---:|---:|"]

    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f}"

    for kind, row in scores.items():
        cells = (percent(row.get(column)) for column in ("chance", "constant", "words"))
        lines.append(f"| {kind} | {row['count']} | {' | '.join(cells)} |")
    means = (percent(_mean_of_types(scores, column)) for column in ("constant", "words"))
    lines.append(f"| **mean of the types** | {sum(row['count'] for row in scores.values())} | | {' | '.join(means)} |")
    return "\n".join(lines)


def _mean_of_types(scores: dict[str, dict[str, float]], column: str) -> float:
    """Mean over VSI-Bench's types, the three difficulties of relative direction counting as one."""
    groups = defaultdict(list)
    for kind, row in scores.items():
        groups["direction" if kind.startswith("object_rel_direction") else kind].append(row[column])
    return _mean([_mean(values) for values in groups.values()])


def main() -> None:
    """Print the blind baseline."""
    parser = argparse.ArgumentParser(description="Score guessers that never see a clip.")
    parser.add_argument("--rooms", type=int, default=500, help="number of rooms")
    parser.add_argument("--seed", type=int, default=0, help="seed of the rooms")
    parser.add_argument("--questions-per-room", type=int, default=8, help="questions asked about each room")
    arguments = parser.parse_args()
    rooms = sample_questions(arguments.rooms, arguments.seed, questions_per_room=arguments.questions_per_room)
    print(table(blind_scores(rooms)))


if __name__ == "__main__":
    main()
