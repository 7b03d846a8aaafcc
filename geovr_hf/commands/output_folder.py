"""Folders of results that appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_output_folder(path: str | os.PathLike, overwrite: bool = False) -> Path:
    """Refuse a folder that results would be mixed into, before any work is done.

    Args:
        path (`str` or `os.PathLike`): the folder; it may be missing or empty.
        overwrite (`bool`, *optional*, defaults to `False`): allow a folder that holds something.

    Raises:
        ValueError: if `path` is a file, or a folder that holds something while `overwrite` is off.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; results need a folder.")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise ValueError(f"{path} is not empty. Choose another folder or add --overwrite to replace its results.")
    return path


@contextmanager
def staged_folder(path: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder whose files move to `path` when the block succeeds; a failure leaves `path` untouched.

    Files already in `path` are replaced one by one where the names agree; others are left alone.
    """
    path = check_output_folder(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as temporary:
        staged = Path(temporary) / path.name
        staged.mkdir()
        yield staged
        for file in sorted(file for file in staged.rglob("*") if file.is_file()):
            target = path / file.relative_to(staged)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
