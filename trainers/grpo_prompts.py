"""Decoded rows as prompts for `trl.GRPOTrainer`, and what the model needs of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from datasets.table import InMemoryTable

from geovr_hf.trainers.conversation import read_row
from geovr_hf.trainers.data_collator import GeoVRAnswerCollator


# What the processor makes of clips and images: concatenated over the rows of a batch.
MEDIA = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")


def as_prompts(rows: Any) -> "PromptDataset":
    """Decoded rows as a [`PromptDataset`], if they are none yet."""
    return rows if isinstance(rows, PromptDataset) else PromptDataset(rows)


class PromptDataset(datasets.Dataset):
    """Decoded rows (see [`~geovr_hf.trainers.conversation.read_row`]) as TRL wants prompts, decoded when asked for.

    TRL takes a `datasets.Dataset` alone, whose table cannot hold clips; this one's table holds the rows' numbers.

    Args:
        rows (`Dataset` or `Sequence` of `dict`): Decoded rows. The last answer of `messages`, or the `completion`, is
            what the model shall find by itself.

    Raises:
        ValueError: The rows have no length.
    """

    def __init__(self, rows: Any):
        if not hasattr(rows, "__len__"):
            raise ValueError(
                f"GRPO draws prompts by their number, which {type(rows).__name__} does not know. Pass rows with a "
                "length, such as a list or a `VideoDataset`, not a stream."
            )
        super().__init__(InMemoryTable.from_pydict({"row": list(range(len(rows)))}))
        self.rows = rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The row as a prompt: `prompt`, `answer`, `geometry_targets`, `row`, `id`, `question_type`, other columns."""
        return prompt_row(self.rows[index], index)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several rows; one that is asked for repeatedly is decoded once."""
        made = {index: self[index] for index in dict.fromkeys(indices)}
        return [made[index] for index in indices]


def prompt_row(row: dict[str, Any], index: int) -> dict[str, Any]:
    """Part a decoded row into the prompt and the answer.

    Args:
        row (`dict`): A decoded row.
        index (`int`): Its number.

    Returns:
        `dict`: As [`PromptDataset`] gives it.

    Raises:
        ValueError: There is no answer to compare with, in a column `answer` or as the last message.
    """
    conversation = read_row(row, index, needs_answer=False)
    messages = [*(row.get("messages") or row["prompt"]), *(row.get("completion") or [])]
    num_asked = len(conversation.question())
    answer = conversation.answer() if row.get("answer") is None else str(row["answer"])
    if not answer:
        raise ValueError(
            f"{conversation.name} has no answer: give it a column `answer`, or a last message that is one."
        )
    others = {name: value for name, value in row.items() if name not in ("messages", "completion")}
    return {
        **others,
        "prompt": messages[:num_asked],
        "answer": answer,
        "geometry_targets": row.get("geometry_targets"),
        "row": index,
        "id": row.get("id"),
        "question_type": row.get("question_type"),
    }


@dataclass
class Prompt:
    """A prompt as the model reads it.

    Args:
        row (`dict`): The row that it is made of.
        messages (`list[dict]`): Its messages, media replaced by placeholders.
        input_ids (`list[int]`): Its tokens.
        media (`dict[str, torch.Tensor]`): What the processor makes of its clips and images.
    """

    row: dict[str, Any]
    messages: list[dict[str, Any]]
    input_ids: list[int]
    media: dict[str, torch.Tensor]


def encode_prompts(
    rows: Sequence[dict[str, Any]],
    collator: GeoVRAnswerCollator,
    chat_template_kwargs: dict[str, Any] | None = None,
) -> list[Prompt]:
    """Encode prompts, each one that is repeated once.

    Args:
        rows (`Sequence[dict]`): Rows of a [`PromptDataset`].
        collator ([`GeoVRAnswerCollator`]): Encodes them.
        chat_template_kwargs (`dict`, *optional*): Arguments of the chat template that a row's own override.

    Returns:
        `list[Prompt]`: One per row; those of repeated rows are the same object.
    """
    encoded: dict[int, Prompt] = {}
    for row in rows:
        if row["row"] not in encoded:
            own = row.get("chat_template_kwargs") or {}
            told = {**row, "chat_template_kwargs": {**(chat_template_kwargs or {}), **own}}
            asked = as_messages(told)
            batch = collator([asked])
            encoded[row["row"]] = Prompt(
                told,
                read_row(asked, row["row"]).messages,
                batch["input_ids"][0].tolist(),
                {name: batch[name] for name in MEDIA if name in batch},
            )
    return [encoded[row["row"]] for row in rows]


def as_messages(row: dict[str, Any]) -> dict[str, Any]:
    """The same row as a conversation without an answer, which collators take."""
    return {"messages": row["prompt"], **{name: value for name, value in row.items() if name != "prompt"}}


def join_media(prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
    """The media of several prompts, as a batch of them has it.

    Args:
        prompts (`Sequence[Prompt]`): Prompts.

    Returns:
        `dict[str, torch.Tensor]`: Those of `MEDIA` that any prompt has.
    """
    found = {name: [prompt.media[name] for prompt in prompts if name in prompt.media] for name in MEDIA}
    return {name: torch.cat(parts) for name, parts in found.items() if parts}
