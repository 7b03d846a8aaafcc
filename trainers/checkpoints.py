"""Checkpoint folders that are there whole or not at all, and the newest whole one of a run.

A checkpoint is written under `UNFINISHED` and gets its name, `checkpoint-N`, by a rename after all of it is on disk.
One that goes loses its name first. So a process may be killed at any moment: what is called a checkpoint is whole.
"""

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging


logger = logging.get_logger(__name__)

# The underscore keeps it out of what `Trainer.push_to_hub` uploads.
UNFINISHED = "_unfinished"
# By these, `from_pretrained` of transformers and PEFT knows a folder with a model.
MODEL_NAMES = ("config.json", "adapter_config.json")
# Left by transformers' own checkpoints on SIGTERM until they are complete.
INCOMPLETE = "checkpoint-is-incomplete.txt"


def checkpoint_folders(run_folder: str | Path) -> list[Path]:
    """The checkpoints of a run, whole or not, by step.

    Args:
        run_folder (`str` or `Path`): The run's output folder. It need not exist.

    Returns:
        `list[Path]`: `checkpoint-1`, `checkpoint-2`, ….
    """
    numbered = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
    steps = {
        folder: int(match[1])
        for folder in Path(run_folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if folder.is_dir() and (match := numbered.fullmatch(folder.name))
    }
    return sorted(steps, key=steps.__getitem__)


def newest_whole_checkpoint(run_folder: str | Path) -> Path:
    """The last checkpoint of a run that can be resumed; each later one that cannot is named in a warning.

    Args:
        run_folder (`str` or `Path`): The run's output folder.

    Returns:
        `Path`: The checkpoint.

    Raises:
        ValueError: There is none. The message names the fault of each that is there.
    """
    faults = []
    for checkpoint in reversed(checkpoint_folders(run_folder)):
        fault = find_fault(checkpoint)
        if fault is None:
            for passed_over in faults:
                logger.warning(f"Passing over a checkpoint of {run_folder} that is not whole: {passed_over}.")
            return checkpoint
        faults.append(f"{checkpoint.name}: {fault}")
    found = f" ({'; '.join(faults)})" if faults else ""
    raise ValueError(f"Nothing to resume: {run_folder} holds no whole checkpoint{found}.")


def find_fault(checkpoint: str | Path) -> str | None:
    """What keeps a checkpoint from being resumed, without reading its weights.

    transformers' `Trainer` writes `trainer_state.json` last: without it, a save was broken off. What was copied or
    lost its power may be cut off anywhere.

    Args:
        checkpoint (`str` or `Path`): The folder.

    Returns:
        `str` or `None`: The fault, `None` for a whole checkpoint.
    """
    checkpoint = Path(checkpoint)
    if not checkpoint.is_dir():
        return "there is no such folder"
    if (checkpoint / INCOMPLETE).exists():
        return f"{INCOMPLETE} says so"
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"]
    except FileNotFoundError:
        return f"{TRAINER_STATE_NAME}, which is written last, is missing"
    except (ValueError, TypeError, KeyError):
        return f"{TRAINER_STATE_NAME} is damaged"
    # Of transformers and PEFT, of FSDP, of DeepSpeed.
    if not _holds(checkpoint, "**/*.safetensors", "pytorch_model*", "latest"):
        return "it has no weights"
    if _holds(checkpoint, "rng_state*") and not has_optimizer(checkpoint):
        return "its optimizer is missing"
    for index in checkpoint.glob("*.index.json"):
        try:
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        except (ValueError, TypeError, KeyError):
            return f"{index.name} is damaged"
        for shard in sorted(set(shards)):
            if not (checkpoint / shard).exists():
                return f"{shard} is missing"
    return next((fault for path in sorted(checkpoint.rglob("*")) if (fault := _fault_of_file(path))), None)


def has_optimizer(checkpoint: str | Path) -> bool:
    """Whether a checkpoint holds the state of the optimizer; with `save_only_model` it does not."""
    return _holds(Path(checkpoint), "optimizer*", "latest")


def _holds(checkpoint: Path, *patterns: str) -> bool:
    return any(next(checkpoint.glob(pattern), None) is not None for pattern in patterns)


def _fault_of_file(path: Path) -> str | None:
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt"):  # compares header and size
                return None
        except SafetensorError:
            return f"{path.name} is damaged"
    if path.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(path):  # its table is at its end
        return f"{path.name} is damaged"
    if path.suffix == ".distcp" and not (path.parent / ".metadata").exists():
        return f"{path.parent.name} has no .metadata, which is written last"
    return None


def publish(written: Path, checkpoint: Path) -> None:
    """Give a checkpoint that is written its name, once it is on disk. One of that name goes.

    Args:
        written (`Path`): Folder under `UNFINISHED` of the run folder.
        checkpoint (`Path`): What it shall be called, in the run folder.
    """
    _flush_all(written)
    replaced = _take_name(checkpoint) if checkpoint.exists() else None
    os.replace(written, checkpoint)
    _flush(checkpoint.parent)
    if replaced is not None:
        shutil.rmtree(replaced)


def place_model(written: Path, folder: Path):
    """Move a model that is written into its folder, in place of one that is there.

    What says that a folder holds a model goes first and comes last. So a process may be killed at any moment: what
    `from_pretrained` takes for a model is whole. A `README.md` that is there stays.

    Args:
        written (`Path`): Folder of the model, under `UNFINISHED` of the other.
        folder (`Path`): Where it shall be.
    """
    _flush_all(written)
    files = [path.relative_to(written) for path in written.rglob("*") if path.is_file()]
    for name in MODEL_NAMES:
        (folder / name).unlink(missing_ok=True)
    for pattern in ("model*.safetensors*", "adapter_model.safetensors"):  # shards of other numbers
        for path in folder.glob(pattern):
            path.unlink()
    _flush(folder)
    for name in sorted(files, key=lambda name: str(name) in MODEL_NAMES):
        if str(name) == "README.md" and (folder / name).exists():
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if str(name) in MODEL_NAMES:
            _flush(folder)
        os.replace(written / name, folder / name)
    _flush(folder)
    shutil.rmtree(written)
    if not any(written.parent.iterdir()):
        written.parent.rmdir()


def rotate(run_folder: Path, limit: int | None, keep: set[Path]) -> None:
    """Remove the oldest whole checkpoints above a number. Others do not count, and stay.

    Args:
        run_folder (`Path`): The run's output folder.
        limit (`int`, *optional*): How many may stay.
        keep (`set[Path]`): Checkpoints that stay in any case.
    """
    if limit is None or limit <= 0:
        return
    # By age: a run resumed from an early checkpoint has later ones of its former life.
    whole = [checkpoint for checkpoint in checkpoint_folders(run_folder) if find_fault(checkpoint) is None]
    whole.sort(key=lambda checkpoint: (checkpoint / TRAINER_STATE_NAME).stat().st_mtime)
    surplus = len(whole) - max(limit, len(keep))
    for checkpoint in [checkpoint for checkpoint in whole if checkpoint not in keep][: max(0, surplus)]:
        shutil.rmtree(_take_name(checkpoint))


def remove_unfinished(run_folder: Path) -> None:
    """Remove what a killed process was writing or removing."""
    shutil.rmtree(run_folder / UNFINISHED, ignore_errors=True)


def _take_name(checkpoint: Path) -> Path:
    """Move a checkpoint to where it counts no longer: removing takes time, and half of one is none."""
    nameless = checkpoint.parent / UNFINISHED / f"removed-{checkpoint.name}"
    nameless.parent.mkdir(exist_ok=True)
    shutil.rmtree(nameless, ignore_errors=True)
    os.replace(checkpoint, nameless)
    return nameless


def _flush_all(written: Path) -> None:
    """Wait until a folder with all that it holds is on disk."""
    for folder, _, files in os.walk(written):
        for file in files:
            _flush(os.path.join(folder, file))
        _flush(folder)


def _flush(path: str | Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    if os.name == "nt" and os.path.isdir(path):  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
