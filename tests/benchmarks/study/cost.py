"""What a step of each arm costs, measured one after the other with the GPU to itself."""

import time
from pathlib import Path
from typing import Any

import torch
from training_step import measure, profile
from transformers import TrainerCallback

from geovr_hf import GeoVRTrainer

from .settings import Study
from .training import make_arm


class Stopwatch(TrainerCallback):
    """Seconds and peak memory of the steps after the first few, which compile.

    Args:
        skipped (`int`): Steps before.
    """

    def __init__(self, skipped: int):
        self.skipped = skipped
        self.seconds, self._since = 0.0, 0.0

    def on_step_end(self, args, state, control, **kwargs):
        """Start after the skipped steps, and stop at the last."""
        if state.global_step not in (self.skipped, state.max_steps):
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds, self._since = time.perf_counter() - self._since, time.perf_counter()


def one_batch_over_and_over(trainer: GeoVRTrainer):
    """A step that waits for no data, of a trainer that has trained."""
    batch = next(iter(trainer.get_train_dataloader()))

    def step():
        trainer.training_step(trainer.model, dict(batch))
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return step


def measure_costs(
    study: Study, arms: list[str], data: Path, work: Path, workers: int, profiled: bool = False
) -> dict[str, dict[str, Any]]:
    """Seconds per step, with the data and without waiting for it, peak memory and parameters of each arm."""
    on_gpu, found = torch.cuda.is_available(), {}
    for arm in arms:
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        watch = Stopwatch(study.cost_steps // 3)
        trainer = make_arm(study, arm, 0, data, work, study.cost_steps, workers)
        trainer.add_callback(watch)
        trainer.train()
        step = one_batch_over_and_over(trainer)
        alone = measure(step, "cuda" if on_gpu else "cpu", 5, warm_ups=1)["seconds"]
        found[arm] = {
            "seconds_without_data": alone,
            "seconds_per_step": watch.seconds / (study.cost_steps - watch.skipped),
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
            "parameters": sum(p.numel() for p in trainer.model.parameters()),
            "backbone_parameters": sum(p.numel() for n, p in trainer.model.named_parameters() if "_head" not in n),
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
            "torch": torch.__version__,
        }
        print(f"{arm}: {found[arm]['seconds_per_step']:.4f} s a step, {alone:.4f} without data", flush=True)
        if profiled and on_gpu:
            print(profile(step), flush=True)
        del trainer, step
        if on_gpu:
            torch.cuda.empty_cache()
    return found
