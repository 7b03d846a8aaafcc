"""QLoRA: 4-bit weights under adapters train, save, reload and merge."""

import pytest
import torch
from training_support import row, tiny_model, tiny_processor, trainer, uneven_rows, video

from geovr_hf import GeoVRDataCollator, GeoVRForConditionalGeneration
from geovr_hf.trainers import geovr_4bit_config, geovr_lora_config, load_peft_model
from geovr_hf.trainers.parameter_groups import is_geometry_parameter


pytest.importorskip("bitsandbytes")


@pytest.fixture(
    params=[
        ("cpu", torch.float32),
        ("cpu", torch.bfloat16),
        pytest.param(("cuda", torch.bfloat16), marks=pytest.mark.gpu),
    ],
    ids=str,
)
def setting(request):
    """Device and dtype."""
    # oneDNN's bfloat16 gradients of strided convolutions are not finite on some CPUs (PyTorch 2.14).
    with torch.backends.mkldnn.flags(enabled=request.param[0] != "cpu"):
        yield request.param


@pytest.fixture
def device(setting):
    return setting[0]


@pytest.fixture
def dtype(setting):
    return setting[1]


@pytest.fixture
def base(tmp_path, dtype):
    tiny_model(dtype=dtype).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def four_bits(device, dtype):
    quantization = geovr_4bit_config(bnb_4bit_compute_dtype=dtype)
    return {"dtype": dtype, "quantization_config": quantization, "device_map": {"": device}}


@torch.no_grad()
def outputs(model):
    batch = GeoVRDataCollator(tiny_processor())([row("4", video(2, seed=7))])
    inputs = {name: value.to(model.device) for name, value in batch.items() if isinstance(value, torch.Tensor)}
    del inputs["labels"]
    found = model.eval()(**inputs, output_geometry=True)
    return {"logits": found.logits.float(), "poses": found.pose_enc[0].float(), "depth": found.depth[0].float()}


def distance(one, other):
    """The largest relative error of logits, poses and depth."""
    return max(((one[name] - other[name]).norm() / other[name].norm()).item() for name in other)


def train(folder, model, device, **kwargs):
    trained = trainer(
        folder,
        model,
        peft_config=geovr_lora_config(model, r=4, lora_alpha=8, lora_dropout=0.0),
        use_cpu=device == "cpu",
        activation_checkpointing=True,
        **kwargs,
    )
    trained.train()
    return trained


def test_four_bits_are_those_of_the_language_model_alone(base, four_bits):
    model = GeoVRForConditionalGeneration.from_pretrained(base, **four_bits)
    quantized = {name for name, parameter in model.named_parameters() if not parameter.is_floating_point()}
    linear = {f"{n}.weight" for n, _ in model.named_modules() if "language_model.layers" in n and n.endswith("_proj")}
    assert quantized == linear


def test_qlora_learns_with_heads_in_float32_and_leaves_the_base_alone(base, four_bits, device, tmp_path):
    model = GeoVRForConditionalGeneration.from_pretrained(base, **four_bits)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trained = train(tmp_path, model, device, max_steps=8, rows=uneven_rows()[:2] * 8)
    losses = [log["loss"] for log in trained.state.log_history if "loss" in log]
    assert losses[-1] < losses[0]
    for name, parameter in trained.model.named_parameters():
        is_new = "lora_" in name or "modules_to_save" in name
        assert parameter.requires_grad == is_new, name
        assert not is_new or parameter.dtype == torch.float32, name
    for name, parameter in trained.model.get_base_model().named_parameters():
        if "lora_" not in name and "modules_to_save" not in name:
            plain = name.replace(".base_layer", "").replace(".original_module", "")
            assert torch.equal(parameter, before[plain]), name
    saved = {name: p for name, p in trained.model.named_parameters() if "modules_to_save" in name}
    moved = [name for name, p in saved.items() if not torch.equal(p.cpu(), before[original(name)].float().cpu())]
    assert all(is_geometry_parameter(name) for name in saved) and len(moved) > len(saved) // 2


def original(name):
    return name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")


def test_a_qlora_adapter_reloads_on_four_bits_and_merges_on_full_precision(base, four_bits, device, dtype, tmp_path):
    trained = train(tmp_path / "run", GeoVRForConditionalGeneration.from_pretrained(base, **four_bits), device)
    trained.save_model(str(tmp_path / "adapter"))
    rounding = 1e-5 if dtype == torch.float32 else 0.03
    expected = outputs(trained.model)
    assert distance(outputs(load_peft_model(tmp_path / "adapter", **four_bits)), expected) < rounding
    adapted = load_peft_model(tmp_path / "adapter", dtype=dtype).to(device)
    unmerged = outputs(adapted)
    # As far from the model that was trained as four bits are from the base.
    assert 0.01 < distance(unmerged, expected) < 1
    merged = adapted.merge_and_unload()
    assert distance(outputs(merged), unmerged) < rounding
    merged.save_pretrained(tmp_path / "merged")
    reloaded = GeoVRForConditionalGeneration.from_pretrained(tmp_path / "merged", dtype=dtype).to(device)
    assert not hasattr(reloaded.config, "quantization_config")
    assert distance(outputs(reloaded), outputs(merged)) < 1e-5


def test_training_a_qlora_adapter_goes_on(base, four_bits, device, tmp_path):
    model = GeoVRForConditionalGeneration.from_pretrained(base, **four_bits)
    trained = train(tmp_path / "run", model, device)
    trained.save_model(str(tmp_path / "adapter"))
    model = load_peft_model(tmp_path / "adapter", is_trainable=True, **four_bits)
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    more = trainer(tmp_path / "more", model, use_cpu=device == "cpu")
    more.train()
    assert distance(outputs(more.model), outputs(trained.model)) > 1e-4


def test_a_base_that_is_stored_in_four_bits_is_loaded_as_it_is(base, four_bits, device, tmp_path):
    model = GeoVRForConditionalGeneration.from_pretrained(base, **four_bits)
    model.save_pretrained(tmp_path / "stored")
    stored = GeoVRForConditionalGeneration.from_pretrained(tmp_path / "stored", device_map={"": device})
    trained = train(tmp_path / "run", stored, device)
    trained.save_model(str(tmp_path / "adapter"))
    loaded = load_peft_model(tmp_path / "adapter", device_map={"": device})
    assert distance(outputs(loaded), outputs(trained.model)) < 0.03
