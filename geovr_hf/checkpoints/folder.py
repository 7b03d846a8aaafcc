"""Checkpoint folders: where one comes from, and how one appears as a whole."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError


# Weights, and the small files beside them. Code stays where it is: none of it is run.
_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.txt", "README.md")


def fetch_checkpoint(
    source: str | os.PathLike,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | bool | None = None,
) -> Path:
    """Find a checkpoint on disk, or fetch it from the Hub to the cache.

    Args:
        source (`str` or `PathLike`): A folder, or a Hub id.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        subfolder (`str`, *optional*): Folder of the checkpoint inside `source`.
        token (`str` or `bool`, *optional*): Token of the Hub; by default the stored one.

    Returns:
        `Path`: A folder with a configuration, of a model or of an adapter.

    Raises:
        ValueError: There is no such folder or repository, it is gated, or no checkpoint is in it.
    """
    folder = Path(source)
    if not folder.is_dir():
        prefix = f"{subfolder.strip('/')}/" if subfolder else ""
        patterns = [prefix + pattern for pattern in _PATTERNS]
        # A pattern's star also stands for slashes: without a subfolder, those of a repository stay where they are.
        ignored = None if subfolder else ["*/*"]
        try:
            folder = Path(
                snapshot_download(
                    str(source), revision=revision, token=token, allow_patterns=patterns, ignore_patterns=ignored
                )
            )
        except GatedRepoError as error:
            raise ValueError(
                f"{source} is gated: accept its terms at https://huggingface.co/{source}, then log in with "
                "`hf auth login`."
            ) from error
        except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError) as error:
            raise ValueError(f"There is no folder {source}, and it cannot be had from the Hub: {error}") from error
    elif revision is not None:
        raise ValueError(f"`revision` is of the Hub, but {source} is a folder. Leave it out.")
    if subfolder:
        folder = folder / subfolder
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
        hint = f" Its subfolders {', '.join(inside)} have one: choose with `subfolder`." if inside else ""
        raise ValueError(f"{source}{f', {subfolder}' if subfolder else ''} holds no config.json.{hint}")
    return folder


def public_name(source: str | os.PathLike, subfolder: str | None = None) -> str:
    """What a checkpoint is called in what is published: a Hub id, or the name of a folder without its place."""
    path = Path(source)
    return "/".join(filter(None, [path.resolve().name if path.is_dir() else str(source), subfolder]))


@contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a hidden folder that becomes `path` in one step when the block succeeds; else it leaves no trace.

    Args:
        path (`str` or `PathLike`): The folder to be made. It may be there already if it is empty.

    Raises:
        ValueError: `path` is a file, or holds something: parts of two checkpoints in one folder are neither.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; a checkpoint needs a folder.")
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(f"{path} is not empty. Choose another folder, or remove it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as temporary:
        staged = Path(temporary) / path.name
        staged.mkdir()
        yield staged
        os.replace(staged, path)
