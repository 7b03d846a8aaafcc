r"""Rewards for reinforcement learning on spatial questions: plain functions in TRL's form, for any of its trainers.

Each takes completions, as text or as messages, and the column `answer` of a data set, and gives a number per
completion, or `None` for questions of another kind, which TRL leaves out of its mean. They score as the evaluation
does. What counts of a completion is its final answer: the text behind a last `</think>`, and inside `<answer>` and
`</answer>` if those are there. TRL has more, such as `trl.rewards.think_format_reward`, that go with them.

Examples:
    >>> from geovr_hf.trainers.rewards import mean_relative_accuracy_reward
    >>> mean_relative_accuracy_reward(["4.5 meters", "B"], answer=["5", "B"])
    [0.9, None]
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from geovr_hf.trainers.metrics import mean_relative_accuracy, parse_choice, parse_number, score_answer


Completion = str | list[dict[str, Any]]
RewardFunction = Callable[..., list[float | None]]

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_CHOICE = re.compile(r"[A-Za-z]")
_BARE_CHOICE = re.compile(r"[A-Za-z]\.?")
_BARE_NUMBER = re.compile(r"-?\d*\.?\d+")


def final_answer(completion: Completion) -> str:
    """The answer that a completion comes to.

    Args:
        completion (`str` or `list[dict]`): Text, or messages of which the last one counts.

    Returns:
        `str`: What follows `</think>`, or stands between the last `<answer>` and `</answer>` of it, stripped.

    Examples:
        >>> final_answer("<think>Two rows of two.</think> <answer>4</answer>")
        '4'
    """
    text = completion if isinstance(completion, str) else completion[-1]["content"]
    if not isinstance(text, str):
        text = "".join(part.get("text") or "" for part in text)
    text = text.rpartition("</think>")[2]
    tagged = _ANSWER.findall(text)
    return (tagged[-1] if tagged else text).strip()


def answer_reward(completions: Sequence[Completion], answer: Sequence[str], **kwargs) -> list[float | None]:
    """Score every answer as the evaluation does: numbers by mean relative accuracy, choices and words by equality.

    Args:
        completions (`Sequence`): Completions.
        answer (`Sequence[str]`): The reference of each.
        **kwargs: What else a trainer passes; unused, as in the other rewards.

    Returns:
        `list[float]`: In `[0, 1]`.
    """
    return [
        score_answer(final_answer(completion), str(truth))
        for completion, truth in zip(completions, answer, strict=True)
    ]


def mean_relative_accuracy_reward(
    completions: Sequence[Completion], answer: Sequence[str], **kwargs
) -> list[float | None]:
    """Score numbers by VSI-Bench's mean relative accuracy (arXiv 2412.14171).

    Args:
        completions (`Sequence`): Completions, of which the first number of the final answer counts.
        answer (`Sequence[str]`): The reference of each.
        **kwargs: Unused.

    Returns:
        `list[float | None]`: In `[0, 1]`, 0 without a number; `None` where the reference is none.
    """
    rewards: list[float | None] = []
    for completion, truth in zip(completions, answer, strict=True):
        target = _number(truth)
        found = parse_number(final_answer(completion))
        rewards.append(None if target is None else 0.0 if found is None else mean_relative_accuracy(found, target))
    return rewards


def exact_choice_reward(completions: Sequence[Completion], answer: Sequence[str], **kwargs) -> list[float | None]:
    """Reward naming the right option.

    Args:
        completions (`Sequence`): Completions, of which the final answer's first word counts: "B", "b." or "B. lamp".
        answer (`Sequence[str]`): The reference of each.
        **kwargs: Unused.

    Returns:
        `list[float | None]`: 1 or 0; `None` where the reference is no single letter.
    """
    return [
        float(parse_choice(final_answer(completion)) == str(truth).strip().upper()) if _is_choice(truth) else None
        for completion, truth in zip(completions, answer, strict=True)
    ]


def format_reward(completions: Sequence[Completion], answer: Sequence[str], **kwargs) -> list[float | None]:
    """Reward answers that are nothing but what was asked for, right or wrong: one letter, one number, one line.

    Args:
        completions (`Sequence`): Completions.
        answer (`Sequence[str]`): The reference of each, which tells what was asked for.
        **kwargs: Unused.

    Returns:
        `list[float]`: 1 or 0.
    """
    rewards: list[float | None] = []
    for completion, truth in zip(completions, answer, strict=True):
        found = final_answer(completion)
        if _is_choice(truth):
            kept = _BARE_CHOICE.fullmatch(found) is not None
        elif _number(truth) is not None:
            kept = _BARE_NUMBER.fullmatch(found) is not None
        else:
            kept = bool(found) and "\n" not in found
        rewards.append(float(kept))
    return rewards


def _is_choice(truth: Any) -> bool:
    return _CHOICE.fullmatch(str(truth).strip()) is not None


def _number(truth: Any) -> float | None:
    try:
        return float(str(truth))
    except ValueError:
        return None


# By the names that recipes call them.
REWARDS: dict[str, RewardFunction] = {
    "answer": answer_reward,
    "mean_relative_accuracy": mean_relative_accuracy_reward,
    "exact_choice": exact_choice_reward,
    "format": format_reward,
}
