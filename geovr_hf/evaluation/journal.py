"""Answers on disk as soon as they are given, so that a run that stops goes on where it stopped."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class AnswerJournal:
    """Answers of a run, one JSON line each, in a file for each process.

    A line that was cut off when the process died is dropped. Any number of processes may go on with what any other
    number began.

    Args:
        folder (`Path`): Folder of the files; made if missing.
        rank (`int`, *optional*, defaults to 0): Number of this process.

    Raises:
        ValueError: A line inside a file is damaged.
    """

    def __init__(self, folder: str | Path, rank: int = 0):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / f"rank{rank}.jsonl"
        self._answers: dict[str, dict[str, Any]] = {}
        for path in sorted(self.folder.glob("rank*.jsonl")):
            self._read(path)
        self._file = None

    def __len__(self) -> int:
        """Number of answers."""
        return len(self._answers)

    def __contains__(self, key: str) -> bool:
        """Whether a question was answered."""
        return key in self._answers

    def __getitem__(self, key: str) -> dict[str, Any]:
        """The record of a question."""
        return self._answers[key]

    def records(self) -> Iterable[dict[str, Any]]:
        """All records."""
        return self._answers.values()

    def add(self, key: str, record: dict[str, Any]) -> None:
        """Keep an answer. It is on disk when the call returns."""
        if self._file is None:
            self._file = self._open()
        self._answers[key] = record
        self._file.write(json.dumps({"key": key, **record}, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self, path: Path) -> None:
        *lines, _ = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                self._answers[record.pop("key")] = record
            except (ValueError, KeyError) as error:
                raise ValueError(
                    f"{path}, line {number} is damaged: {error}. Delete the line, and its question is asked again."
                ) from error

    def _open(self):
        file = self.path.open("ab+")
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        return file
