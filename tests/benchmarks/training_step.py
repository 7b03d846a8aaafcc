"""Time and memory of a training step, and of answering, beside plain Qwen3-VL on the same inputs.

    python tests/benchmarks/training_step.py            # Qwen3-VL-2B's shapes, 32 frames of 300 tokens, batch 2
    python tests/benchmarks/training_step.py --tiny     # a check of the script itself, on any machine

Weights are random and targets lie in memory, as a target cache would serve them. Prints a table and one line of JSON.
"""

import argparse
import json
import platform
import time

import torch
import transformers
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from geovr_hf import GeometryTargets, GeoVRConfig, GeoVRForConditionalGeneration


SHAPES_2B = {
    "text_config": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5000000.0,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
    },
    "vision_config": {
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "deepstack_visual_indexes": [5, 11, 17],
    },
    "tie_word_embeddings": True,
}
SHAPES_TINY = {
    "text_config": {
        **SHAPES_2B["text_config"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 128,
    },
    "vision_config": {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 64,
        "deepstack_visual_indexes": [0, 1, 2],
    },
    "tie_word_embeddings": True,
}


def make_inputs(config: GeoVRConfig, batch: int, frames: int, rows: int, columns: int, geometry: bool) -> dict:
    """A batch of questions of 60 tokens with answers of 8, one clip each."""
    patches = [config.video_token_id] * (rows * columns)
    ids = list(range(100, 120))
    for frame in range(frames):
        ids += [*range(200, 206), config.vision_start_token_id, *patches]
        if geometry:
            ids.append(config.camera_token_id if frame else config.camera_first_token_id)
            ids += [config.scale_token_id] if frame == frames - 1 else []
        ids.append(config.vision_end_token_id)
    ids += range(300, 348)
    input_ids = torch.tensor([ids] * batch)
    labels = input_ids.clone()
    labels[:, :-8] = -100
    grid = torch.tensor([[frames, 2 * rows, 2 * columns]] * batch)
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "labels": labels,
        "mm_token_type_ids": (input_ids == config.video_token_id).int() * 2,
        "pixel_values_videos": torch.randn(int(grid.prod(1).sum()), 1536),
        "video_grid_thw": grid,
    }


def make_targets(config: GeoVRConfig, batch: int, frames: int, rows: int, columns: int) -> list[GeometryTargets]:
    """Targets of the size that a teacher of the published layout gives, features pooled in bfloat16."""
    size = (frames, rows * config.depth_tile, columns * config.depth_tile)
    return [
        GeometryTargets(
            pose_enc=torch.rand(frames, 9),
            depth=torch.rand(size) + 0.5,
            depth_confidence=torch.ones(size),
            metric_scale=torch.tensor(2.0),
            features=[
                torch.randn(frames, rows, columns, config.teacher_hidden_size, dtype=torch.bfloat16)
                for _ in config.teacher_alignment_layers
            ],
            features_pooled=True,
        )
        for _ in range(batch)
    ]


def measure(step, device: str, repeats: int, warm_ups: int = 2) -> dict:
    """Median seconds of a call after some warm-ups, and peak memory in GiB."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(warm_ups):
        step()
    synchronize()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    return {"seconds": sorted(seconds)[len(seconds) // 2], "peak_gib": peak}


def training_step(model, inputs: dict, **targets):
    """Forward, backward, optimizer; the vision tower is frozen but for its merger."""
    model.train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("visual" not in name or "visual.merger" in name)
    model.activation_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=True)

    def step():
        model(**inputs, **targets, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def answering(model, inputs: dict):
    """Prefill and sixteen greedy tokens."""
    model.eval()
    prompt = {name: value for name, value in inputs.items() if name != "labels"}
    return lambda: model.generate(**prompt, max_new_tokens=16, min_new_tokens=16, do_sample=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to check the script")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--attention", default="sdpa", help="attention implementation of transformers")
    arguments = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    shapes = SHAPES_TINY if arguments.tiny else SHAPES_2B
    rows, columns = (2, 3) if arguments.tiny else (15, 20)
    frames = 4 if arguments.tiny else arguments.frames
    config = GeoVRConfig(**shapes)
    layout = (arguments.batch, frames, rows, columns)

    def to_device(inputs):
        return {n: v.to(device, dtype if v.is_floating_point() else v.dtype) for n, v in inputs.items()}

    plain_inputs = to_device(make_inputs(config, *layout, geometry=False))
    geometry_inputs = to_device(make_inputs(config, *layout, geometry=True))
    targets = [target.to(device) for target in make_targets(config, *layout)]

    results = {}
    for name, model_class, model_config in (
        ("plain Qwen3-VL", Qwen3VLForConditionalGeneration, Qwen3VLConfig(**shapes)),
        ("GeoVR", GeoVRForConditionalGeneration, config),
    ):
        with torch.device(device):
            model = model_class._from_config(model_config, dtype=dtype, attn_implementation=arguments.attention)
        results[f"{name}, answering"] = measure(answering(model, plain_inputs), device, arguments.repeats)
        results[f"{name}, language step"] = measure(training_step(model, plain_inputs), device, arguments.repeats)
        if name == "GeoVR":
            step = training_step(model, geometry_inputs, geometry_targets=targets)
            results["GeoVR, step with four losses"] = measure(step, device, arguments.repeats)
            del step
        del model
        if device == "cuda":
            torch.cuda.empty_cache()

    machine = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    print(f"{machine}, torch {torch.__version__}, transformers {transformers.__version__}, {dtype}, {vars(arguments)}")
    print(f"{'':32}{'seconds':>10}{'per question':>14}{'peak GiB':>10}")
    for name, result in results.items():
        per_question = result["seconds"] / arguments.batch
        print(f"{name:32}{result['seconds']:10.3f}{per_question:14.3f}{result['peak_gib']:10.1f}")
    print(json.dumps({"machine": machine, "torch": torch.__version__, **vars(arguments), "results": results}))


if __name__ == "__main__":
    main()
