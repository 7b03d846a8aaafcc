"""What watches a run: its time, its learning curve, its cost."""

import json
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

from geovr_hf.visualization.atomic_files import atomic_path


class Clock(TrainerCallback):
    """Counts the seconds of training, stops it with a checkpoint when the time is up, and draws the learning curve.

    Args:
        folder (`Path`): Where it keeps what it knows between the parts of a run.
        deadline (`float`): Unix time at which to stop.
        every (`int`, *optional*): Steps between points of the curve.
        measure (`Callable`, *optional*): Gives a point: a function of nothing.
    """

    def __init__(self, folder: Path, deadline: float, every: int | None = None, measure=None):
        self.file, self.deadline, self.every, self.measure = folder / "clock.json", deadline, every, measure
        self.out_of_time = False
        known = json.loads(self.file.read_text()) if self.file.exists() else {"seconds": 0.0, "curve": []}
        self.seconds, self.curve = known["seconds"], known["curve"]
        self._since: float | None = None

    def on_step_begin(self, args, state, control, **kwargs):
        """Start counting."""
        self._since = time.perf_counter() if self._since is None else self._since

    def on_step_end(self, args, state, control, **kwargs):
        """Measure, and save and stop if the time is up."""
        if self.every and state.global_step % self.every == 0:
            self._count()
            self.curve.append({"step": state.global_step, "score": self.measure()})
        if time.time() > self.deadline and state.global_step < state.max_steps:
            self.out_of_time = True
            control.should_save = control.should_training_stop = True
        return control

    def on_train_end(self, args, state, control, **kwargs):
        """Keep what is known."""
        self._count()
        with atomic_path(self.file) as temporary:
            temporary.write_text(json.dumps({"seconds": self.seconds, "curve": self.curve}))

    def _count(self):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - self._since if self._since else 0.0
        self._since = None
