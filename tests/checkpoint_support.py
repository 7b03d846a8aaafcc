"""Checkpoints on disk, for tests of what becomes of them."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import tiny_model, tiny_processor


def save_checkpoint(folder: Path, model=None, **options) -> Path:
    """A tiny model and its processor in a folder; options are of `save_pretrained`."""
    (tiny_model() if model is None else model).save_pretrained(folder, **options)
    tiny_processor().save_pretrained(folder)
    return folder


def weight_files(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Every weight file of a folder, and the tensors in it."""
    files = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            files[path.name] = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    return files


def all_weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for tensors in weight_files(folder).values() for name, tensor in tensors.items()}


def change_weights(folder: Path, change) -> None:
    """Rewrite the single weight file of a folder by `change(tensors)`, which edits them in place."""
    tensors = all_weights(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
