"""Where a card is written to."""

import os
from pathlib import Path

from huggingface_hub import RepoCard


def write_card(card: RepoCard, folder: str | os.PathLike) -> Path:
    """Write a card as `README.md`, in one step: a reader sees the old card or the new one, never half of it.

    Args:
        card ([`~huggingface_hub.RepoCard`]): The card.
        folder (`str` or `os.PathLike`): Folder that it describes; made if missing.

    Returns:
        `Path`: The file written.
    """
    path = Path(folder) / "README.md"
    unfinished = path.with_name(".README.md.unfinished")
    card.save(unfinished)
    os.replace(unfinished, path)
    return path
