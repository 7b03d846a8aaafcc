"""The index of a target folder: a table with a row per clip, made from nothing but the files' own headers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import TargetRecord
from .manifest import Manifest
from .whole_files import whole_file, write_json


if TYPE_CHECKING:
    from .folder import TargetFolder

INDEX = "index.parquet"
UNREADABLE = "unreadable.json"

# Tells `datasets.load_dataset(FOLDER)` which of the files is the table.
_README = """---
configs:
- config_name: default
  data_files: index.parquet
---

Geometry targets of {name}. Read with `geovr_hf.targets.TargetFolder`; `index.parquet` lists the clips.
"""


def write_index(folder: "TargetFolder") -> Manifest:
    """Write `index.parquet`, and what it counts into the manifest. `load_dataset(folder)` reads it.

    It can be made again at any time: the files' headers have all that it says.

    Args:
        folder ([`TargetFolder`]): The folder.

    Returns:
        [`Manifest`]: With `contents`.

    Raises:
        TargetFileError: A header is damaged.
        ImportError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Writing the index of a target folder needs pyarrow: pip install pyarrow") from error
    records = list(folder.records())
    types = {
        "key": pyarrow.string(),
        "file": pyarrow.string(),
        "source": pyarrow.string(),
        "num_frames": pyarrow.int32(),
        "frame_indices": pyarrow.list_(pyarrow.int64()),
        "timestamps": pyarrow.list_(pyarrow.float64()),
        "height": pyarrow.int32(),
        "width": pyarrow.int32(),
        "num_bytes": pyarrow.int64(),
        "checksum": pyarrow.string(),
        "content": pyarrow.string(),
        "fingerprint": pyarrow.string(),
    }
    table = pyarrow.Table.from_pylist([_row(record, folder.path) for record in records], pyarrow.schema(types))
    with whole_file(folder.path / INDEX) as temporary:
        pyarrow.parquet.write_table(table, temporary)
    if not (folder.path / "README.md").exists():
        with whole_file(folder.path / "README.md") as temporary:
            temporary.write_text(_README.format(name=folder.spec.name), encoding="utf-8")
    manifest = replace(folder.manifest, contents=_contents(records))
    manifest.write(folder.path)
    return manifest


def missing_of_index(folder: str | Path) -> list[str]:
    """Compare a folder with its index.

    Args:
        folder (`str` or `Path`): The folder of targets.

    Returns:
        `list[str]`: A line for each file that the index lists and the folder lacks, or one if the index cannot be
        read. Empty without an index, or without pyarrow to read it.
    """
    path = Path(folder) / INDEX
    if not path.exists():
        return []
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return []
    try:
        listed = pyarrow.parquet.read_table(path, columns=["file"]).column("file").to_pylist()
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        return [f"{path} is damaged ({error}). Run `geovr precompute` again, which writes it anew."]
    return [
        f"{path.parent / name} is missing, though {INDEX} lists it. Run `geovr precompute` again, which computes it."
        for name in listed
        if not (path.parent / name).exists()
    ]


def write_unreadable(folder: str | Path, reasons: dict[str, str]) -> None:
    """Write `unreadable.json`: the sources of the clips that could not be read, each with the reason."""
    rows = [{"source": source, "reason": reason} for source, reason in sorted(reasons.items())]
    write_json(Path(folder) / UNREADABLE, rows)


def read_unreadable(folder: str | Path) -> dict[str, str]:
    """What `unreadable.json` says: why a clip could not be read or shown to the teacher, by source."""
    path = Path(folder) / UNREADABLE
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return {row["source"]: row["reason"] for row in rows}


def _row(record: TargetRecord, folder: Path) -> dict[str, Any]:
    return {
        "key": record.key,
        "file": record.path.relative_to(folder).as_posix(),
        "source": record.source,
        "num_frames": len(record.frame_indices),
        "frame_indices": list(record.frame_indices),
        "timestamps": record.timestamps,
        "height": record.frame_size[0],
        "width": record.frame_size[1],
        "num_bytes": record.num_bytes,
        "checksum": record.checksum,
        "content": record.content,
        "fingerprint": record.fingerprint,
    }


def _contents(records: list[TargetRecord]) -> dict[str, Any]:
    """Number of clips, bytes, and the sizes that occur."""
    lengths = [len(record.frame_indices) for record in records]
    depth = {tuple(told["shape"][1:]) for record in records if (told := record.facts.get("depth"))}
    grids = {tuple(s[1:]) for r in records if (told := r.facts.get("features")) for s in told["shapes"]}
    return {
        "clips": len(records),
        "bytes": sum(record.num_bytes for record in records),
        "frames": [min(lengths), max(lengths)] if lengths else [],
        "depth_sizes": sorted(map(list, depth)),
        "feature_sizes": sorted(map(list, grids)),
    }
