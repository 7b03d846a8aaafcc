"""Progress on one line."""

from transformers import PrinterCallback, ProgressCallback, Trainer


SHOWN = {
    "lm_loss": "language",
    "camera_loss": "camera",
    "depth_loss": "depth",
    "scale_loss": "scale",
    "alignment_loss": "alignment",
}


class OneLineProgress(ProgressCallback):
    """transformers' progress bars, with the latest losses behind the training bar instead of a line for each log."""

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the bar and name it."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description("Training")

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        """Advance the evaluation bar and name it."""
        super().on_prediction_step(args, state, control, eval_dataloader=eval_dataloader, **kwargs)
        if self.prediction_bar is not None:
            self.prediction_bar.set_description("Evaluating")

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Show the losses of the window."""
        losses = {title: f"{logs[name]:.2f}" for name, title in SHOWN.items() if name in (logs or {})}
        if losses and self.training_bar is not None:
            self.training_bar.set_postfix(losses)


def show_one_line(trainer: Trainer) -> None:
    """Replace a trainer's own progress display by [`OneLineProgress`], or by none if its arguments disable it."""
    for display in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(display)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(OneLineProgress)
