"""A checkpoint in a fresh process, with geovr_hf and without it."""

import json
import os

import pytest
import torch
from forked_client import Client
from safetensors.torch import load_file, save_file
from tiny import random_frames, tiny_inputs, tiny_model, tiny_processor


# Loads the checkpoint by Auto classes, reads a clip, and writes what came out.
_PROGRAM = """
import json, sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

{prelude}
folder, out = sys.argv[1:]
config = AutoConfig.from_pretrained(folder, **{trust})
model = AutoModelForImageTextToText.from_pretrained(folder, **{trust})
processor = AutoProcessor.from_pretrained(folder, **{trust})
for auto in (AutoModel, AutoModelForMultimodalLM):
    assert type(auto.from_pretrained(folder, **{trust})).__name__ == type(model).__name__
inputs = load_file(out + "/inputs.safetensors")
geometry = model.predict_geometry(**inputs)[0]
answer = model.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0)
read_again = processor(
    text=["<|video_pad|>"], videos=[torch.zeros(2, 64, 64, 3, dtype=torch.uint8)], video_timestamps=[[0.0, 1.0]],
    geometry_tokens=True, return_tensors="pt",
)["input_ids"]
save_file(
    {{"points": geometry.points, "logits": model(**inputs).logits, "answer": answer, "ids": read_again}},
    out + "/outputs.safetensors",
)
model.save_pretrained(out + "/again")
processor.save_pretrained(out + "/again")
names = [type(x).__module__.split(".")[0] for x in (config, model, processor)]
json.dump(names, open(out + "/modules.json", "w"))
"""
_WITHOUT_PACKAGE = "sys.modules['geovr_hf'] = None  # whoever imports it gets an ImportError"


def run_program(folder, out, prelude, trust, tmp_path):
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    program = _PROGRAM.format(prelude=prelude, trust=trust)
    place = None if prelude == "import geovr_hf" else tmp_path
    process = Client(program, folder, out, environment=environment, folder=place)
    return process, process.communicate()[1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "prelude, trust, origin",
    [
        ("import geovr_hf", {}, "geovr_hf"),
        (_WITHOUT_PACKAGE, {"trust_remote_code": True}, "transformers_modules"),
    ],
    ids=["package", "remote code"],
)
def test_a_fresh_process_gets_the_same_model(checkpoint, tmp_path, prelude, trust, origin):
    inputs = tiny_inputs([[random_frames(2)]])
    save_file(inputs, tmp_path / "inputs.safetensors")
    process, complaints = run_program(checkpoint, tmp_path, prelude, trust, tmp_path)
    assert process.returncode == 0, complaints
    assert json.loads((tmp_path / "modules.json").read_text()) == [origin] * 3

    outputs = load_file(tmp_path / "outputs.safetensors")
    model = tiny_model()
    with torch.no_grad():
        assert torch.equal(outputs["logits"], model(**inputs).logits)
    # Another process has other addresses: a convolution's last bit may differ on the CPU.
    torch.testing.assert_close(outputs["points"], model.predict_geometry(**inputs)[0].points, rtol=1e-6, atol=1e-6)
    answer = model.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(outputs["answer"], answer)
    assert (outputs["ids"] == tiny_processor().geometry_token_ids[2]).sum() == 1

    # What was loaded can be saved and travels on, weights and code.
    again, first = load_file(tmp_path / "again" / "model.safetensors"), load_file(checkpoint / "model.safetensors")
    assert again.keys() == first.keys() and all(torch.equal(again[name], first[name]) for name in first)
    code = sorted(path.name for path in checkpoint.glob("*.py"))
    assert code == sorted(path.name for path in (tmp_path / "again").glob("*.py")) and "modeling_geovr.py" in code


def test_without_package_and_without_trust_it_is_refused(checkpoint, tmp_path):
    save_file(tiny_inputs([[random_frames(2)]]), tmp_path / "inputs.safetensors")
    process, complaints = run_program(checkpoint, tmp_path, _WITHOUT_PACKAGE, {"trust_remote_code": False}, tmp_path)
    assert process.returncode != 0 and "trust_remote_code" in complaints


def test_no_teacher_is_ever_in_a_checkpoint(checkpoint):
    prefixes = {name.split(".")[0] for name in load_file(checkpoint / "model.safetensors")}
    assert prefixes == {"model", "camera_head", "depth_head", "scale_head", "alignment_heads"}
