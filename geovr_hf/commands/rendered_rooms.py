"""Synthetic rooms that are rendered once and kept in memory."""

import copy
import os
from typing import Any

from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from geovr_hf.data.rooms import Question, RoomsDataset


class _WholeRooms(Dataset):
    """Questions and rows of each room, by the room's number."""

    def __init__(self, rooms: RoomsDataset):
        self.rooms = rooms

    def __len__(self) -> int:
        return self.rooms.num_rooms

    def __getitem__(self, number: int) -> tuple[list[Question], list[dict[str, Any]]]:
        questions = self.rooms.room_clip(number).questions
        return questions, [self.rooms[number * len(questions) + index] for index in range(len(questions))]


class RenderedRooms(Dataset):
    """The rows of a [`RoomsDataset`], rendered by all CPU cores, with a progress bar, when it is made.

    Worth its memory when a short training goes over the same rooms several times; rows of a room share their tensors.

    Args:
        rooms ([`RoomsDataset`]): what to render.
        turns (`int`, *optional*, defaults to 1): questions of a room that make one row, as turns of one conversation.
            There are as many rows as questions; each begins with another one.

    Attributes:
        questions (`list[list[Question]]`): the questions about each room, in order.
        rows (`list[dict]`): decoded rows.
    """

    def __init__(self, rooms: RoomsDataset, turns: int = 1):
        self.rooms = rooms
        loader = DataLoader(_WholeRooms(rooms), batch_size=None, num_workers=min(os.cpu_count() or 1, rooms.num_rooms))
        self.questions: list[list[Question]] = []
        self.rows: list[dict[str, Any]] = []
        for questions, rows in tqdm(loader, desc="Rendering rooms", unit="room"):
            # A copy, out of the memory shared with the worker: each shared tensor would keep a file open.
            rows = copy.deepcopy(rows)
            self.questions.append(questions)
            for first in range(0, len(rows), turns):
                group = rows[first : first + turns]
                # Each question comes first in one row: alone, as it is put later, a question follows the clip at once.
                self.rows += [join_turns(group[start:] + group[:start]) for start in range(len(group))]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def clip_key(self, index: int) -> int:
        """The room that row `index` is about."""
        return self.rooms.clip_key(index)


def join_turns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One row that asks the questions of several about the same clip, one after the other; it shows the clip once.

    Args:
        rows (`list[dict]`): decoded rows of one room, a question and an answer each.

    Returns:
        `dict`: The first row with the other rows' turns behind its own. It has no `answer` or `question_type`: those
        belong to single questions.
    """
    if len(rows) == 1:
        return rows[0]
    messages = list(rows[0]["messages"])
    for row in rows[1:]:
        question, answer = row["messages"]
        text = [part for part in question["content"] if part["type"] == "text"]
        messages += [{"role": "user", "content": text}, answer]
    return {"messages": messages, "geometry_targets": rows[0]["geometry_targets"], "id": rows[0]["id"]}
