"""Two processes with each launch configuration train what one process trains, and save what everybody can load."""

import importlib.util
import json
import re

import pytest
import torch
import yaml
from multi_process import launch
from safetensors.torch import load_file
from sharded_run import CASES, rows, run
from test_training_invariants import assert_same_update
from training_support import tiny_model, tiny_processor

from geovr_hf import GeoVRDataCollator, GeoVRForConditionalGeneration
from geovr_hf.launch_configs import LAUNCH_CONFIGS, launch_config
from geovr_hf.modeling.depth_head_geovr import DepthHead
from geovr_hf.trainers.packed_training import prepare_attention
from geovr_hf.trainers.sharding import GATHERED_ONE_BY_ONE


needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed")
CONFIGS = [
    "ddp",
    "fsdp2",
    pytest.param("zero2", marks=needs_deepspeed),
    pytest.param("zero3", marks=needs_deepspeed),
]
ON_CPU = [case for case in CASES if case != "half"]


@pytest.fixture(scope="session")
def one_process(tmp_path_factory):
    """The start of all runs, and what one process makes of it: a function of the case."""
    folder = tmp_path_factory.mktemp("one_process")
    start = folder / "start"
    tiny_model().save_pretrained(start)
    results = {}

    def result_of(case):
        if case not in results:
            results[case] = run(case, folder / case, start, 1, evaluate=case == "packed")
        return folder / case, results[case]

    return start, result_of


def compare(folder, cases, one_process, relative=1e-5):
    """Hold what two processes left in a folder against one process."""
    start, result_of = one_process
    initial = dict(tiny_model().named_parameters())
    results = json.loads((folder / "results.json").read_text())
    for case in cases:
        alone_in, alone = result_of(case)
        for mine, whole in zip(results[case]["losses"], alone["losses"], strict=True):
            assert mine == pytest.approx(whole, rel=relative), case
        found = results[case]["metrics"]
        assert found.pop("answers", None) == alone["metrics"].get("answers")
        assert found == pytest.approx({name: v for name, v in alone["metrics"].items() if name != "answers"}, rel=1e-4)
        if CASES[case].get("lora"):
            adapters = [load_file(where / "adapter_model.safetensors") for where in (alone_in, folder / case)]
            assert adapters[0].keys() == adapters[1].keys()
            for name, value in adapters[0].items():
                torch.testing.assert_close(adapters[1][name], value, rtol=1e-3, atol=2e-6, msg=name)
            continue
        assert {path.name for path in (folder / case).iterdir()} == {path.name for path in alone_in.iterdir()}
        both = [
            dict(GeoVRForConditionalGeneration.from_pretrained(where, dtype=torch.float32).named_parameters())
            for where in (alone_in, folder / case)
        ]
        assert_same_update(initial, *both)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_two_processes_train_what_one_does(config, tmp_path, one_process):
    cases = ON_CPU if config != "ddp" else ["padded", "adapters"]  # packed: test_training_invariants
    resumed = ["resumed"] if config == "fsdp2" else []
    launch(config, tmp_path, "sharded_run.py", tmp_path, one_process[0], *cases, *resumed)
    compare(tmp_path, cases, one_process)
    if resumed:
        result = json.loads((tmp_path / "results.json").read_text())["resumed"]
        assert result["resumed"] == result["straight"]


@pytest.mark.parametrize("packed", [True, False])
def test_every_batch_calls_the_same_modules_in_the_same_order(packed):
    """What FSDP, ZeRO-3 (gathering) and ZeRO-2 (the order of gradients) rely on."""
    model, collator = tiny_model().train(), GeoVRDataCollator(tiny_processor())
    if packed:
        prepare_attention(model)
        collator = collator.for_packing(torch.float32)
    calls: list[str] = []
    inside_a_leaf = [f"{name}." for name, module in model.named_modules() if isinstance(module, DepthHead)]
    for name, module in model.named_modules():
        if not name.startswith(tuple(inside_a_leaf)):
            module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
            module.register_full_backward_hook(lambda *_, name=name: calls.append(f"backward {name}"))
    gradients: list[str] = []
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: gradients.append(name))

    expected = None
    one, two, few, text, *shared = rows()
    filler = {**one, "filler": True}
    for batch in ([one], [text], [two], [few], [one, text, two, few], [text, text], shared, [filler]):
        calls.clear()
        gradients.clear()
        model(**{name: value for name, value in collator(batch).items() if name != "id"}).loss.backward()
        assert sorted(gradients) == sorted(name for name, _ in model.named_parameters())
        expected = expected or (list(calls), list(gradients))
        assert (calls, gradients) == expected


@pytest.mark.parametrize("name", LAUNCH_CONFIGS)
def test_launch_configurations_wrap_the_models_own_layers(name):
    text = launch_config(name).read_text()
    config = yaml.safe_load(text)
    assert config["mixed_precision"] == "bf16"
    wrapped = re.split(",", config.get("fsdp_config", {}).get("fsdp_transformer_layer_cls_to_wrap", ""))
    if wrapped != [""]:
        assert wrapped == GATHERED_ONE_BY_ONE
        assert set(wrapped) < {type(module).__name__ for module in tiny_model().modules()}


def test_an_unknown_launch_configuration_is_named():
    with pytest.raises(ValueError, match="'fsdp1'.*ddp, fsdp2, zero2, zero3"):
        launch_config("fsdp1")
