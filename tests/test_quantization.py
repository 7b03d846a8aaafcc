"""int8 weights for answering. 4 bits need a GPU: tests/test_gpu_peft.py."""

import pytest
import torch
from training_support import row, tiny_model, tiny_processor, trainer, video

from geovr_hf import GeoVRDataCollator, GeoVRForConditionalGeneration
from geovr_hf.commands.checkpoints import load_checkpoint
from geovr_hf.trainers import geovr_int8_config, geovr_lora_config
from geovr_hf.trainers.parameter_groups import is_geometry_parameter


pytest.importorskip("torchao")
from torchao.quantization import Int8Tensor, Int8WeightOnlyConfig  # noqa: E402
from transformers import TorchAoConfig  # noqa: E402


@pytest.fixture
def base(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    tiny_processor().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@torch.no_grad()
def outputs(model):
    batch = GeoVRDataCollator(tiny_processor())([row("4", video(2, seed=7))])
    del batch["labels"], batch["geometry_targets"]
    found = model.eval()(**batch, output_geometry=True)
    return torch.cat([found.logits.flatten(), found.depth[0].flatten(), found.pose_enc[0].flatten()])


def test_int8_weights_are_those_of_the_language_model_alone_and_answer_nearly_the_same(base):
    exact = GeoVRForConditionalGeneration.from_pretrained(base)
    quantized = GeoVRForConditionalGeneration.from_pretrained(base, quantization_config=geovr_int8_config())
    for name, parameter in quantized.named_parameters():
        is_linear = "language_model.layers" in name and name.endswith("_proj.weight")
        assert isinstance(parameter, Int8Tensor) == is_linear, name
        # What rounding to 255 steps of each row's largest weight loses, and not more.
        weight = exact.get_parameter(name)
        if is_linear:
            step = weight.abs().amax(1, keepdim=True) / 127
            assert ((parameter.dequantize() - weight).abs() <= 0.51 * step).all(), name
    error = (outputs(quantized) - outputs(exact)).norm() / outputs(exact).norm()
    assert 0 < error < 0.2


def test_an_int8_checkpoint_is_smaller_and_reloads_exactly(base, tmp_path):
    quantized = GeoVRForConditionalGeneration.from_pretrained(base, quantization_config=geovr_int8_config())
    quantized.save_pretrained(tmp_path / "int8")
    reloaded = GeoVRForConditionalGeneration.from_pretrained(tmp_path / "int8")
    for name, parameter in quantized.named_parameters():
        loaded = reloaded.get_parameter(name)
        assert type(loaded.data) is type(parameter.data), name
        whole = [p.dequantize() if isinstance(p.data, Int8Tensor) else p for p in (loaded, parameter)]
        assert torch.equal(*whole), name
    # The same weights at other addresses: a convolution's last bit may differ on the CPU.
    torch.testing.assert_close(outputs(reloaded), outputs(quantized), rtol=1e-6, atol=1e-6)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path / "int8", base)]
    layers = tiny_model().model.language_model.layers
    num_weights = sum(weight.numel() for name, weight in layers.named_parameters() if "_proj" in name)
    # Three of four bytes are saved, and a scale per row and the tensors' names are added.
    assert sizes[0] < sizes[1] - 2 * num_weights


def test_the_command_line_answers_with_int8_weights_and_refuses_adapters(base, tmp_path):
    model = load_checkpoint(str(base), device="cpu", int8=True).model
    assert any(isinstance(parameter, Int8Tensor) for parameter in model.parameters())
    model = GeoVRForConditionalGeneration.from_pretrained(base)
    trainer(tmp_path, model, peft_config=geovr_lora_config(model, r=2)).save_model(str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match="is an adapter. Merge it first"):
        load_checkpoint(str(tmp_path / "adapter"), device="cpu", int8=True)


def test_quantized_heads_are_refused_by_name(base, tmp_path):
    everything = TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=["lm_head"])
    model = GeoVRForConditionalGeneration.from_pretrained(base, quantization_config=everything)
    assert any(isinstance(p, Int8Tensor) for n, p in model.named_parameters() if is_geometry_parameter(n))
    with pytest.raises(ValueError, match="head.* are quantized"):
        trainer(tmp_path, model, peft_config=geovr_lora_config(model, r=2))
