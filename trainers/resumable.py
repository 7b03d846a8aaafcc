"""What a trainer adds to transformers' so that a killed run, resumed, is the run that was never killed."""

import json
import math
import os
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length

from geovr_hf.trainers.checkpoints import (
    UNFINISHED,
    find_fault,
    newest_whole_checkpoint,
    publish,
    remove_unfinished,
    rotate,
)
from geovr_hf.trainers.running_means import RunningMeans


class Resumable:
    """A mixin before a [`~transformers.Trainer`]: atomic checkpoints, and the places where its resuming is not exact.

    - `train(resume_from_checkpoint=True)` finds the newest checkpoint that is whole.
    - Streams go on in the epoch they were in, and clips that were trained on are not decoded again if the data set
      can leave them out (`pass_over`).
    - The order of the epoch is restored on several processes, too, where accelerate does not reach the sampler.
    - The losses of a logging window that a checkpoint cuts in two are means over all of it.
    """

    # Means of the current logging window, saved and restored with a checkpoint.
    window_means: RunningMeans | None = None
    _saving_in: str | None = None
    _to_push: bool = False

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
            newest = newest_whole_checkpoint(self.args.output_dir)
            if newest is None:
                raise ValueError(f"Nothing to resume: {self.args.output_dir} holds no whole checkpoint.")
            resume_from_checkpoint = str(newest)
        elif resume_from_checkpoint and (fault := find_fault(resume_from_checkpoint)) is not None:
            raise ValueError(f"Cannot resume from {resume_from_checkpoint}: {fault}. Choose an earlier checkpoint.")
        return super().train(resume_from_checkpoint or None, trial, ignore_keys_for_eval)

    # ---- saving ----

    def _get_output_dir(self, trial) -> str:
        return super()._get_output_dir(trial) if self._saving_in is None else self._saving_in

    def _save_checkpoint(self, model, trial):
        run_folder = super()._get_output_dir(trial)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        saving_in, checkpoint = os.path.join(run_folder, UNFINISHED), os.path.join(run_folder, name)
        if self.args.should_save:
            remove_unfinished(Path(run_folder))
        self.accelerator.wait_for_everyone()
        self._saving_in, self._to_push = saving_in, False
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving_in = None
        best = self._best_checkpoint(run_folder)
        self.accelerator.wait_for_everyone()  # all have written their part
        if self.args.should_save:
            if best != self.state.best_model_checkpoint:
                self.state.best_model_checkpoint = best
                self.state.save_to_json(os.path.join(saving_in, name, TRAINER_STATE_NAME))
            publish(Path(saving_in, name), Path(checkpoint))
            keep = {Path(path) for path in (checkpoint, best) if path is not None}
            rotate(Path(run_folder), self.args.save_total_limit, keep)
            remove_unfinished(Path(run_folder))
        self.state.best_model_checkpoint = best
        self.accelerator.wait_for_everyone()
        if self._to_push:
            super()._push_from_checkpoint(checkpoint)

    def _best_checkpoint(self, run_folder: str) -> str | None:
        """Where the best model is or, if it is the one being saved, will be; transformers looks where it is saved."""
        step = self.state.best_global_step
        best = os.path.join(run_folder, f"{PREFIX_CHECKPOINT_DIR}-{step}")
        if step and (step == self.state.global_step or os.path.isdir(best)):
            return best
        return self.state.best_model_checkpoint

    def _push_from_checkpoint(self, checkpoint_folder: str):
        # An upload goes on in the background: only what keeps its name can be uploaded.
        self._to_push = True

    def _save_rng_state(self, output_dir: str):
        super()._save_rng_state(output_dir)
        window = {"logged_at": self._globalstep_last_logged, "loss": self._tr_loss.item()}
        if self.window_means is not None:
            window["means"] = self.window_means.state_dict()
        with open(self._window_path(output_dir), "w", encoding="utf-8") as file:
            json.dump(window, file)

    # ---- resuming ----

    def _load_rng_state(self, checkpoint: str | None):
        # Called once when training goes on, after all that resets these.
        super()._load_rng_state(checkpoint)
        if checkpoint is None or not os.path.exists(self._window_path(checkpoint)):
            return
        with open(self._window_path(checkpoint), encoding="utf-8") as file:
            window = json.load(file)
        self._globalstep_last_logged = window["logged_at"]
        self._tr_loss += window["loss"]
        self._total_loss_scalar -= window["loss"]  # `train_loss` is about the steps since
        if self.window_means is not None and "means" in window:
            self.window_means.load_state_dict(window["means"])

    def _window_path(self, checkpoint: str) -> str:
        rank = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        return os.path.join(checkpoint, f"logging_window{rank}.json")

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
        return epoch, 0 if self.args.ignore_data_skip else batches

    def _run_epoch(self, *, epoch, train_dataloader, epochs_trained, steps_trained_in_current_epoch, **kwargs):
        if self.state.global_step >= self.state.max_steps:  # resumed at its end; a stream would go on
            self.control.should_training_stop = True
            return
        sampler = getattr(train_dataloader, "batch_sampler", None)
        while sampler is not None:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
            sampler = getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)
        dataset = getattr(train_dataloader, "dataset", None)
        if epoch == epochs_trained and steps_trained_in_current_epoch and hasattr(dataset, "pass_over"):
            dataset.pass_over(epoch, steps_trained_in_current_epoch, train_dataloader.batch_size)
        super()._run_epoch(
            epoch=epoch,
            train_dataloader=train_dataloader,
            epochs_trained=epochs_trained,
            steps_trained_in_current_epoch=steps_trained_in_current_epoch,
            **kwargs,
        )
