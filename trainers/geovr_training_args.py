"""Arguments of [`GeoVRTrainer`]: those of transformers, with the published recipe as defaults, and what GeoVR adds."""

from dataclasses import dataclass, field, fields
from typing import Any

from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available


ROW_OPTIONS = ("max_length", "assistant_only_loss", "completion_only_loss")


@dataclass
class GeoVRTrainingArguments(TrainingArguments):
    r"""Arguments of [`GeoVRTrainer`].

    Only what is new, or has another default than in [`~transformers.TrainingArguments`], is listed. The defaults are
    the published recipe (arXiv 2606.05833), whose eight clips per GPU and step are 2 x 4 accumulated.

    Args:
        > Parameters of the losses

        lm_loss_weight (`float`, *optional*):
            Weight of the language loss. As every weight here: `None` keeps the model configuration's, and a number is
            written to the configuration, so that the checkpoint tells how it was trained.
        camera_loss_weight (`float`, *optional*):
            Weight of the camera loss.
        depth_loss_weight (`float`, *optional*):
            Weight of the depth loss.
        scale_loss_weight (`float`, *optional*):
            Weight of the metric-scale loss.
        alignment_loss_weight (`float`, *optional*):
            Weight of the alignment loss.

        > Parameters of what is trained

        geometry_learning_rate (`float`, *optional*, defaults to 1e-4):
            Learning rate of the geometric heads and the geometry-token embedding. They start from scratch, so theirs
            is higher than the backbone's `learning_rate`; both follow the same schedule.
        freeze_vision_tower (`bool`, *optional*, defaults to `True`):
            Freeze the vision tower including its DeepStack mergers, but not its final merger.
        freeze_merger (`bool`, *optional*, defaults to `False`):
            Freeze the final merger, which maps patches to visual tokens.
        freeze_language_model (`bool`, *optional*, defaults to `False`):
            Freeze the language model including its embeddings and `lm_head`.

        > Parameters of the rows, as in TRL's `SFTConfig`, for the collator that the trainer makes

        max_length (`int`, *optional*):
            Longest row in tokens. A longer one is an error: cutting it would cut the clip.
        assistant_only_loss (`bool`, *optional*, defaults to `True`):
            Learn the assistant's turns alone.
        completion_only_loss (`bool`, *optional*):
            Of a `prompt` and `completion` row, learn the completion alone; by default yes.

        > Parameters of evaluation

        eval_answers (`bool`, *optional*, defaults to `True`):
            Whether evaluation also generates an answer to every question (greedily) and reports its accuracy.
        eval_max_new_tokens (`int`, *optional*, defaults to 16):
            Longest answer, in tokens.
        eval_geometry_tokens (`bool`, *optional*, defaults to `False`):
            Whether geometry tokens close the frames when questions are answered. Off, as in the published evaluation,
            where the model sees clips as the plain backbone does.

        > Parameters with other defaults than in transformers

        learning_rate (`float`, *optional*, defaults to 2e-5):
            Learning rate of the backbone.
        lr_scheduler_type (`str`, *optional*, defaults to `"cosine"`):
            Learning rate schedule.
        warmup_steps (`float`, *optional*, defaults to 0.03):
            Steps of warm-up, or below 1 their share of all steps.
        num_train_epochs (`float`, *optional*, defaults to 1):
            Epochs.
        per_device_train_batch_size (`int`, *optional*, defaults to 2):
            Rows per device and forward.
        per_device_eval_batch_size (`int`, *optional*, defaults to 2):
            Rows per device in evaluation.
        gradient_accumulation_steps (`int`, *optional*, defaults to 4):
            Forwards per update. How a batch is split into forwards changes nothing but speed and memory.
        bf16 (`bool`, *optional*):
            Train in bfloat16 mixed precision. By default on a GPU that has it, unless `fp16` is set or on the CPU.
        activation_checkpointing (`bool`, *optional*):
            Recompute activations in the backward pass. By default on: clips are long.
        logging_steps (`float`, *optional*, defaults to 10):
            Steps between logs.
        remove_unused_columns (`bool`, *optional*, defaults to `False`):
            Must stay off: the collator consumes columns that are no argument of the model.
        label_names (`list[str]`, *optional*, defaults to `["labels"]`):
            The batch entries that make evaluation compute a loss.
        accelerator_config (`dict`, *optional*, defaults to `{"dispatch_batches": False}`):
            Every process reads its own batches: a batch's pixels are no rows that one process could cut and send.
        ddp_find_unused_parameters (`bool`, *optional*, defaults to `False`):
            Every trainable parameter takes part in every step, so there is nothing to search for.

    Raises:
        ValueError: A combination that cannot work. The message names the arguments.
    """

    lm_loss_weight: float | None = field(
        default=None, metadata={"help": "Weight of the language loss. Default: the model configuration's."}
    )
    camera_loss_weight: float | None = field(
        default=None, metadata={"help": "Weight of the camera loss. Default: the model configuration's."}
    )
    depth_loss_weight: float | None = field(
        default=None, metadata={"help": "Weight of the depth loss. Default: the model configuration's."}
    )
    scale_loss_weight: float | None = field(
        default=None, metadata={"help": "Weight of the metric-scale loss. Default: the model configuration's."}
    )
    alignment_loss_weight: float | None = field(
        default=None, metadata={"help": "Weight of the alignment loss. Default: the model configuration's."}
    )

    geometry_learning_rate: float = field(
        default=1e-4, metadata={"help": "Learning rate of the geometric heads and the geometry-token embedding."}
    )
    freeze_vision_tower: bool = field(
        default=True, metadata={"help": "Freeze the vision tower and its DeepStack mergers, not its final merger."}
    )
    freeze_merger: bool = field(default=False, metadata={"help": "Freeze the vision tower's final merger."})
    freeze_language_model: bool = field(
        default=False, metadata={"help": "Freeze the language model, its embeddings and `lm_head`."}
    )

    max_length: int | None = field(default=None, metadata={"help": "Longest row in tokens; a longer one is an error."})
    assistant_only_loss: bool = field(default=True, metadata={"help": "Learn the assistant's turns alone."})
    completion_only_loss: bool | None = field(
        default=None, metadata={"help": "Learn the completion of a prompt alone. Default: yes."}
    )

    eval_answers: bool = field(
        default=True, metadata={"help": "Generate an answer to every question in evaluation and report the accuracy."}
    )
    eval_max_new_tokens: int = field(default=16, metadata={"help": "Longest generated answer, in tokens."})
    eval_geometry_tokens: bool = field(
        default=False, metadata={"help": "Close frames with geometry tokens when answering questions in evaluation."}
    )

    learning_rate: float = field(default=2e-5, metadata={"help": "Learning rate of the backbone."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(default=0.03, metadata={"help": "Warm-up steps; below 1, their share of all steps."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Number of training epochs."})
    per_device_train_batch_size: int = field(default=2, metadata={"help": "Rows per device and forward."})
    per_device_eval_batch_size: int = field(default=2, metadata={"help": "Rows per device in evaluation."})
    gradient_accumulation_steps: int = field(default=4, metadata={"help": "Forwards per update."})
    bf16: bool | None = field(
        default=None,
        metadata={"help": "bfloat16 mixed precision. Default: on where the GPU has it and `fp16` is not set."},
    )
    activation_checkpointing: bool | None = field(
        default=None,
        metadata={"help": "Recompute activations in the backward pass. Default: on.", "nargs": "?", "const": True},
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between logs."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay off: the collator consumes columns the model does not."}
    )
    label_names: list[str] | None = field(
        default_factory=lambda: ["labels"],
        metadata={"help": "Batch entries that make evaluation compute a loss."},
    )
    accelerator_config: dict | str | None = field(
        default_factory=lambda: {"dispatch_batches": False},
        metadata={"help": "Accelerate's options, a dict or a JSON file."},
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Search for unused parameters in every step: there are none."}
    )

    def __post_init__(self):
        """Refuse what cannot work, then fill in what depends on the machine."""
        self._refuse_impossible_combinations()
        if self.bf16 is None:
            self.bf16 = not self.use_cpu and not self.fp16 and is_torch_bf16_gpu_available()
        if self.activation_checkpointing is None and self.gradient_checkpointing is None:  # its deprecated name
            self.activation_checkpointing = True
        super().__post_init__()

    def row_options(self) -> dict[str, Any]:
        """The options of [`GeoVRDataCollator`] that are arguments here."""
        return {name: getattr(self, name) for name in ROW_OPTIONS}

    def _refuse_impossible_combinations(self):
        for name in (f.name for f in fields(self) if f.name.endswith("_loss_weight")):
            weight = getattr(self, name)
            if weight is not None and not 0 <= weight < float("inf"):
                raise ValueError(f"`{name}` must be zero or positive, got {weight}.")
        if self.geometry_learning_rate < 0:
            raise ValueError(f"`geometry_learning_rate` must be zero or positive, got {self.geometry_learning_rate}.")
        if self.eval_max_new_tokens < 1:
            raise ValueError(f"`eval_max_new_tokens` must be at least 1, got {self.eval_max_new_tokens}.")
        if self.remove_unused_columns:
            raise ValueError(
                "`remove_unused_columns=True` would drop the messages and targets before the collator sees them. "
                "Leave it `False`."
            )
        if self.label_smoothing_factor:
            raise ValueError(
                f"`label_smoothing_factor={self.label_smoothing_factor}` has no effect here, because the model "
                "computes its own losses. Leave it 0."
            )
        if self.use_liger_kernel:
            raise ValueError(
                "`use_liger_kernel=True` replaces the model's forward, and with it the geometric losses. Leave it "
                "`False`: logits are only computed where tokens are supervised, which saves the same memory."
            )
        if not self.average_tokens_across_devices:
            raise ValueError(
                "`average_tokens_across_devices=False` would weigh the tokens and clips of each process differently. "
                "Leave it `True`."
            )
