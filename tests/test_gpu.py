"""On a CUDA device: precision, attention kernels, placement over devices, a training run."""

import pytest
import torch
from tiny import random_frames, random_targets, tiny_inputs, tiny_model, tiny_processor
from transformers import Qwen3VLForConditionalGeneration
from transformers.utils import is_flash_attn_2_available

from geovr_hf import GeoVRDataCollator, GeoVRForConditionalGeneration, GeoVRTrainer, GeoVRTrainingArguments


pytestmark = pytest.mark.gpu
CLIPS = [[random_frames(3, seed=1)], [random_frames(2, 64, 64, seed=2), random_frames(1, 32, 96, seed=3)], []]
ANSWERS = ["4<|im_end|>\n", "the table is near the lamp<|im_end|>\n", "left<|im_end|>\n"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model().save_pretrained(folder)
    return folder


def batch(device="cuda", **arguments) -> dict:
    return {name: value.to(device) for name, value in tiny_inputs(CLIPS, **arguments).items()}


def targets(device="cuda") -> list:
    flat = [clip for row in CLIPS for clip in row]
    return [random_targets(len(c), *c.shape[1:3], seed=i).to(device) for i, c in enumerate(flat)]


def outputs_of(model, device="cuda"):
    with torch.no_grad():
        return model(
            **batch(device, answers=ANSWERS), geometry_targets=targets(device), output_geometry=True, logits_to_keep=0
        )


def test_the_gpu_agrees_with_the_cpu(checkpoint):
    model = GeoVRForConditionalGeneration.from_pretrained(checkpoint)
    on_cpu = outputs_of(model, "cpu")
    on_gpu = outputs_of(model.cuda())
    for name in ("loss", "lm_loss", "camera_loss", "depth_loss", "scale_loss", "alignment_loss"):
        torch.testing.assert_close(on_gpu[name].cpu(), on_cpu[name], rtol=2e-3, atol=2e-3)
    for depth, reference in zip(on_gpu.depth, on_cpu.depth, strict=True):
        torch.testing.assert_close(depth.cpu(), reference, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flash_attention_2"])
def test_attention_kernels_agree_in_bfloat16(checkpoint, attention):
    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        pytest.skip("flash-attn is not installed")
    exact = outputs_of(GeoVRForConditionalGeneration.from_pretrained(checkpoint).cuda())
    rough = outputs_of(
        GeoVRForConditionalGeneration.from_pretrained(
            checkpoint, dtype=torch.bfloat16, attn_implementation=attention
        ).cuda()
    )
    assert rough.loss.dtype == torch.float32
    for name in ("lm_loss", "camera_loss", "depth_loss", "scale_loss", "alignment_loss"):
        torch.testing.assert_close(rough[name], exact[name], rtol=0.03, atol=0.03)


@pytest.mark.parametrize("arguments", [{}, {"num_beams": 3}, {"cache_implementation": "static"}])
def test_answers_are_the_plain_model_s(checkpoint, arguments):
    inputs = batch(geometry_tokens=False, padding_side="left")
    answers = [
        model_class.from_pretrained(checkpoint, dtype=torch.bfloat16)
        .cuda()
        .generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0, **arguments)
        for model_class in (GeoVRForConditionalGeneration, Qwen3VLForConditionalGeneration)
    ]
    assert torch.equal(*answers)


def test_a_model_spread_over_devices_predicts_the_same(checkpoint):
    second = 1 if torch.cuda.device_count() > 1 else "cpu"
    device_map = {
        "model.visual": 0,
        "model.geometry_tokens": 0,
        "model.language_model.embed_tokens": 0,
        "model.language_model.rotary_emb": 0,
        **{f"model.language_model.layers.{layer}": 0 if layer < 2 else second for layer in range(4)},
        "model.language_model.norm": second,
        "lm_head": 0,
        "camera_head": second,
        "depth_head": 0,
        "scale_head": 0,
        "alignment_heads": second,
    }
    spread = GeoVRForConditionalGeneration.from_pretrained(checkpoint, device_map=device_map)
    assert len(set(spread.hf_device_map.values())) == 2
    whole = GeoVRForConditionalGeneration.from_pretrained(checkpoint).cuda()
    ours, reference = outputs_of(spread), outputs_of(whole)
    torch.testing.assert_close(ours.loss.cpu(), reference.loss.cpu(), rtol=5e-3, atol=5e-3)
    for pose, expected in zip(ours.pose_enc, reference.pose_enc, strict=True):
        torch.testing.assert_close(pose.cpu(), expected.cpu(), rtol=5e-3, atol=5e-3)


def test_an_automatic_device_map_works(checkpoint):
    model = GeoVRForConditionalGeneration.from_pretrained(checkpoint, device_map="auto")
    geometry = model.predict_geometry(**batch())
    assert all(torch.isfinite(clip.points).all() for clip in geometry)


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="one process trains on one GPU: set CUDA_VISIBLE_DEVICES")
def test_the_trainer_trains_in_bfloat16(tmp_path):
    rows = [
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "video", "video": random_frames(2, seed=i), "timestamps": [0.0, 1.0]},
                        {"type": "text", "text": "How many chairs?"},
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": str(i)}]},
            ],
            "geometry_targets": random_targets(2, seed=i),
        }
        for i in range(4)
    ]
    processor = tiny_processor()
    arguments = GeoVRTrainingArguments(
        output_dir=str(tmp_path),
        max_steps=20,
        per_device_train_batch_size=4,
        learning_rate=3e-3,
        geometry_learning_rate=3e-3,
        freeze_vision_tower=False,
        bf16=True,
        dataloader_num_workers=1,
        dataloader_pin_memory=True,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
    )
    trainer = GeoVRTrainer(tiny_model(), arguments, GeoVRDataCollator(processor), rows, processing_class=processor)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
