import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from training_support import row, targets, tiny_model, tiny_processor, trainer, uneven_rows, video

from geovr_hf import GeoVRDataCollator
from geovr_hf.trainers import geovr_lora_config


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


def train(folder, model=None, **kwargs):
    model = tiny_model() if model is None else model
    trained = trainer(folder, model, peft_config=adapter(model), max_steps=3, **kwargs)
    trained.train()
    return trained


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


def test_an_adapter_loads_onto_a_fresh_base_with_the_same_answers_and_geometry(tmp_path, clips):
    tiny_model().save_pretrained(tmp_path / "base")
    base = type(tiny_model()).from_pretrained(tmp_path / "base")
    trained = train(tmp_path / "run", base)
    trained.save_model(str(tmp_path / "adapter"))
    fresh = type(base).from_pretrained(tmp_path / "base")
    assert not torch.equal(outputs(fresh, clips)["logits"], outputs(trained.model, clips)["logits"])
    loaded = PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    assert_close(outputs(loaded, clips), outputs(trained.model, clips), rtol=1e-6, atol=1e-6)


def test_a_merged_model_says_the_same_and_is_a_plain_checkpoint(tmp_path, clips):
    trained = train(tmp_path / "run")
    expected = outputs(trained.model, clips)
    merged = trained.model.merge_and_unload()
    assert_close(outputs(merged, clips), expected, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    loaded = type(tiny_model()).from_pretrained(tmp_path / "merged")
    weights = merged.state_dict()
    assert {*loaded.state_dict()} == {*tiny_model().state_dict()} == {*weights}
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())
    # The same weights at other addresses: a convolution's last bit may differ on the CPU.
    assert_close(outputs(loaded, clips), outputs(merged, clips), rtol=1e-6, atol=1e-6)


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
