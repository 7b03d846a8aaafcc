"""Rendered rooms as rows for the trainer: questions about whole clips, and the warm-up's rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from geovr_hf.data import Clip
from geovr_hf.data.rooms import Question
from geovr_hf.modeling import GeometryTargets

from .flat_questions import SECONDS_APART
from .grounding import COLUMN
from .rendering import open_arrays


NAMING = "Name the objects of each frame, each with its place from 0 (left) to 9 (right)."


class StoredRooms(Dataset):
    """Decoded rows of a rendered set, a question each; rows of one clip share its tensors.

    Args:
        folder (`Path`): What [`render`] wrote.
        rooms (`int`, *optional*): The first rooms only.
        view (`str`, *optional*): `clip`, `black` (frames without light) or `shuffled` (frames in a random order).
        about (`tuple[str, ...]`, *optional*): Which questions: `questions`, those of VSI-Bench's types, and `flat`,
            those about pictures.

    Raises:
        ValueError: Rendering was not finished.
    """

    def __init__(
        self, folder: Path, rooms: int | None = None, view: str = "clip", about: tuple[str, ...] = ("questions",)
    ):
        self.folder, self.view, self.about = Path(folder), view, about
        facts = json.loads((self.folder / "rooms.json").read_text())
        self.name, count = facts["name"], facts["count"]
        self.words = [
            line for path in sorted(self.folder.glob("words-*.jsonl")) for line in path.read_text().splitlines()
        ]
        if len(self.words) != count:
            raise ValueError(f"{folder} holds {len(self.words)} of {count} rooms. Render the rest first.")
        self.num_rooms = count if rooms is None else min(rooms, count)
        self.per_room = len(self.asked(0))
        self._arrays: dict[str, np.ndarray] | None = None
        self._last: tuple | None = None  # what was last read: rows that share a clip come together

    def __len__(self) -> int:
        return self.num_rooms * self.per_room

    def clip_key(self, index: int) -> int:
        """The room that row `index` is about."""
        return index // self.per_room

    def asked(self, room: int) -> list[Question]:
        """The questions about a room, in the order of `about`."""
        words = json.loads(self.words[room])
        return [question for kind in self.about for question in _questions(words[kind])]

    def names(self, room: int) -> list[str]:
        """What each frame of a room shows."""
        return json.loads(self.words[room])["names"].split("\n")

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the set, mapped; each process opens its own."""
        if self._arrays is None:
            self._arrays = open_arrays(self.folder, "r")
        return self._arrays

    def __getitem__(self, index: int) -> dict[str, Any]:
        room, place = divmod(index, self.per_room)
        if self._last is None or self._last[0] != room:
            self._last = (room, self.asked(room), self.clip(room), self.targets(room))
        _, questions, content, targets = self._last
        asked = questions[place]
        return _row(content, words_of(asked), asked.answer) | {
            "geometry_targets": targets,
            "id": f"{self.name}-{room}-{place}",
            "question_type": asked.question_type,
            "answer": asked.answer,
        }

    def clip(self, room: int, chosen: slice = slice(None)) -> dict[str, Any]:
        """Frames of a room as a message holds them."""
        frames = torch.from_numpy(self.arrays()["frames"][room][chosen].copy())
        if self.view == "black":
            frames = torch.zeros_like(frames)
        elif self.view == "shuffled":
            frames = frames[torch.randperm(len(frames), generator=torch.Generator().manual_seed(room))]
        # The same in every clip: how long a walk took would tell how far it went.
        timestamps = torch.arange(len(frames), dtype=torch.float64) * SECONDS_APART
        return Clip(frames, timestamps, f"{self.name}-{room}", tuple(range(len(frames)))).content()

    def targets(self, room: int) -> GeometryTargets:
        """The geometry of a room's clip."""
        arrays = self.arrays()
        depth = torch.from_numpy(arrays["depth"][room].astype(np.float32))
        return GeometryTargets(
            pose_enc=torch.from_numpy(arrays["pose"][room].copy()),
            depth=depth,
            depth_confidence=(depth > 0).float(),
            metric_scale=torch.tensor(float(arrays["scale"][room])),
            features=[torch.from_numpy(layer.astype(np.float32)) for layer in arrays["features"][room]],
            features_pooled=True,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": None, "_last": None}


class WarmUpRows(StoredRooms):
    """Rows of the warm-up: of each room every frame alone, and the whole clip, each to be named and asked about.

    A frame alone teaches to see, with no other to confuse it with; the clip teaches to tell frames apart. All that is
    asked about the same frames shares them.
    """

    def __init__(self, folder: Path):
        super().__init__(folder, about=("flat",))
        # A row for each: room, number of the frame or None for the clip, number of the question or None for naming.
        self._rows: list[tuple[int, int | None, int | None]] = []
        for room in range(self.num_rooms):
            words = json.loads(self.words[room])
            for frame in [*range(len(words["names"].split("\n"))), None]:
                asked = words.get(_about(frame), ())
                self._rows += [(room, frame, place) for place in (None, *range(len(asked)))]

    def __len__(self) -> int:
        return len(self._rows)

    def clip_key(self, index: int) -> tuple[int, int | None]:
        """The frames that a row is about."""
        return self._rows[index][:2]

    def __getitem__(self, index: int) -> dict[str, Any]:
        room, frame, place = self._rows[index]
        if self._last is None or self._last[0] != (room, frame):
            chosen, words = slice(None) if frame is None else slice(frame, frame + 1), json.loads(self.words[room])
            names, asked = "\n".join(words["names"].split("\n")[chosen]), _questions(words.get(_about(frame), ()))
            shown = np.array(self.arrays()[COLUMN][room][chosen])
            self._last = ((room, frame), self.clip(room, chosen), names, asked, shown)
        _, content, names, asked, shown = self._last
        question, reply = (NAMING, names) if place is None else (words_of(asked[place]), asked[place].answer)
        return _row(content, question, reply) | {COLUMN: shown}


def _questions(stored: list[dict[str, Any]]) -> list[Question]:
    return [
        Question(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})
        for fields in stored
    ]


def _about(frame: int | None) -> str:
    return "flat" if frame is None else f"frame-{frame}"


def words_of(question: Question) -> str:
    """A question as it is put, without the phrases that frame all questions alike and are half as long as they are."""
    return "\n".join([question.text, *(question.options or ())])


def _row(content: dict[str, Any], asked: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": [content, {"type": "text", "text": asked}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
    }
