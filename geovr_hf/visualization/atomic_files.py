"""Writing a file so that a reader sees the whole of it or nothing."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` when the block succeeds and disappears when it fails.

    The temporary file lies in the same folder, which is created, so that the final `os.replace` never crosses a file
    system; it keeps the suffix, which image writers choose their format by.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)
