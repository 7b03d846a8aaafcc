"""One arm: trained for its steps, stopped when the time is up, and gone on with from its last checkpoint."""

import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState
from transformers.trainer_utils import get_last_checkpoint

from geovr_hf import GeoVRDataCollator, GeoVRTrainer, GeoVRTrainingArguments

from .settings import Study
from .shards import StoredRooms
from .student import make_processor, make_student


class Clock(TrainerCallback):
    """Stops training when the time is up, with a checkpoint to go on from."""

    def __init__(self, deadline: float):
        self.deadline = deadline
        self.out_of_time = False
        self.seconds = 0.0  # of training, without evaluations, over all parts

    def on_step_end(self, args, state, control, **kwargs):
        """Save and stop if the time is up."""
        if time.time() > self.deadline and state.global_step < state.max_steps:
            self.out_of_time = True
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False
        return control


def train(
    study: Study, arm: str, seed: int, data: Path, work: Path, deadline: float, workers: int
) -> tuple[GeoVRTrainer, Clock]:
    """Train one arm, or go on with it.

    Args:
        study ([`Study`]): The settings.
        arm (`str`): One of `ARMS`.
        seed (`int`): Of the weights and of the order of the rooms: the same order for every arm.
        data (`Path`): Folder of the rendered sets.
        work (`Path`): Folder of checkpoints, on the machine's own disk.
        deadline (`float`): Unix time at which training stops and saves.
        workers (`int`): Processes that prepare batches.

    Returns:
        `tuple[GeoVRTrainer, Clock]`: `clock.out_of_time` says that the arm is not finished.
    """
    rooms = StoredRooms(data / "train")
    processor = make_processor(study, rooms)
    model = make_student(study, arm, seed, processor)
    folder = work / f"{arm}-{seed}"
    steps = study.steps_of(arm)
    arguments = GeoVRTrainingArguments(
        output_dir=str(folder),
        seed=seed,
        data_seed=seed,
        max_steps=max(steps, 1),
        per_device_train_batch_size=study.clips_per_batch,
        per_device_eval_batch_size=64,
        gradient_accumulation_steps=1,
        max_questions_per_clip=study.questions_per_room,
        freeze_vision_tower=False,
        learning_rate=study.learning_rate,
        geometry_learning_rate=study.learning_rate,
        adam_beta2=0.98,
        weight_decay=0.05,
        warmup_steps=0.05,
        activation_checkpointing=False,
        eval_strategy="steps",
        eval_steps=max(steps // study.curve_points, 1),
        eval_max_new_tokens=8,
        eval_geometry_tokens=True,
        save_strategy="steps",
        save_steps=max(steps // 4, 1),
        save_total_limit=1,
        logging_steps=max(steps // 60, 1),
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        report_to="none",
        disable_tqdm=True,
        **{f"{name}_loss_weight": weight for name, weight in study.loss_weights.items()},
    )
    clock = Clock(deadline)
    trainer = GeoVRTrainer(
        model,
        arguments,
        GeoVRDataCollator(processor, **arguments.row_options()),
        train_dataset=rooms,
        eval_dataset=StoredRooms(data / "test", study.curve_rooms),
        callbacks=[clock],
    )
    if steps:
        last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
        clock.seconds = _seconds_before(folder) if last else 0.0
        known = 0 if last is None else _evaluation_seconds(TrainerState.load_from_json(f"{last}/trainer_state.json"))
        began = time.perf_counter()
        trainer.train(resume_from_checkpoint=last)
        clock.seconds += time.perf_counter() - began - (_evaluation_seconds(trainer.state) - known)
        (folder / "seconds").write_text(str(clock.seconds))
    trainer.model.eval()
    return trainer, clock


def _seconds_before(folder: Path) -> float:
    """Training seconds of the parts before; a part that was cut off without saying is not counted."""
    path = folder / "seconds"
    return float(path.read_text()) if path.exists() else 0.0


def _evaluation_seconds(state: TrainerState) -> float:
    return sum(entry.get("eval_runtime", 0.0) for entry in state.log_history)


def cost(trainer: GeoVRTrainer, clock: Clock, study: Study, arm: str) -> dict[str, Any]:
    """What the arm took."""
    steps = study.steps_of(arm)
    on_gpu = torch.cuda.is_available()
    return {
        "steps": steps,
        "clips": steps * study.clips_per_batch,
        "training_seconds": clock.seconds,
        "steps_per_second": steps / clock.seconds if clock.seconds else None,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "backbone_parameters": sum(p.numel() for n, p in trainer.model.named_parameters() if "_head" not in n),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "torch": torch.__version__,
    }
