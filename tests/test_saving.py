"""A model that is saved is there whole or not at all."""

import os
from pathlib import Path

import pytest
import torch
from training_support import trainer

from geovr_hf import GeoVRForConditionalGeneration
from geovr_hf.trainers import geovr_lora_config
from geovr_hf.trainers.checkpoints import UNFINISHED


class BrokenOff(Exception):
    pass


def change(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)


def weights(folder):
    return GeoVRForConditionalGeneration.from_pretrained(folder).state_dict()


def test_a_save_that_breaks_off_leaves_the_model_before(tmp_path, monkeypatch):
    run, folder = trainer(tmp_path / "run"), tmp_path / "model"
    run.save_model(str(folder))
    names, before = {path.name for path in folder.iterdir()}, weights(folder)
    change(run.model)

    def save_half(path, **kwargs):
        run.model.config.save_pretrained(path)
        (Path(path) / "model.safetensors").write_bytes(b"half")
        raise BrokenOff

    with monkeypatch.context() as patch, pytest.raises(BrokenOff):
        patch.setattr(run.model, "save_pretrained", save_half)
        run.save_model(str(folder))
    assert all(torch.equal(value, before[name]) for name, value in weights(folder).items())

    (folder / "model-00002-of-00002.safetensors").write_bytes(b"of an earlier model in two shards")
    (folder / "README.md").write_text("by hand")
    (folder / "embeddings.safetensors").write_bytes(b"the user's own")
    run.save_model(str(folder))
    assert {path.name for path in folder.iterdir()} == names | {"README.md", "embeddings.safetensors"}
    assert (folder / "README.md").read_text() == "by hand"
    after = weights(folder)
    assert all(torch.equal(value, after[name]) for name, value in run.model.state_dict().items())


@pytest.mark.parametrize("adapters", [False, True])
def test_what_is_killed_while_it_moves_is_no_model(tmp_path, monkeypatch, adapters):
    options = {"freeze_vision_tower": True}
    run = trainer(tmp_path / "run", **options)
    if adapters:
        run = trainer(tmp_path / "run", peft_config=geovr_lora_config(run.model, r=2), **options)
    folder, moved = tmp_path / "model", []
    run.save_model(str(folder))
    marker = "adapter_config.json" if adapters else "config.json"
    assert (folder / marker).exists()

    def replace_twice(source, target):
        if len(moved) == 2:
            raise BrokenOff
        moved.append(target)
        rename(source, target)

    rename = os.replace
    with monkeypatch.context() as patch, pytest.raises(BrokenOff):
        patch.setattr(os, "replace", replace_twice)
        run.save_model(str(folder))
    assert not (folder / marker).exists()
    run.save_model(str(folder))
    assert (folder / marker).exists() and not (folder / UNFINISHED).exists()
