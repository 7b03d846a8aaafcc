"""One file of targets per clip: safetensors with a header that says what it is, and a checksum over all of it."""

import hashlib
import json
import mmap
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from geovr_hf.modeling.targets_geovr import GeometryTargets

from .encoding import decode_targets
from .mapped import MappedTargets, is_mapped
from .whole_files import whole_file


FORMAT_VERSION = 1
SUFFIX = ".safetensors"

_METADATA, _CHECKSUM = "geovr_targets", "geovr_sha256"
_MAX_HEADER = 2**24  # real ones have a few kilobytes; a longer one is no header
_DTYPES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
    torch.uint8: "U8",
}


class TargetFileError(ValueError):
    """A file of targets is truncated, altered, misplaced, or no such file at all. The message names it and a cure."""


@dataclass(frozen=True)
class TargetRecord:
    """What the header of a target file says.

    Args:
        path (`Path`): The file.
        num_bytes (`int`): Its size.
        checksum (`str`): SHA-256 over metadata, names, types and shapes of the tensors, and their data.
        key (`str`): The clip's name, [`~geovr_hf.targets.clip_key`].
        fingerprint (`str`): Fingerprint of the teacher.
        content (`str`): Digest of what the clip was read from, [`~geovr_hf.targets.content_digest`].
        source (`str`): What it was read from when the file was written: relative to the media root, or a name.
        frame_indices (`tuple[int, ...]`): Number of each frame in the source.
        frame_size (`tuple[int, int]`): Height and width of the clip's frames in pixels.
        timestamps (`tuple[float, ...]` or `None`): Seconds of each frame in the source, if there are any.
        sampling (`dict` or `None`): How the frames were chosen, if that is known.
        facts (`dict`): Formats and shapes of the targets.
    """

    path: Path
    num_bytes: int
    checksum: str
    key: str
    fingerprint: str
    content: str
    source: str
    frame_indices: tuple[int, ...]
    frame_size: tuple[int, int]
    timestamps: tuple[float, ...] | None
    sampling: dict[str, Any] | None
    facts: dict[str, Any]


def target_path(folder: str | Path, key: str) -> Path:
    """Where the targets of a clip lie in a folder of targets: spread over subfolders by the key's first two digits."""
    return Path(folder) / "clips" / key[:2] / f"{key}{SUFFIX}"


def write_target_file(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a file so that it is there whole or not at all, whenever the process or the machine dies.

    Args:
        path (`Path`): Where; see [`target_path`].
        tensors (`Mapping[str, torch.Tensor]`): Contiguous tensors on the CPU.
        metadata (`Mapping`): The other fields of [`TargetRecord`], fit for JSON.

    Raises:
        OSError: The file cannot be written, because the disk is full for one.
    """
    text = _canonical({"format_version": FORMAT_VERSION, **metadata})
    layout = {name: (_DTYPES[tensor.dtype], list(tensor.shape)) for name, tensor in tensors.items()}
    data = (tensors[name].reshape(-1).view(torch.uint8).numpy() for name in sorted(tensors))
    header = {_METADATA: text, _CHECKSUM: _checksum(text, layout, data)}
    with whole_file(path) as temporary:
        save_file(dict(tensors), temporary, header)


def read_record(path: str | Path) -> TargetRecord:
    """Read the header of a target file, which takes a fraction of a millisecond. Data are not looked at.

    Raises:
        FileNotFoundError: There is no such file.
        TargetFileError: The file is truncated, or not a file of targets of this version.
    """
    return _open(Path(path))[0]


def read_target_file(path: str | Path, key: str | None = None) -> tuple[GeometryTargets, TargetRecord]:
    """Read the targets of a clip. Tensors stay mapped to the file where their format allows it.

    Args:
        path (`str` or `Path`): The file.
        key (`str`, *optional*): The clip that it should belong to.

    Returns:
        `tuple[GeometryTargets, TargetRecord]`: The targets, see [`~geovr_hf.targets.decode_targets`], and what the
        header says. The checksum is not computed: that is for [`verify_target_file`].

    Raises:
        FileNotFoundError: There is no such file.
        TargetFileError: The file is truncated, foreign, or belongs to another clip.
    """
    path = Path(path)
    record = read_record(path)
    if key is not None and record.key != key:
        raise _misplaced(record)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except SafetensorError as error:
        raise _damaged(path, f"is damaged ({error})") from error
    targets = decode_targets(tensors, record.facts)
    if is_mapped(targets, tensors):
        targets = MappedTargets.of(targets, path.absolute(), record.key)
    return targets, record


def verify_target_file(path: str | Path, fingerprint: str | None = None) -> TargetRecord:
    """Read a whole file and compare it with its checksum and its name.

    Args:
        path (`str` or `Path`): The file.
        fingerprint (`str`, *optional*): Fingerprint that the teacher should have.

    Returns:
        [`TargetRecord`]: What the header says.

    Raises:
        TargetFileError: The file is truncated, altered, misplaced, foreign, or another teacher's.
    """
    path = Path(path)
    record, text, layout, spans = _open(path)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        parts = [view[slice(*spans[name])] for name in sorted(layout)]
        checksum = _checksum(text, layout, parts)
        for part in [*parts, view]:
            part.release()
    if checksum != record.checksum:
        raise _damaged(path, "was altered: its content is not what its checksum was made from")
    if (path.parent.name, path.stem) != (record.key[:2], record.key):
        raise _misplaced(record)
    if fingerprint is not None and record.fingerprint != fingerprint:
        raise _damaged(path, f"holds targets of the teacher {record.fingerprint}, not of {fingerprint}")
    return record


def _open(path: Path) -> tuple[TargetRecord, str, dict[str, tuple[str, list[int]]], dict[str, tuple[int, int]]]:
    """Header of a file: its record, its metadata as text, and type, shape and place in the file of each tensor."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _MAX_HEADER + 1
        if length > min(_MAX_HEADER, size - 8):
            raise _damaged(path, "is truncated or no safetensors file")
        try:
            header = json.loads(file.read(length))
            strings = header.pop("__metadata__")
            text, checksum = strings[_METADATA], strings[_CHECKSUM]
            layout = {name: (told["dtype"], told["shape"]) for name, told in header.items()}
            ends = {name: map(index, told["data_offsets"]) for name, told in header.items()}
            spans = {name: (8 + length + begin, 8 + length + end) for name, (begin, end) in ends.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, "is not a file of GeoVR targets, or its header is damaged") from error
    expected = max((end for _, end in spans.values()), default=8 + length)
    if size != expected:
        raise _damaged(path, f"is truncated or damaged: it has {size} bytes, its header announces {expected}")
    return _record(path, size, text, checksum), text, layout, spans


def _record(path: Path, size: int, text: str, checksum: str) -> TargetRecord:
    try:
        values = json.loads(text)
        version = values["format_version"]
        if version == FORMAT_VERSION:
            timestamps = values["timestamps"]
            return TargetRecord(
                path=path,
                num_bytes=size,
                checksum=checksum,
                key=values["key"],
                fingerprint=values["fingerprint"],
                content=values["content"],
                source=values["source"],
                frame_indices=tuple(values["frame_indices"]),
                frame_size=tuple(values["frame_size"]),
                timestamps=None if timestamps is None else tuple(timestamps),
                sampling=values["sampling"],
                facts=values["facts"],
            )
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, "is not a file of GeoVR targets, or its header is damaged") from error
    raise TargetFileError(
        f"{path} was written as version {version} of the format, this is version {FORMAT_VERSION}. Read it with the "
        "geovr_hf that wrote it, or compute the targets again into a new folder."
    )


def _misplaced(record: TargetRecord) -> TargetFileError:
    return _damaged(record.path, f"is misplaced: it belongs to the clip {record.key[:16]}… ({record.source})")


def _damaged(path: Path, what: str) -> TargetFileError:
    return TargetFileError(
        f"{path} {what}. Delete it and run `geovr precompute` again, which computes what is missing; "
        "`geovr precompute --verify` finds all such files."
    )


def _checksum(text: str, layout: Mapping[str, tuple[str, list[int]]], data: Iterable) -> str:
    """SHA-256 of metadata, layout and data, the latter in the order of the tensors' names."""
    digest = hashlib.sha256(text.encode())
    digest.update(_canonical([[name, *layout[name]] for name in sorted(layout)]).encode())
    for part in data:
        digest.update(part)
    return digest.hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
