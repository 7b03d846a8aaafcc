"""Two processes with each launch configuration train what one process trains, and save what everybody can load."""

import importlib.util
import json

import pytest
import yaml
from multi_process import launch
from sharded_run import CASES, compare, rows, run, run_command, write_start
from training_support import tiny_model, tiny_processor, uneven_rows

from geovr_hf import GeoVRDataCollator
from geovr_hf.launch_configs import LAUNCH_CONFIGS, launch_config
from geovr_hf.modeling import backbone_geovr
from geovr_hf.modeling.depth_head_geovr import DepthHead
from geovr_hf.trainers.packed_training import prepare_attention
from geovr_hf.trainers.sharding import GATHERED_ONE_BY_ONE


has_deepspeed = importlib.util.find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(not has_deepspeed, reason="needs DeepSpeed: pip install geovr_hf[deepspeed]")
# "half": on some CPUs, bfloat16 convolutions of tiny maps have gradients that are not finite.
ON_CPU = [case for case in CASES if case != "half"]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """Where all runs start from, and what one process makes of it."""
    start, folder = write_start(tmp_path_factory.mktemp("start")), tmp_path_factory.mktemp("one_process")
    results = {case: run(case, folder / case, start) for case in ON_CPU}
    results["command"] = run_command(folder / "command", start)
    (folder / "results.json").write_text(json.dumps(results))
    return start, folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "cases", "others"),
    [
        ("ddp", ["packed", "padded", "adapters"], []),
        ("fsdp2", ON_CPU, ["resumed", "prefetched", "command"]),
        pytest.param("zero2", ON_CPU, ["resumed", "command"], marks=needs_deepspeed),
        pytest.param("zero3", ON_CPU, ["resumed", "command"], marks=needs_deepspeed),
    ],
    ids=LAUNCH_CONFIGS,
)
def test_two_processes_train_what_one_does(config, cases, others, tmp_path, one_process):
    start, alone = one_process
    launch(config, tmp_path, "sharded_run.py", tmp_path, start, *cases, *others)
    compare(alone, tmp_path, start, cases)
    if "prefetched" in others:
        assert_only_trained_layers_are_gathered_ahead(tmp_path)


def assert_only_trained_layers_are_gathered_ahead(folder):
    found = json.loads((folder / "results.json").read_text())["prefetched"]
    vision = {f"model.visual.blocks.{number}" for number in range(3)}
    assert "model.language_model.layers.1" in found["packed"] and vision.isdisjoint(found["packed"])
    assert vision <= set(found["vision"])


@pytest.mark.parametrize("packed", [True, False])
def test_every_batch_calls_the_same_modules_in_the_same_order(packed, monkeypatch):
    """What FSDP, ZeRO-3 (gathering) and ZeRO-2 (the order of gradients) rely on."""
    monkeypatch.setattr(backbone_geovr, "several_processes", lambda: True)
    model, collator = tiny_model().train(), GeoVRDataCollator(tiny_processor())
    if packed:
        prepare_attention(model)
        collator = collator.for_packing()
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
    one, two, few, text, *shared = rows(shared=True)
    filler = {**one, "filler": True}
    for batch in ([one], [text], [two], [few], [one, text, two, few], [text, text], shared, [filler]):
        calls.clear()
        gradients.clear()
        model(**{name: value for name, value in collator(batch).items() if name != "id"}).loss.backward()
        assert sorted(gradients) == sorted(name for name, _ in model.named_parameters())
        expected = expected or (list(calls), list(gradients))
        assert (calls, gradients) == expected


@pytest.mark.parametrize("packed", [True, False])
def test_one_process_calls_nothing_in_vain(packed):
    model, collator = tiny_model().train(), GeoVRDataCollator(tiny_processor())
    if packed:
        prepare_attention(model)
        collator = collator.for_packing()
    called = set()
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
    text = next(row for row in uneven_rows() if row["id"] == "text")
    batch = {name: value for name, value in collator([text]).items() if name != "id"}
    model(**batch).loss.backward()
    assert "lm_head" in called
    assert not [name for name in called if "visual" in name or "_head" in name.removeprefix("lm_head")]
    # What stays out has a gradient of zero all the same, as if another row of the batch had called it.
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not model.model.visual.merger.linear_fc2.weight.grad.any()


@pytest.mark.parametrize("name", LAUNCH_CONFIGS)
def test_launch_configurations_wrap_the_models_own_layers(name):
    config = yaml.safe_load(launch_config(name).read_text())
    assert config["mixed_precision"] == "no"  # the training arguments choose
    if name == "fsdp2":
        wrapped = config["fsdp_config"]["fsdp_transformer_layer_cls_to_wrap"].split(",")
        assert wrapped == GATHERED_ONE_BY_ONE
        assert set(wrapped) < {type(module).__name__ for module in tiny_model().modules()}


def test_an_unknown_launch_configuration_is_named():
    with pytest.raises(ValueError, match="'fsdp1'.*ddp, fsdp2, zero2, zero3"):
        launch_config("fsdp1")
