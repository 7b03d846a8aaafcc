import json
import logging

import pytest
import torch
from peft import AutoPeftModel, LoraConfig, PeftModel, get_peft_model
from training_support import row, targets, tiny_model, tiny_processor, trainer, uneven_rows, video
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from geovr_hf import GeoVRConfig, GeoVRDataCollator, GeoVRForConditionalGeneration
from geovr_hf.trainers import geovr_lora_config, load_peft_model


def adapter(model, **kwargs):
    return geovr_lora_config(model, **{"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, **kwargs})


@pytest.fixture
def clips():
    return GeoVRDataCollator(tiny_processor())([row("4", video(2, seed=7)), row("B", video(1, seed=8))])


@torch.no_grad()
def outputs(model, batch):
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "geometry_targets")}
    found = model.eval()(**inputs, output_geometry=True)
    return {"logits": found.logits, "scale": found.metric_scale, "poses": torch.cat(found.pose_enc)} | {
        f"depth {i}": depth for i, depth in enumerate(found.depth)
    }


def assert_close(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def train(folder, model=None, lora=None, **kwargs):
    model = tiny_model() if model is None else model
    trained = trainer(folder, model, peft_config=adapter(model, **(lora or {})), max_steps=3, **kwargs)
    trained.train()
    return trained


@pytest.fixture
def base(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def plain_base(tmp_path):
    """A Qwen3-VL checkpoint: the tiny model without what GeoVR adds."""
    model = tiny_model()
    fields = model.config.to_dict()
    own = [name for name in fields if name in Qwen3VLConfig().to_dict() and name != "model_type"]
    plain = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**{name: fields[name] for name in own}))
    plain.load_state_dict({name: model.state_dict()[name] for name in plain.state_dict()})
    plain.save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def test_adapters_heads_and_geometry_tokens_are_trained_and_nothing_else(tmp_path):
    model = tiny_model()
    trained = trainer(tmp_path, model, peft_config=adapter(model), max_steps=3)
    before = {name: parameter.clone() for name, parameter in trained.model.named_parameters()}
    trained.train()
    moved = {name for name, parameter in trained.model.named_parameters() if not torch.equal(before[name], parameter)}
    assert all("lora_" in name or "modules_to_save" in name for name in moved)
    for part in ("geometry_tokens", "camera_head", "depth_head", "scale_head", "alignment_heads.1"):
        assert any(f"{part}.modules_to_save" in name for name in moved), part
    assert any("visual.merger" in name and "lora_" in name for name in moved)
    assert any("language_model" in name and "lora_" in name for name in moved)
    assert not any("visual.blocks" in name or "deepstack_merger_list" in name for name in moved)


def test_heads_in_an_adapter_have_the_geometry_learning_rate(tmp_path):
    model = tiny_model()
    made = trainer(tmp_path, model, peft_config=adapter(model))
    rates = {id(p): group["lr"] for group in made.create_optimizer().param_groups for p in group["params"]}
    for name, parameter in made.model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == (2e-3 if "modules_to_save" in name else 1e-3), name


def test_an_adapter_loads_onto_its_base_by_every_documented_way(tmp_path, base, clips):
    trained = train(tmp_path / "run", GeoVRForConditionalGeneration.from_pretrained(base))
    folder = str(tmp_path / "adapter")
    trained.save_model(folder)
    expected = outputs(trained.model, clips)
    fresh = GeoVRForConditionalGeneration.from_pretrained(base)
    assert not torch.equal(outputs(fresh, clips)["logits"], expected["logits"])
    ways = {
        "load_peft_model": load_peft_model(folder),
        "PeftModel": PeftModel.from_pretrained(fresh, folder),
        "AutoPeftModel": AutoPeftModel.from_pretrained(folder, import_allowlist=["geovr_hf"]),
        "AutoModelForImageTextToText": AutoModelForImageTextToText.from_pretrained(folder),
        "GeoVRForConditionalGeneration": GeoVRForConditionalGeneration.from_pretrained(folder),
    }
    for way, model in ways.items():
        found = outputs(model, clips)
        for name, value in expected.items():
            assert (found[name] - value).abs().max() <= 1e-5, (way, name)
    assert type(AutoProcessor.from_pretrained(folder)) is type(tiny_processor())


@pytest.mark.parametrize("variant", [{}, {"use_dora": True}, {"use_rslora": True}], ids=["lora", "dora", "rslora"])
def test_on_a_plain_base_adapter_reloaded_and_merged_say_the_same(variant, tmp_path, plain_base, clips):
    # Heads of another structure than the default's, which the base knows nothing of.
    config = tiny_model(objectives=["depth", "scale", "camera"]).config
    model = GeoVRForConditionalGeneration.from_pretrained(plain_base, config=config)
    trained = train(tmp_path / "run", model, variant)
    trained.save_model(str(tmp_path / "adapter"))
    expected = outputs(trained.model, clips)
    loaded = load_peft_model(tmp_path / "adapter")
    assert loaded.config.objectives == ["depth", "scale", "camera"]
    assert_close(outputs(loaded, clips), expected, rtol=1e-6, atol=1e-6)
    merged = loaded.merge_and_unload()
    assert_close(outputs(merged, clips), expected, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    weights = merged.state_dict()
    assert {*again.state_dict()} == {*weights} == {*tiny_model(objectives=["depth", "scale", "camera"]).state_dict()}
    assert all(torch.equal(value, weights[name]) for name, value in again.state_dict().items())
    # The same weights at other addresses: a convolution's last bit may differ on the CPU.
    assert_close(outputs(again, clips), outputs(merged, clips), rtol=1e-6, atol=1e-6)


def test_on_a_plain_base_auto_classes_fail_or_give_the_backbone_and_report_the_heads(
    tmp_path, plain_base, caplog, monkeypatch
):
    config = tiny_model().config
    trained = train(tmp_path / "run", GeoVRForConditionalGeneration.from_pretrained(plain_base, config=config))
    folder = str(tmp_path / "adapter")
    trained.save_model(folder)
    # PEFT knows only the base, and so not the structure of the heads.
    with pytest.raises(RuntimeError, match="size mismatch.*camera_head"):
        AutoPeftModel.from_pretrained(folder, import_allowlist=["geovr_hf"])
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("transformers.modeling_utils"), "filters", [])  # conftest's
    with caplog.at_level(logging.WARNING, logger="transformers"):  # lmms-eval silences it on import
        backbone = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(backbone) is Qwen3VLForConditionalGeneration
    assert "camera_head" in caplog.text and "UNEXPECTED" in caplog.text
    # What it answers is what the whole model answers: language needs no head.
    batch = GeoVRDataCollator(tiny_processor(), geometry_tokens=False)([row("4", video(2, seed=7))])
    del batch["labels"]
    with torch.no_grad():
        assert torch.equal(backbone.eval()(**batch).logits, trained.model.eval()(**batch).logits)


def test_an_adapter_in_bfloat16_is_loaded_and_merged_in_bfloat16(tmp_path, base, clips):
    trained = train(tmp_path / "run", GeoVRForConditionalGeneration.from_pretrained(base))
    trained.save_model(str(tmp_path / "adapter"))
    loaded = load_peft_model(tmp_path / "adapter", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    expected = outputs(trained.model, clips)
    assert_close(outputs(loaded.merge_and_unload(), clips), expected, rtol=0.1, atol=0.1, check_dtype=False)


def test_training_an_adapter_goes_on_where_it_stopped(tmp_path, base, clips):
    run = {"rows": [row("4", video(2), clip_targets=targets(2))] * 2}
    first = train(tmp_path / "first", GeoVRForConditionalGeneration.from_pretrained(base), **run)
    first.save_model(str(tmp_path / "adapter"))
    model = load_peft_model(tmp_path / "adapter", is_trainable=True)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == {name for name, parameter in first.model.named_parameters() if parameter.requires_grad}
    second = trainer(tmp_path / "second", model, max_steps=3, **run)
    assert_close(outputs(second.model, clips), outputs(first.model, clips), rtol=1e-6, atol=1e-6)
    second.train()
    losses = [[log["loss"] for log in run.state.log_history if "loss" in log] for run in (first, second)]
    assert max(losses[1]) < min(losses[0])


def test_adapters_that_were_loaded_otherwise_than_for_training_are_refused(tmp_path, base):
    trained = train(tmp_path / "run", GeoVRForConditionalGeneration.from_pretrained(base))
    trained.save_model(str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match="is_trainable=True"):
        trainer(tmp_path, load_peft_model(tmp_path / "adapter"))
    with pytest.raises(ValueError, match="transformers put in"):
        trainer(tmp_path, AutoModelForImageTextToText.from_pretrained(tmp_path / "adapter"))


def test_an_adapter_without_its_heads_structure_or_without_heads_is_refused(tmp_path, plain_base):
    config = tiny_model().config
    trained = train(tmp_path / "run", GeoVRForConditionalGeneration.from_pretrained(plain_base, config=config))
    folder = tmp_path / "adapter"
    trained.save_model(str(folder))
    written = json.loads((folder / "geovr_config.json").read_text())
    assert GeoVRConfig(**written).teacher_alignment_layers == [1, 3]
    (folder / "geovr_config.json").write_text(json.dumps({**written, "objectives": ["camera"]}))
    with pytest.raises(ValueError, match="have no place in its base"):
        load_peft_model(folder)
    (folder / "geovr_config.json").write_text(json.dumps(written))
    adapter_config = json.loads((folder / "adapter_config.json").read_text())
    adapter_config["modules_to_save"].remove("scale_head")
    (folder / "adapter_config.json").write_text(json.dumps(adapter_config))
    with pytest.raises(ValueError, match=r"\['scale_head'\] would stay random"):
        load_peft_model(folder)


def test_training_with_adapters_learns_evaluates_and_recomputes_activations(tmp_path):
    trained = train(tmp_path, eval_dataset=uneven_rows(), activation_checkpointing=True)
    log = [log for log in trained.state.log_history if "loss" in log]
    assert log[-1]["loss"] < log[0]["loss"] and log[-1]["grad_norm"] > 0
    metrics = trained.evaluate()
    assert "eval_depth_abs_rel" in metrics and "eval_answer_accuracy" in metrics


def test_a_resumed_adapter_run_is_the_uninterrupted_one(tmp_path):
    run = {"save_strategy": "steps", "save_steps": 1, "rows": [row("4", video(2), clip_targets=targets(2))] * 2}
    straight = train(tmp_path / "straight", **run)
    model = tiny_model()
    resumed = trainer(tmp_path / "resumed", model, peft_config=adapter(model), max_steps=3, **run)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-1"))
    for name, parameter in straight.model.named_parameters():
        assert torch.equal(parameter, resumed.model.get_parameter(name)), name


def test_heads_that_would_stay_random_are_refused_by_name(tmp_path):
    config = LoraConfig(r=4, target_modules=r".*language_model.*q_proj", modules_to_save=["camera_head"])
    with pytest.raises(ValueError, match=r"neither train nor save .*geometry_tokens.*depth_head.*alignment_heads\.0"):
        trainer(tmp_path, peft_config=config)
    with pytest.raises(ValueError, match="neither train nor save"):
        trainer(tmp_path, get_peft_model(tiny_model(), config))


def test_adapters_in_a_frozen_part_are_refused(tmp_path):
    model = tiny_model()
    with pytest.raises(ValueError, match=r"visual\.merger.*`freeze_merger=True` freezes"):
        trainer(tmp_path, model, peft_config=adapter(model), freeze_merger=True)
    model = tiny_model()
    trainer(tmp_path, model, peft_config=adapter(model, train_merger=False), freeze_merger=True)


def test_a_model_that_has_adapters_takes_no_further_ones(tmp_path):
    model = tiny_model()
    config = adapter(model)
    wrapped = get_peft_model(model, config)
    trainer(tmp_path, wrapped)
    with pytest.raises(ValueError, match="has adapters already"):
        trainer(tmp_path, wrapped, peft_config=config)


def test_a_model_with_fewer_objectives_needs_fewer_modules():
    config = adapter(tiny_model(objectives=["camera"]))
    assert set(config.modules_to_save) == {"model.geometry_tokens", "camera_head"}
