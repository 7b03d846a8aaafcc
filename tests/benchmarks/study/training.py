"""The warm-up and the arms: trained, and gone on with from the last checkpoint."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch.utils.data import Dataset
from transformers import TrainerState
from transformers.trainer_utils import get_last_checkpoint

from geovr_hf import GeoVRDataCollator, GeoVRTrainer, GeoVRTrainingArguments
from geovr_hf.modeling import GeoVRForConditionalGeneration, GeoVRProcessor
from geovr_hf.visualization.atomic_files import atomic_path

from .answers import answer, flat_skills, mean_scores
from .clock import Clock
from .grounding import GroundingTrainer
from .rooms import StoredRooms, WarmUpRows
from .settings import Study
from .student import make_processor, make_student


WARM_QUESTIONS = 13  # of a row: clips with more make two
WARM_UP = "warm-up"  # folder of the backbone that all arms start from, and of the rooms it was trained on


def make_trainer(
    study: Study,
    folder: Path,
    model: GeoVRForConditionalGeneration,
    processor: GeoVRProcessor,
    rooms: Dataset,
    seed: int,
    steps: int,
    workers: int,
    kind: type[GeoVRTrainer] = GeoVRTrainer,
    **options: int | bool,
) -> GeoVRTrainer:
    """A trainer of the study's schedule."""
    arguments = GeoVRTrainingArguments(
        output_dir=str(folder),
        seed=seed,
        data_seed=seed,
        max_steps=max(steps, 1),
        gradient_accumulation_steps=1,
        freeze_vision_tower=False,
        learning_rate=study.learning_rate,
        geometry_learning_rate=study.learning_rate,
        adam_beta2=0.98,
        weight_decay=0.05,
        warmup_steps=0.05,
        activation_checkpointing=False,
        eval_strategy="no",
        save_strategy="no",  # but when the time is up
        logging_steps=max(steps // 60, 1),
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        report_to="none",
        disable_tqdm=True,
        compile_layers=study.compile_layers,
        **options,
    )
    collator = GeoVRDataCollator(processor, **arguments.row_options())
    return kind(model, arguments, collator, train_dataset=rooms)


def warm_up(study: Study, data: Path, work: Path, workers: int) -> None:
    """Train the backbone to name and compare what pictures show, language alone; nothing is done if it is there."""
    if (work / WARM_UP / "model.safetensors").exists():
        return
    processor = make_processor(study, data)
    model = make_student(study, "language", 0, processor)
    rooms = WarmUpRows(data / WARM_UP)
    trainer = make_trainer(
        study, work / "warm-up-run", model, processor, rooms, 0, study.warm_steps, workers, GroundingTrainer,
        per_device_train_batch_size=study.warm_rows, max_questions_per_clip=WARM_QUESTIONS,
    )  # fmt: skip
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    skills = flat_skills(trainer, data, workers)
    with atomic_path(work / WARM_UP) as temporary:
        trainer.save_model(str(temporary))
        history = [entry for entry in trainer.state.log_history if "lm_loss" in entry]
        facts = {"seconds": seconds, "history": history, "skills": skills}
        (temporary / "warm_up.json").write_text(json.dumps(facts))
    print(f"warm-up done: {seconds:.0f} s, language loss {history[-1]['lm_loss']:.3f}, {skills}", flush=True)


def warm_up_facts(work: Path) -> dict[str, Any]:
    """What there is to know of the backbone that all arms start from: `digest`, `seconds`, `history`, `skills`."""
    return {"digest": digest(work), **json.loads((work / WARM_UP / "warm_up.json").read_text())}


def digest(work: Path) -> str:
    """Eight digits that differ when the warmed-up backbone does."""
    with open(work / WARM_UP / "model.safetensors", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


def make_arm(study: Study, arm: str, seed: int, data: Path, work: Path, steps: int, workers: int) -> GeoVRTrainer:
    """The trainer of an arm, before its first step. Arguments are those of [`train`]."""
    processor = make_processor(study, data)
    model = make_student(study, arm, seed, processor, work / WARM_UP)
    about = ("questions", "flat") if study.rehearsed_questions else ("questions",)
    rooms = StoredRooms(data / "train", view="black" if arm == "blind" else "clip", about=about)
    return make_trainer(
        study, work / f"{arm}-{seed}", model, processor, rooms, seed, steps, workers,
        per_device_train_batch_size=study.clips_per_batch, max_questions_per_clip=rooms.per_room,
    )  # fmt: skip


def train(
    study: Study, arm: str, seed: int, data: Path, work: Path, deadline: float, workers: int
) -> tuple[GeoVRTrainer, Clock]:
    """Train one arm, or go on with it.

    Args:
        study ([`Study`]): The settings.
        arm (`str`): One of `ARMS`.
        seed (`int`): Of the heads and of the order of rooms and questions: the same order for every arm.
        data (`Path`): Folder of the rendered sets.
        work (`Path`): Folder of the warm-up and of checkpoints, on the machine's own disk.
        deadline (`float`): Unix time at which training stops and saves.
        workers (`int`): Processes that prepare batches.

    Returns:
        `tuple[GeoVRTrainer, Clock]`: `clock.out_of_time` says that the arm is not finished.
    """
    folder, steps = work / f"{arm}-{seed}", study.steps_of(arm)
    folder.mkdir(parents=True, exist_ok=True)
    trainer = make_arm(study, arm, seed, data, work, steps, workers)
    curve_rooms = StoredRooms(data / "test", study.curve_rooms)
    every = max(steps // study.curve_points, 1)
    clock = Clock(folder, deadline, every, lambda: mean_scores(answer(trainer, curve_rooms, 0)))
    finished = folder / "finished"
    if finished.exists():  # and cut off before its result was written
        trainer.model.load_state_dict(load_file(finished / "model.safetensors"), strict=False)
        trainer.state = TrainerState.load_from_json(str(finished / "trainer_state.json"))
    elif steps:
        trainer.add_callback(clock)
        trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))
        if not clock.out_of_time:
            with atomic_path(finished) as temporary:
                trainer.save_model(str(temporary))
                trainer.state.save_to_json(str(temporary / "trainer_state.json"))
    return trainer, clock
