"""What a trainer adds to transformers' so that a killed run, resumed, is the run that was never killed."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerCallback, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length
from transformers.utils import logging

from geovr_hf.trainers.adapter_files import save_adapted_config
from geovr_hf.trainers.checkpoints import (
    UNFINISHED,
    find_fault,
    has_optimizer,
    newest_whole_checkpoint,
    place_model,
    publish,
    remove_unfinished,
    rotate,
)


logger = logging.get_logger(__name__)


class EpochEnd(TrainerCallback):
    """Tells whether the epoch has ended: of a checkpoint saved then, nothing at the end is to be done again."""

    is_over = False

    def on_epoch_begin(self, args, state, control, **kwargs):
        """An epoch begins."""
        self.is_over = False

    def on_epoch_end(self, args, state, control, **kwargs):
        """It ends; evaluation, if it is due, and saving come now."""
        self.is_over = True


class Resumable:
    """A mixin before a [`~transformers.Trainer`]: atomic checkpoints, and the places where its resuming is not exact.

    - A checkpoint gets its name when all processes have written all of it, and only then older ones go.
    - A model that is saved is there whole or not at all.
    - `train(resume_from_checkpoint=True)` finds the newest checkpoint that is whole.
    - The order of rows is that of the epoch also where accelerate does not reach the sampler (several processes), or
      the sampler draws one order after another (TRL's, or by length).
    - Streams go on in the epoch they were in, and clips that were trained on are not decoded again if the data set
      can leave them out (`pass_over`).
    - Workers get their seeds apart from what training draws.
    - What is logged is about the whole logging window, also of one that a checkpoint cuts in two.
    - A run that is resumed at its last step is over.
    """

    # Where a checkpoint is being written, and whether it is to be uploaded.
    _saving_in: Path | None = None
    _to_push = False
    _epochs: "EpochEnd | None" = None

    def train(self, resume_from_checkpoint: str | bool | None = None, trial=None, ignore_keys_for_eval=None) -> Any:
        """As in transformers; `True` resumes from the newest whole checkpoint of the output folder.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): A checkpoint, or whether to look for one.
            trial (*optional*): As in transformers.
            ignore_keys_for_eval (`list[str]`, *optional*): As in transformers.

        Raises:
            ValueError: There is none, or it is not whole.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = str(newest_whole_checkpoint(self.args.output_dir))
        elif resume_from_checkpoint and (fault := find_fault(resume_from_checkpoint)) is not None:
            raise ValueError(f"Cannot resume from {resume_from_checkpoint}: {fault}. Choose an earlier checkpoint.")
        if resume_from_checkpoint and not has_optimizer(resume_from_checkpoint):
            logger.warning(
                f"{resume_from_checkpoint} was saved without its optimizer (`save_only_model`): optimizer and "
                "learning rate start anew, so this is not the run that it was."
            )
        if self._epochs not in self.callback_handler.callbacks:
            self._epochs = EpochEnd()
            self.add_callback(self._epochs)
        return super().train(resume_from_checkpoint or None, trial, ignore_keys_for_eval)

    def window_state(self) -> dict[str, Any]:
        """What this process has collected for its next log, as JSON. For trainers that collect something."""
        return {}

    def load_window_state(self, state: dict[str, Any]):
        """Go on from what `window_state` gave."""

    # ---- saving ----

    def _save(self, output_dir: str | None = None, state_dict=None):
        folder = Path(self.args.output_dir if output_dir is None else output_dir)
        in_checkpoint = self._saving_in is not None  # which gets its name as a whole
        written = folder if in_checkpoint else folder / UNFINISHED / "model"
        if self.args.should_save and not in_checkpoint:  # every process comes here
            shutil.rmtree(written, ignore_errors=True)
        super()._save(str(written), state_dict)
        if self.args.should_save:
            save_adapted_config(self.model, written)
            if not in_checkpoint:
                place_model(written, folder)

    def _get_output_dir(self, trial) -> str:
        return super()._get_output_dir(trial) if self._saving_in is None else str(self._saving_in)

    def _save_checkpoint(self, model, trial):
        run_folder = Path(super()._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        written, checkpoint = run_folder / UNFINISHED / name, run_folder / name
        if self.is_local_process_zero():
            remove_unfinished(run_folder)
        self.accelerator.wait_for_everyone()
        self._saving_in, self._to_push = written.parent, False
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving_in = None
        best = self._best_checkpoint(run_folder)
        if best != self.state.best_model_checkpoint:
            self.state.best_model_checkpoint = best
            if self.args.should_save:
                self.state.save_to_json(str(written / TRAINER_STATE_NAME))
        self.accelerator.wait_for_everyone()  # all have written their part
        if self.args.should_save:
            publish(written, checkpoint)
            rotate(run_folder, self.args.save_total_limit, {checkpoint} | ({Path(best)} if best else set()))
        self.accelerator.wait_for_everyone()
        if self.is_local_process_zero():
            if written.exists():  # the part of this node, which shares no disk with the first
                publish(written, checkpoint)
            remove_unfinished(run_folder)
        if self._to_push:
            super()._push_from_checkpoint(str(checkpoint))

    def _best_checkpoint(self, run_folder: Path) -> str | None:
        """Where the best model is or, if it is the one being saved, will be: transformers looks where it is saved."""
        step = self.state.best_global_step
        best = run_folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        if step and (step == self.state.global_step or best.is_dir()):
            return str(best)
        return self.state.best_model_checkpoint

    def _push_from_checkpoint(self, checkpoint_folder: str):
        # An upload goes on in the background: only what keeps its name can be uploaded.
        self._to_push = True

    def _save_rng_state(self, output_dir: str):
        super()._save_rng_state(output_dir)
        progress = {
            "epoch_is_over": self._epochs.is_over,
            "logged_at": self._globalstep_last_logged,
            "loss": self._tr_loss.item(),
            "window": self.window_state(),
        }
        self._progress_path(output_dir).write_text(json.dumps(progress), encoding="utf-8")

    # ---- resuming ----

    def _load_rng_state(self, checkpoint: str | None):
        # Called once when training goes on, after all that resets these.
        super()._load_rng_state(checkpoint)
        progress = self._load_progress(checkpoint)
        if progress:
            self._globalstep_last_logged = progress["logged_at"]
            self._tr_loss += progress["loss"]
            self._total_loss_scalar -= progress["loss"]  # `train_loss` is about the steps since
            self.load_window_state(progress["window"])

    def _load_progress(self, checkpoint: str | None) -> dict[str, Any]:
        """What `_save_rng_state` saved for this process; nothing if there were fewer, or with `save_only_model`."""
        if checkpoint is None or not (path := self._progress_path(checkpoint)).exists():
            return {}
        return json.loads(path.read_text(encoding="utf-8"))

    def _progress_path(self, checkpoint: str) -> Path:
        rank = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        return Path(checkpoint, f"progress{rank}.json")

    def _init_training_state(
        self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
    ) -> tuple[int, int]:
        position = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if resume_from_checkpoint is None or has_length(self.train_dataset):
            return position
        # transformers takes the length of a stream for `max_steps`, in saying which epoch it is, too.
        saved = TrainerState.load_from_json(os.path.join(resume_from_checkpoint, TRAINER_STATE_NAME))
        epoch = max(0, math.ceil(saved.epoch or 0) - 1)
        batches = round(((saved.epoch or 0) - epoch) * saved.max_steps * self.args.gradient_accumulation_steps)
        if self._load_progress(resume_from_checkpoint).get("epoch_is_over"):
            return epoch + 1, 0
        return epoch, 0 if self.args.ignore_data_skip else batches

    def _run_epoch(
        self,
        *,
        epoch,
        train_dataloader,
        resume_from_checkpoint,
        epochs_trained,
        steps_trained_in_current_epoch,
        **kwargs,
    ):
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        self._draw_apart(train_dataloader, self.args.seed + epoch)
        goes_on = resume_from_checkpoint is not None and epoch == epochs_trained
        self._set_epoch(train_dataloader, epoch, first=goes_on)
        dataset = getattr(train_dataloader, "dataset", None)
        if goes_on and steps_trained_in_current_epoch and hasattr(dataset, "pass_over"):
            dataset.pass_over(epoch, steps_trained_in_current_epoch, train_dataloader.batch_size)
        super()._run_epoch(
            epoch=epoch,
            train_dataloader=train_dataloader,
            resume_from_checkpoint=resume_from_checkpoint,
            epochs_trained=epochs_trained,
            steps_trained_in_current_epoch=steps_trained_in_current_epoch,
            **kwargs,
        )

    def get_eval_dataloader(self, eval_dataset=None):
        """As in transformers."""
        loader = super().get_eval_dataloader(eval_dataset)
        self._draw_apart(loader, self.args.seed)
        return loader

    @staticmethod
    def _draw_apart(loader, seed: int):
        """Have a loader draw its workers' seed by itself.

        Whether it draws depends on whether its workers persist from another epoch. Dropout would feel that.
        """
        getattr(loader, "base_dataloader", loader).generator = torch.Generator().manual_seed(seed)

    def _set_epoch(self, loader, epoch: int, first: bool):
        """Have every sampler below a loader draw the order of an epoch, which is perhaps the first to be drawn."""
        sampler = getattr(loader, "batch_sampler", None)
        while sampler is not None:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
            elif hasattr(sampler, "generator"):
                if sampler.generator is None:  # it would draw as training does
                    sampler.generator = torch.Generator().manual_seed(self.args.seed)
                for _ in range(epoch if first else 0):  # let it draw the orders before
                    next(iter(sampler), None)
            sampler = getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)
