"""Files that are there whole or not at all, and what is left of those whose writers died."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


_ABANDONED_AFTER = 24 * 3600.0  # seconds without a write, after which another machine's temporary file is left over


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place, on disk, when the block succeeds.

    The temporary name tells machine and process, so that [`remove_leftovers`] can tell whether it is still written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file as a whole."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def remove_leftovers(folder: str | Path) -> list[Path]:
    """Remove temporary files whose writers died: processes of this machine that are gone, or any after a day.

    Args:
        folder (`str` or `Path`): A folder of targets.

    Returns:
        `list[Path]`: What was removed.
    """
    removed = []
    for path in unfinished_files(folder):
        name, _, pid = path.name.removesuffix(".tmp").rpartition(".")
        gone = name.endswith(f".{socket.gethostname()}") and pid.isdigit() and not _is_running(int(pid))
        if gone or time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def unfinished_files(folder: str | Path) -> list[Path]:
    """The temporary files of [`whole_file`] in a folder of targets, sorted, the folder's own before its clips'."""
    return [path for pattern in (".*.tmp", "clips/*/.*.tmp") for path in sorted(Path(folder).glob(pattern))]


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, so it runs
        return True
    return True
