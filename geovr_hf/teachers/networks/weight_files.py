"""Files of published weights: where they are, what they hold, and a digest of them."""

import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open


INDEX_NAME = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".pt", ".pth", ".bin")


class WeightFile:
    r"""Tensors of a weight file, read one at a time.

    Args:
        path (`Path`):
            A `.safetensors` file, the index of a sharded one (`*.safetensors.index.json`), or a flat state dict saved
            by `torch.save` (`.pt`), of which nothing but tensors is loaded.

    Attributes:
        shapes (`dict[str, tuple[int, ...]]`): Shape of every tensor.

    Raises:
        ValueError: The file is damaged, or holds anything but tensors by name.
    """

    def __init__(self, path: Path):
        self.path = path
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._read: dict[str, Callable[[], torch.Tensor]] = {}
        try:
            self._open(path)
        except pickle.UnpicklingError as error:
            # PyTorch's own message advises to load it all the same.
            raise ValueError(
                f"{path} is damaged, or holds more than tensors, which is not loaded (`weights_only`). Download it "
                "again."
            ) from error
        except (SafetensorError, json.JSONDecodeError, EOFError, RuntimeError, LookupError) as error:
            raise ValueError(f"{path} is damaged: {error}. Download it again.") from error

    def __getitem__(self, name: str) -> torch.Tensor:
        """Read one tensor."""
        return self._read[name]()

    def _open(self, path: Path):
        if path.suffix == ".json":
            shards = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
            for shard in sorted(shards):
                self._open_safetensors(path.with_name(shard))
        elif path.suffix in PICKLE_SUFFIXES:
            self._open_pickle(path)
        else:
            self._open_safetensors(path)

    def _open_safetensors(self, path: Path):
        file = safe_open(path, framework="pt")
        for name in file.keys():  # noqa: SIM118 (not a dict)
            self.shapes[name] = tuple(file.get_slice(name).get_shape())
            self._read[name] = lambda name=name: file.get_tensor(name)

    def _open_pickle(self, path: Path):
        # Memory mapping spares a copy of the whole file; the format of old needs one.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise ValueError(f"{path} is no flat state dict: expected tensors by name, got {_describe(state)}.")
        for name, tensor in state.items():
            self.shapes[name] = tuple(tensor.shape)
            self._read[name] = lambda tensor=tensor: tensor


def _describe(state: object) -> str:
    return f"keys {sorted(map(str, state))[:5]}" if isinstance(state, dict) else type(state).__name__


def find_weights(source: str | Path, filename: str, revision: str | None = None) -> Path:
    r"""Find a weight file.

    Args:
        source (`str` or `Path`):
            A file, a folder that holds `filename` (or `model.safetensors`, sharded or not), or a Hub id.
        filename (`str`):
            Name of the published file.
        revision (`str`, *optional*):
            Revision on the Hub.

    Returns:
        `Path`: The file; for a Hub id, in the cache.

    Raises:
        ValueError: There is no such file, or the Hub asks to accept its terms first.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        names = (filename, "model.safetensors", INDEX_NAME)
        found = next((path / name for name in names if (path / name).is_file()), None)
        if found is None:
            raise ValueError(f"{path} holds no weights: looked for {', '.join(dict.fromkeys(names))}.")
        return found
    try:
        return Path(hf_hub_download(str(source), filename, revision=revision))
    except GatedRepoError as error:
        raise ValueError(
            f"The weights of {source} are gated: accept their terms at https://huggingface.co/{source}, then log in "
            "with `hf auth login`."
        ) from error
    except (EntryNotFoundError, RepositoryNotFoundError, LocalEntryNotFoundError) as error:
        raise ValueError(
            f"Cannot get {filename!r} of {source!r}: {error} If it is a path, no such file or folder exists."
        ) from error


def weights_digest(path: Path) -> str:
    """SHA-256 of a weight file, or of all shards behind an index.

    The Hub's cache names large files by it; other files are read.

    Args:
        path (`Path`): The file, see [`find_weights`].

    Returns:
        `str`: 64 hexadecimal digits.
    """
    if path.suffix == ".json":
        shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        digests = [weights_digest(path.with_name(shard)) for shard in shards]
        return hashlib.sha256("".join(digests).encode()).hexdigest()
    target = path.resolve()
    if target.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", target.name):
        return target.name
    with open(target, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
