"""Time and memory of a training step on one GPU and on several, with each launch configuration.

    python tests/benchmarks/several_gpus.py                           # all configurations, on all GPUs
    python tests/benchmarks/several_gpus.py --configs fsdp2 zero3 --gpus 2
    python tests/benchmarks/several_gpus.py --tiny --gpus 2           # a check of the script itself, on any machine

Shapes are those of training_step.py: Qwen3-VL-2B, on each GPU one clip of 32 frames of 300 visual tokens that 32
questions share, all losses, weights in float32 and bfloat16 autocast, as GeoVRTrainer trains them. Each line is a
program of its own, so that nothing is left of the one before; all compile for themselves, for about a minute.
Prints a table and one line of JSON. Scaling is how many times the questions per second of one GPU.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers


sys.path.insert(0, str(Path(__file__).parents[1]))

from multi_process import is_sharded_run, launch, take_processes_for_gpus  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from training_step import SHAPES_2B, SHAPES_TINY, make_targets, packed_inputs  # noqa: E402
from transformers import AutoModelForImageTextToText  # noqa: E402

from geovr_hf import (  # noqa: E402
    GeoVRConfig,
    GeoVRTrainer,
    GeoVRTrainingArguments,
)
from geovr_hf.launch_configs import LAUNCH_CONFIGS  # noqa: E402
from geovr_hf.trainers.packed_training import fastest_attention, prepare_attention  # noqa: E402


WARM_UPS = 4


class StepTrainer(GeoVRTrainer):
    """Trains on one batch again and again, which lies on the device, and takes the time."""

    def __init__(self, model, args, batch):
        super().__init__(model, args, data_collator=lambda rows: rows[0], train_dataset=[batch] * args.max_steps)
        self.ends: list[float] = []

    def get_train_dataloader(self):
        """Nothing to distribute: each process has a batch of its own."""
        return DataLoader(self.train_dataset, batch_size=1, collate_fn=self.data_collator)

    def training_step(self, *arguments, **options):
        """One step. The step before has ended when this one starts."""
        synchronize()
        self.ends.append(time.perf_counter())
        if len(self.ends) == WARM_UPS + 1 and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with fastest_attention():
            return super().training_step(*arguments, **options)


def synchronize():
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def work(arguments: argparse.Namespace):
    """Train in one process of a configuration, and write its time and memory."""
    on_gpu = torch.cuda.is_available()
    if is_sharded_run() and not on_gpu:
        take_processes_for_gpus()
    args = GeoVRTrainingArguments(
        arguments.folder,
        max_steps=WARM_UPS + arguments.repeats,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        packing=False,  # the batch is packed already
        compile_layers=not arguments.no_compile,
        activation_checkpointing=arguments.checkpointing,
        bf16=on_gpu,
        use_cpu=not on_gpu and not is_sharded_run(),
        eval_answers=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )
    torch.manual_seed(0)
    small = {"depth_hidden_sizes": [16, 16, 32, 32], "depth_fusion_size": 16}
    config = GeoVRConfig(**(SHAPES_TINY | small if arguments.tiny else SHAPES_2B))
    layout = (1, 2, 2, 3) if arguments.tiny else (1, arguments.frames, 15, 20)
    with torch.device(args.device):
        model = AutoModelForImageTextToText.from_config(config)  # which ZeRO-3 takes part in, unlike a constructor
    prepare_attention(model)
    batch = packed_inputs(config, layout, arguments.questions)
    pixels = batch["pixel_values_videos"]
    batch["pixel_values_videos"] = pixels.to(args.device, torch.bfloat16 if on_gpu else torch.float32)
    batch["geometry_targets"] = [targets.to(args.device) for targets in make_targets(config, layout)]
    batch["input_ids"], batch["layout"] = batch["input_ids"].to(args.device), batch["layout"].to(args.device)

    trainer = StepTrainer(model, args, batch)
    start = time.perf_counter()
    trainer.train()
    synchronize()
    ends = [*trainer.ends, time.perf_counter()][WARM_UPS:]
    seconds = sorted(end - begin for begin, end in zip(ends, ends[1:], strict=False))
    result = {
        "seconds": seconds[len(seconds) // 2],
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else float("nan"),
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30 if on_gpu else float("nan"),
        "warm_up_seconds": ends[0] - start,
    }
    Path(arguments.folder, f"result_{args.process_index}.json").write_text(json.dumps(result))
    trainer.end()


def measure(config: str, processes: int, options: list[str], timeout: int) -> dict:
    """Run a configuration; its slowest process and the one with most memory count."""
    with tempfile.TemporaryDirectory() as name:
        arguments = ["--worker", "--folder", name, *options]
        launch(config, Path(name), "benchmarks/several_gpus.py", *arguments, processes=processes, timeout=timeout)
        results = [json.loads(path.read_text()) for path in sorted(Path(name).glob("result_*.json"))]
    assert len(results) == processes
    return {key: max(result[key] for result in results) for key in results[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", choices=LAUNCH_CONFIGS, default=list(LAUNCH_CONFIGS))
    parser.add_argument("--gpus", type=int, default=max(torch.cuda.device_count(), 1))
    parser.add_argument("--questions", type=int, default=32, help="questions about the clip of each GPU")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--checkpointing", action="store_true", help="compute activations again")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to check the script")
    parser.add_argument("--timeout", type=int, default=240, help="seconds for one line")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments)

    options = ["--questions", arguments.questions, "--frames", arguments.frames, "--repeats", arguments.repeats]
    options += [
        f"--{name.replace('_', '-')}" for name in ("checkpointing", "no_compile", "tiny") if vars(arguments)[name]
    ]
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{arguments.gpus} x {machine}, torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"{'':8}{'GPUs':>5}{'seconds':>9}{'questions/s':>13}{'scaling':>9}{'peak GiB':>10}{'warm-up s':>11}")
    results, single = {}, None
    for config in ["one", *arguments.configs]:
        processes = 1 if config == "one" else arguments.gpus
        if config.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
            print(f"{config:8} left out: DeepSpeed is not installed")
            continue
        try:
            result = measure("ddp" if config == "one" else config, processes, options, arguments.timeout)
        except AssertionError as error:  # the other lines may do
            print(f"{config:8} failed: {error}", flush=True)
            results[config] = {"gpus": processes, "error": str(error)[-500:]}
            continue
        rate = processes * arguments.questions / result["seconds"]
        single = rate if config == "one" else single
        results[config] = result = {"gpus": processes, **result, "questions_per_second": rate}
        result["scaling"] = rate / single if single else float("nan")
        print(
            f"{config:8}{processes:5}{result['seconds']:9.3f}{rate:13.1f}{result['scaling']:9.2f}"
            f"{result['peak_gib']:10.1f}{result['warm_up_seconds']:11.1f}",
            flush=True,
        )
    print(json.dumps({"machine": machine, "torch": torch.__version__, **vars(arguments), "results": results}))


if __name__ == "__main__":
    main()
