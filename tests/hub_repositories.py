"""The repositories that `hub_server` keeps: branches, commits, small files, and large files by their checksums."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml


LARGE_SUFFIXES = (".safetensors", ".parquet", ".bin", ".png", ".npz")  # as in the .gitattributes of a new repository
COPY_BYTES = 2**14
_SIZE_CATEGORY = re.compile(r"n<1K|1K<n<10K|10K<n<100K|100K<n<1M|1M<n<10M|10M<n<100M|100M<n<1B|n>1T|other")

_MODEL_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit. `sha256` is set for a large file, whose git blob is only a pointer to it."""

    content: Path
    size: int
    oid: str
    sha256: str | None

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid


@dataclass
class Commit:
    message: str
    changed: list[str]
    files: dict[str, StoredFile]


@dataclass
class Repository:
    """A repository; `commits` are in the order they were made, by their ids."""

    private: bool
    folder: Path
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, message: str, files: dict[str, StoredFile], changed: list[str]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {message} {sorted(files)}".encode()).hexdigest()
        self.commits[oid] = Commit(message, changed, files)
        self.branches[branch] = oid
        return oid

    def store(self, content: bytes) -> StoredFile:
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        path = self.folder / oid
        path.write_bytes(content)
        return StoredFile(path, len(content), oid, None)

    def large_file(self, sha256: str) -> StoredFile | None:
        path = self.folder / sha256
        if not path.exists():
            return None
        size = path.stat().st_size
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        return StoredFile(path, size, hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest(), sha256)


def read_range(path: Path, start: int, end: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while start < end:
            chunk = file.read(min(COPY_BYTES, end - start))
            start += len(chunk)
            yield chunk


def describe(path: str, file: StoredFile) -> dict:
    entry = {"type": "file", "oid": file.oid, "size": file.size, "path": path}
    if file.sha256:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 130}
    return entry


def metadata_errors(text: str) -> list[str]:
    """What is wrong with the front matter of a card, by the rules that the Hub documents."""
    try:
        metadata = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return [f"The metadata is no YAML: {error}"]
    if not isinstance(metadata, dict):
        return ["The metadata must be a mapping."]
    errors = []
    if metadata.get("license") == "other" and not metadata.get("license_name"):
        errors.append('"license_name" is required when "license" is "other".')
    for name in ("tags", "size_categories", "language", "datasets"):
        values = metadata.get(name, [])
        if not all(isinstance(value, str) for value in ([values] if isinstance(values, str) else values)):
            errors.append(f'"{name}" must be a list of strings.')
    for category in metadata.get("size_categories", []):
        if not _SIZE_CATEGORY.fullmatch(category):
            errors.append(f'"size_categories" has no {category!r}.')
    bases = metadata.get("base_model") or []
    for base in [bases] if isinstance(bases, str) else bases:
        if not _MODEL_ID.fullmatch(base):
            errors.append(f'"base_model" with value "{base}" is not valid. Use a model id from https://hf.co/models.')
    if metadata.get("base_model_relation", "finetune") not in ("finetune", "adapter", "quantized", "merge"):
        errors.append(f'"base_model_relation" has no {metadata["base_model_relation"]!r}.')
    for model in metadata.get("model-index", []):
        if not isinstance(model.get("name"), str):
            errors.append('Every entry of "model-index" needs a "name".')
        for result in model.get("results", []):
            needed = [("task", "type"), ("dataset", "type"), ("dataset", "name")]
            errors += [f'A result lacks "{part}.{name}".' for part, name in needed if name not in result.get(part, {})]
            metrics = result.get("metrics", [{}])
            errors += ['A metric lacks "type" or "value".' for metric in metrics if not {"type", "value"} <= {*metric}]
    for config in metadata.get("configs", []):
        if not isinstance(config.get("config_name"), str):
            errors.append('Every entry of "configs" needs a "config_name".')
    return errors
