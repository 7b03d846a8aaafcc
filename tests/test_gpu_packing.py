"""Packed rows on a GPU: the fast attention against the reference, and a step that nothing waits for."""

import warnings

import pytest
import torch
from torch._dynamo.utils import counters
from training_support import row, targets, tiny_model, tiny_processor, uneven_rows, video
from transformers import TrainerCallback

from geovr_hf import GeoVRDataCollator, GeoVRTrainer, GeoVRTrainingArguments
from geovr_hf.modeling.packed_attention_geovr import PER_FRAME, SHARED_PREFIX
from geovr_hf.trainers.compilation import compile_layers
from geovr_hf.trainers.packed_training import fastest_attention


pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

QUESTIONS = ["How many chairs are in this room?", "Which is nearest?", "Hello?", "sofa lamp " * 90]


def rows(num_shared: int = 4):
    clip, clip_targets = video(3, seed=9), targets(3, seed=9)
    shared = [row("4 chairs", clip, question=QUESTIONS[i % 4], clip_targets=clip_targets) for i in range(num_shared)]
    return [*shared[:2], *uneven_rows(), *shared[2:]]


def batch_of(some_rows, device):
    batch = GeoVRDataCollator(tiny_processor()).for_packing()(some_rows)

    def send(value):
        if isinstance(value, list):
            return [send(item) for item in value]
        return value if value is None else value.to(device, non_blocking=True)

    return {name: send(value) for name, value in batch.items()}


def packed_model(device, dtype=torch.float32):
    model = tiny_model(dtype).to(device).train()
    model.set_attn_implementation({"text_config": SHARED_PREFIX, "vision_config": PER_FRAME})
    return model


def losses_and_gradients(model, batch):
    outputs = model(**batch)
    outputs.loss.backward()
    return outputs, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def compare(found, gradients, expected, expected_gradients):
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=2e-3)  # TF32 in FlexAttention's kernels
    for name, gradient in expected_gradients.items():
        scale = gradient.abs().max().clamp(min=1e-6)
        assert ((gradients[name].to(gradient.device) - gradient).abs().max() / scale) < 2e-2, name


@pytest.mark.parametrize("num_shared", [1, 4, 40])
def test_flex_attention_and_the_dense_mask_agree(num_shared, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # of convolutions: the depth head's
    batch = batch_of(rows(num_shared), "cpu")
    expected, expected_gradients = losses_and_gradients(packed_model("cpu"), batch)
    found, gradients = losses_and_gradients(packed_model("cuda"), batch_of(rows(num_shared), "cuda"))
    compare(found, gradients, expected, expected_gradients)


def test_many_rows_of_different_lengths_agree_with_the_dense_mask(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    many = [
        row("4 chairs", video(2, seed=i), question="chair " * (2 * i + 1), clip_targets=targets(2, seed=i))
        for i in range(9)
    ]
    batch = batch_of(many, "cpu")
    assert batch["layout"].causal_runs == ()
    expected, expected_gradients = losses_and_gradients(packed_model("cpu"), batch)
    found, gradients = losses_and_gradients(packed_model("cuda"), batch_of(many, "cuda"))
    compare(found, gradients, expected, expected_gradients)


def test_nothing_in_a_step_waits_for_the_device():
    model = packed_model("cuda", torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batches = [batch_of(rows(), "cuda") for _ in range(2)]

    def step(batch):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step(batches[0])  # compiles FlexAttention, makes the optimizer's state
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(batches[1])
    finally:
        torch.cuda.set_sync_debug_mode("default")


class NoWaiting(TrainerCallback):
    """Has PyTorch warn of everything that waits for the device, from the end of one step to the end of another."""

    def __init__(self, first, last):
        self.modes = {first: "warn", last: "default"}

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in self.modes:
            torch.cuda.set_sync_debug_mode(self.modes[state.global_step])


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="one process trains on one GPU: set CUDA_VISIBLE_DEVICES")
@pytest.mark.parametrize("accumulated", [1, 2])
def test_nothing_in_the_trainer_s_steps_waits_for_the_device(accumulated, tmp_path):
    arguments = GeoVRTrainingArguments(
        output_dir=str(tmp_path),
        max_steps=8,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulated,
        max_questions_per_clip=4,
        bf16=True,
        dataloader_num_workers=1,
        logging_steps=20,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    collator = GeoVRDataCollator(tiny_processor())
    many = [asked for _ in range(8 * accumulated) for asked in rows()]
    trainer = GeoVRTrainer(tiny_model(), arguments, collator, many, callbacks=[NoWaiting(3, 7)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trainer.train()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = {f"{w.filename}:{w.lineno}" for w in caught if "called a synchronizing" in str(w.message)}
    assert trainer.state.global_step == 8 and not waits


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_compiled_layers_take_the_same_step(checkpointing):
    batch = batch_of(rows(), "cuda")
    expected, expected_gradients = losses_and_gradients(packed_model("cuda"), batch)
    model = compile_layers(packed_model("cuda"))
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    found, gradients = losses_and_gradients(model, batch)
    compare(found, gradients, expected, expected_gradients)


def test_compiled_code_is_for_all_lengths():
    model, graphs = compile_layers(packed_model("cuda")), []
    for frames, words in ((2, 1), (3, 5), (4, 9), (5, 2), (6, 11), (7, 4)):
        clip, clip_targets = video(frames, seed=1), targets(frames, seed=1)
        asked = [row("4", clip, question="chair " * (words + i), clip_targets=clip_targets) for i in range(3)]
        model(**batch_of(asked, "cuda")).loss.backward()
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[2:] == [graphs[2]] * 4


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_bfloat16_is_float32_up_to_rounding(checkpointing):
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = packed_model("cuda", dtype)
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        with fastest_attention():
            losses[dtype] = losses_and_gradients(model, batch_of(rows(), "cuda"))[0]
    for name in ("lm_loss", "camera_loss", "depth_loss", "scale_loss", "alignment_loss"):
        exact, rough = (float(losses[dtype][name]) for dtype in (torch.float32, torch.bfloat16))
        assert rough == pytest.approx(exact, rel=0.03), name
