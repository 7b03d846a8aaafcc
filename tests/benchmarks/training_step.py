"""Time and memory of a training step, and of answering, beside plain Qwen3-VL on the same inputs.

    python tests/benchmarks/training_step.py                       # the table of docs/benchmarks.md
    python tests/benchmarks/training_step.py --tiny                # a check of the script itself, on any machine
    python tests/benchmarks/training_step.py --cases shared --profile                        # where the time goes
    python tests/benchmarks/training_step.py --cases varied                # batches of another length in every step
    python tests/benchmarks/training_step.py --cases shared --four-alone --questions 1 2 4 8 16 32 64
    python tests/benchmarks/training_step.py --cases shared --four-alone --frame-counts 8 16 32 64 128

Shapes are Qwen3-VL-2B's, clips of 32 frames of 300 visual tokens, questions of 60 tokens with answers of 8. Weights
are random and targets lie in memory, as a target cache would serve them. Prints a table and one line of JSON.
"""

import argparse
import itertools
import json
import platform
import time

import torch
import transformers
from flops import step_flops
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from geovr_hf import GeometryTargets, GeoVRConfig, GeoVRForConditionalGeneration
from geovr_hf.trainers.compilation import compile_layers
from geovr_hf.trainers.packing import PackedRow, pack_rows


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
    "depth_hidden_sizes": [16, 16, 32, 32],
    "depth_fusion_size": 16,
}
SDPA_ORDERS = {
    "cudnn": [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH],
    "flash": [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH],
}
PEAK_TFLOPS = 790  # of a large bfloat16 matrix product, measured on an H200
QUESTION, ANSWER = 60, 8
WARM_UPS = 3


def clip_tokens(
    config: GeoVRConfig, frames: int, rows: int, columns: int, geometry: bool, head: int = 20
) -> list[int]:
    """Ids of the prompt's head and a clip."""
    ids = list(range(100, 100 + head))
    for frame in range(frames):
        ids += [*range(200, 206), config.vision_start_token_id, *[config.video_token_id] * (rows * columns)]
        if geometry:
            ids.append(config.camera_token_id if frame else config.camera_first_token_id)
            ids += [config.scale_token_id] if frame == frames - 1 else []
        ids.append(config.vision_end_token_id)
    return ids


def pixels(batch: int, frames: int, rows: int, columns: int) -> torch.Tensor:
    """Patches of a batch of clips."""
    return torch.randn(batch * frames * 4 * rows * columns, 1536)


def padded_inputs(config: GeoVRConfig, layout: tuple[int, int, int, int], geometry: bool) -> dict:
    """A batch of rows as plain Qwen3-VL takes them: each has a clip and one question."""
    batch, frames, rows, columns = layout
    ids = clip_tokens(config, frames, rows, columns, geometry) + [*range(300, 300 + QUESTION + ANSWER)]
    input_ids = torch.tensor([ids] * batch)
    labels = input_ids.clone()
    labels[:, :-ANSWER] = -100
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "labels": labels,
        "mm_token_type_ids": (input_ids == config.video_token_id).int() * 2,
        "pixel_values_videos": pixels(*layout),
        "video_grid_thw": torch.tensor([[frames, 2 * rows, 2 * columns]] * batch),
    }


def packed_words(config: GeoVRConfig, layout: tuple[int, int, int, int], questions: int, head: int = 20) -> dict:
    """The tokens of a batch of packed rows: each has a clip and `questions` questions."""
    batch, frames, rows, columns = layout
    prefix = torch.tensor(clip_tokens(config, frames, rows, columns, geometry=True, head=head))
    question = torch.arange(300, 300 + QUESTION + ANSWER)
    learnt = torch.arange(len(prefix) + len(question)) >= len(prefix) + QUESTION
    row = PackedRow(prefix, 2 * (prefix == config.video_token_id), [question] * questions, [learnt] * questions)
    return pack_rows(
        [row] * batch,
        [],
        [(frames, 2 * rows, 2 * columns)] * batch,
        geometry_token_ids=config.geometry_token_ids,
        image_token_id=config.image_token_id,
        video_token_id=config.video_token_id,
        merge_size=2,
    )


def packed_inputs(config: GeoVRConfig, layout: tuple[int, int, int, int], questions: int) -> dict:
    """A batch of packed rows with their clips."""
    return packed_words(config, layout, questions) | {"pixel_values_videos": pixels(*layout)}


def make_targets(config: GeoVRConfig, layout: tuple[int, int, int, int]) -> list[GeometryTargets]:
    """Targets of the size that a teacher of the published layout gives, features pooled in bfloat16."""
    batch, frames, rows, columns = layout
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


def measure(step, device: str, repeats: int, warm_ups: int = WARM_UPS) -> dict:
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


def training_step(model, inputs: dict, checkpointing: bool, sdpa: str | None = None, **targets):
    """Forward, backward, optimizer, of these inputs or others; the vision tower is frozen but for its merger."""
    model.train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("visual" not in name or "visual.merger" in name)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.activation_checkpointing_disable()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=True)
    arguments = {} if "layout" in inputs else {"use_cache": False}

    def step(inputs=inputs):
        with sdpa_kernel(SDPA_ORDERS[sdpa or "cudnn"], set_priority=True):
            model(**inputs, **targets, **arguments).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def answering(model, inputs: dict):
    """Prefill and sixteen greedy tokens."""
    model.eval()
    prompt = {name: value for name, value in inputs.items() if name != "labels"}
    return lambda: model.generate(**prompt, max_new_tokens=16, min_new_tokens=16, do_sample=False)


def measure_in_turns(models: dict, inputs: dict, device: str, repeats: int) -> dict[str, dict]:
    """Answering by each model, one after the other in every round: what drifts in a machine then drifts for all."""
    rounds = [
        {name: measure(answering(model, inputs), device, 1, warm_ups=1) for name, model in models.items()}
        for _ in range(repeats + 1)
    ][1:]
    seconds = {name: sorted(r[name]["seconds"] for r in rounds)[repeats // 2] for name in models}
    return {name: {"seconds": seconds[name], "peak_gib": rounds[0][name]["peak_gib"]} for name in models}


def check_no_synchronisation(step) -> list[str]:
    """What in a step waits for the device, as PyTorch warns."""
    import warnings

    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = [w for w in caught if "synchroniz" in str(w.message)]
    return sorted({f"{w.filename}:{w.lineno}" for w in found})


def profile(step, rows: int = 45) -> str:
    """The kernels that take longest, and what takes the host longest to start them."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with profiler(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as trace:
        begin = time.perf_counter()
        step()
        started = time.perf_counter() - begin
        torch.cuda.synchronize()
        ended = time.perf_counter() - begin
    events = trace.key_averages()
    kernels = [event for event in events if event.self_device_time_total and not event.self_cpu_time_total]
    total = sum(event.self_device_time_total for event in kernels)
    lines = [
        f"kernels {total / 1000:.1f} ms, {sum(event.count for event in kernels)} of them; profiled, the host was done "
        f"after {1000 * started:.1f} ms and the device after {1000 * ended:.1f} ms"
    ]
    for event in sorted(kernels, key=lambda event: -event.self_device_time_total)[:rows]:
        lines.append(f"{event.self_device_time_total / 1000:8.2f} ms {event.count:5}x  {event.key[:120]}")
    lines.append("host:")
    for event in sorted(events, key=lambda event: -event.self_cpu_time_total)[: rows // 2]:
        lines.append(f"{event.self_cpu_time_total / 1000:8.2f} ms {event.count:5}x  {event.key[:120]}")
    return "\n".join(lines)


class Report:
    """Lines of a table, printed as they come, and their figures."""

    def __init__(self, device: str):
        self.device = device
        self.results: dict[str, dict] = {}
        print(f"{'':58}{'seconds':>9}{'per question':>14}{'peak GiB':>10}{'MFU':>7}")

    def add(self, name: str, result: dict, questions: int, flops: float | None = None):
        """Add a line."""
        result = {**result, "per_question": result["seconds"] / questions}
        if flops is not None and self.device == "cuda":
            result["mfu"] = flops / result["seconds"] / (PEAK_TFLOPS * 1e12)
        self.results[name] = result
        share = f"{100 * result['mfu']:6.1f}%" if "mfu" in result else ""
        print(
            f"{name:58}{result['seconds']:9.3f}{result['per_question']:14.4f}{result['peak_gib']:10.1f}{share}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to check the script")
    parser.add_argument("--cases", nargs="+", default=["answering", "language", "separate", "shared"])
    parser.add_argument("--batch", type=int, default=2, help="rows of the cases without sharing")
    parser.add_argument("--frame-counts", type=int, nargs="+", default=[32])
    parser.add_argument("--questions", type=int, nargs="+", default=[32], help="questions per clip of the shared case")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sdpa", choices=list(SDPA_ORDERS), default="cudnn", help="PyTorch's attention kernels")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--checkpointing", action="store_true", help="in the shared case, too")
    parser.add_argument("--four-alone", action="store_true", help="leave out the shared steps on language alone")
    parser.add_argument("--profile", action="store_true", help="print the longest kernels and what waits")
    arguments = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    shapes = SHAPES_TINY if arguments.tiny else SHAPES_2B
    rows, columns = (2, 3) if arguments.tiny else (15, 20)
    if arguments.tiny:
        arguments.frame_counts, arguments.repeats, arguments.no_compile = [4], 1, True
    config = GeoVRConfig(**shapes)
    machine = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    print(f"{machine}, torch {torch.__version__}, transformers {transformers.__version__}, {dtype}, {vars(arguments)}")
    report = Report(device)

    def send(value):
        if isinstance(value, torch.Tensor):
            return value.to(device, dtype if value.is_floating_point() else value.dtype)
        return value.to(device)

    def sent(inputs):
        return {name: send(value) for name, value in inputs.items()}

    def build(model_class, model_config):
        with torch.device(device):
            return model_class._from_config(model_config, dtype=dtype, attn_implementation="sdpa")

    layout = (arguments.batch, arguments.frame_counts[0], rows, columns)
    if "answering" in arguments.cases:
        plain = sent(padded_inputs(config, layout, geometry=False))
        models = {
            "plain Qwen3-VL": build(Qwen3VLForConditionalGeneration, Qwen3VLConfig(**shapes)),
            "GeoVR": build(GeoVRForConditionalGeneration, config),
        }
        for name, result in measure_in_turns(models, plain, device, arguments.repeats).items():
            report.add(f"{name}, answering", result, arguments.batch)
        del models
    if "language" in arguments.cases:
        plain = sent(padded_inputs(config, layout, geometry=False))
        for name, model_class, model_config in (
            ("plain Qwen3-VL", Qwen3VLForConditionalGeneration, Qwen3VLConfig(**shapes)),
            ("GeoVR", GeoVRForConditionalGeneration, config),
        ):
            model = build(model_class, model_config)
            result = measure(training_step(model, plain, True, arguments.sdpa), device, arguments.repeats)
            report.add(f"{name}, language step, padded, checkpointing", result, arguments.batch)
            del model

    def packed_model():
        model = build(GeoVRForConditionalGeneration, config)
        model.set_attn_implementation({"text_config": "shared_prefix", "vision_config": "flash_per_frame"})
        return model if arguments.no_compile else compile_layers(model)

    def packed_step(model, inputs, name, count, layout, checkpointing, losses=True):
        targets = (
            {"geometry_targets": [target.to(device) for target in make_targets(config, layout)]} if losses else {}
        )
        step = training_step(model, inputs, checkpointing, arguments.sdpa, **targets)
        result = measure(step, device, arguments.repeats)
        report.add(name, result, count * layout[0], step_flops(config, inputs["layout"], layout, losses))
        if arguments.profile and device == "cuda":
            print("waits:", check_no_synchronisation(step) or "none")
            print(profile(step))

    if "separate" in arguments.cases:
        model = packed_model()
        inputs = sent(packed_inputs(config, layout, 1))
        packed_step(model, inputs, "GeoVR, no sharing, language alone, checkpointing", 1, layout, True, losses=False)
        packed_step(model, inputs, "GeoVR, no sharing, four losses, checkpointing", 1, layout, True)
        del model
    if "shared" in arguments.cases:
        model = packed_model()
        for frames in arguments.frame_counts:
            for count in arguments.questions:
                layout = (1, frames, rows, columns)
                inputs = sent(packed_inputs(config, layout, count))
                ending = f"{count} questions, {frames} frames"
                for losses in (True,) if arguments.four_alone else (False, True):
                    name = f"GeoVR, shared, {'four losses' if losses else 'language alone'}, {ending}"
                    recomputed = arguments.checkpointing
                    if not recomputed:
                        try:
                            packed_step(model, inputs, name, count, layout, False, losses)
                        except torch.OutOfMemoryError:
                            recomputed, name = True, f"{name}, recomputed"  # as the trainer does
                    if recomputed:
                        packed_step(model, inputs, name, count, layout, True, losses)
    if "varied" in arguments.cases:
        model = packed_model()
        layout, counts = (1, arguments.frame_counts[0], rows, columns), [32, 31, 29, 26, 22, 17]
        targets = [target.to(device) for target in make_targets(config, layout)]
        clip = sent({"pixel_values_videos": pixels(*layout)})
        heads = itertools.count(20)  # no prefix is as long as one before

        def batches():
            return [sent(packed_words(config, layout, count, next(heads))) | clip for count in counts]

        step = training_step(model, batches()[0], arguments.checkpointing, arguments.sdpa, geometry_targets=targets)
        rounds = iter([batches() for _ in range(WARM_UPS + arguments.repeats)])
        result = measure(lambda: [step(inputs) for inputs in next(rounds)], device, arguments.repeats)
        flops = sum(step_flops(config, inputs["layout"], layout, True) for inputs in batches())
        report.add(f"GeoVR, shared, four losses, {counts} questions, always new lengths", result, sum(counts), flops)
    print(json.dumps({"machine": machine, "torch": torch.__version__, **vars(arguments), "results": report.results}))


if __name__ == "__main__":
    main()
