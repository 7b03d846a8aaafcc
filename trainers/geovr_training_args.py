"""Arguments of [`GeoVRTrainer`]: those of transformers, with the published recipe as defaults, and what GeoVR adds."""

import os
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available

from geovr_hf.trainers.reporters import check_reporters


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

        > Parameters of speed

        packing (`bool`, *optional*):
            Whether training batches are packed: no padding, and questions about one clip share its tokens (see
            [`~geovr_hf.trainers.packed_collator.GeoVRPackedDataCollator`]). It changes no loss. By default on with a
            [`GeoVRDataCollator`], and with a subclass that overrides its `for_packing`.
        max_questions_per_clip (`int`, *optional*, defaults to 1):
            Most questions about one clip that share a packed row. `per_device_train_batch_size` counts packed rows:
            clips, each with up to so many questions. 1, the published recipe, shares nothing.
        max_question_tokens (`int`, *optional*):
            Most tokens of the questions and answers of a packed row, all together.
        compile_layers (`bool`, *optional*, defaults to `False`):
            Compile decoder layers, vision blocks, the depth head and the dense losses, each by itself. The first
            steps take about a minute longer.

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
            Recompute activations in the backward pass. By default as the first batch demands: off if its activations
            take at most 60 % of the GPU memory that parameters, gradients and optimizer leave, see
            [`~geovr_hf.trainers.activation_memory.must_checkpoint`].
        logging_steps (`float`, *optional*, defaults to 10):
            Steps between logs.
        remove_unused_columns (`bool`, *optional*, defaults to `False`):
            Must stay off: the collator consumes columns that are no argument of the model.
        label_names (`list[str]`, *optional*, defaults to `["labels"]`):
            The batch entries that make evaluation compute a loss.
        logging_nan_inf_filter (`bool`, *optional*, defaults to `False`):
            Off, because asking each loss whether it is finite would make every step wait for the GPU. A loss that is
            not is logged as it is.
        dataloader_num_workers (`int`, *optional*):
            Processes that decode clips and read targets ahead of training. By default 8 with a GPU, fewer where
            there are fewer than 12 cores, else 0.
        dataloader_prefetch_factor (`int`, *optional*):
            Batches that each of them holds ready.
        accelerator_config (`dict`, *optional*):
            By default `{"dispatch_batches": False}`, as every process reads its own batches: a batch's pixels are no
            rows that one process could cut and send. With a GPU and pinned memory also `"non_blocking": True`: they
            travel to it while it works.
        ddp_find_unused_parameters (`bool`, *optional*, defaults to `False`):
            Every trainable parameter takes part in every step, so there is nothing to search for.

    Raises:
        ValueError: A combination that cannot work. The message names the arguments.
        ImportError: What `report_to` names is not installed.
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
    packing: bool | None = field(
        default=None, metadata={"help": "Pack training batches: no padding, shared clips. Default: on where possible."}
    )
    max_questions_per_clip: int = field(
        default=1, metadata={"help": "Most questions about one clip that share a packed row."}
    )
    max_question_tokens: int | None = field(
        default=None, metadata={"help": "Most tokens of the questions and answers of a packed row."}
    )
    compile_layers: bool = field(default=False, metadata={"help": "Compile layers and heads, each by itself."})

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
        metadata={
            "help": "Recompute activations in the backward pass. Default: as memory demands.",
            "nargs": "?",
            "const": True,
        },
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between logs."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Leave NaN and infinity out of logged losses; makes every step wait."}
    )
    dataloader_num_workers: int | None = field(
        default=None, metadata={"help": "Processes that prepare batches. Default: up to 8 with a GPU, else 0."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay off: the collator consumes columns the model does not."}
    )
    label_names: list[str] | None = field(
        default_factory=lambda: ["labels"],
        metadata={"help": "Batch entries that make evaluation compute a loss."},
    )
    accelerator_config: dict | str | None = field(
        default=None, metadata={"help": "Accelerate's options, a dict or a JSON file."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Search for unused parameters in every step: there are none."}
    )

    def __post_init__(self):
        """Refuse what cannot work, then fill in what depends on the machine."""
        self._refuse_impossible_combinations()
        if self.bf16 is None:
            self.bf16 = not self.use_cpu and not self.fp16 and is_torch_bf16_gpu_available()
        if self.dataloader_num_workers is None:
            on_gpu = torch.cuda.is_available() and not self.use_cpu
            self.dataloader_num_workers = min(8, max((os.cpu_count() or 1) - 4, 1)) if on_gpu else 0
        if self.accelerator_config is None:
            pinned = torch.cuda.is_available() and self.dataloader_pin_memory
            self.accelerator_config = {"dispatch_batches": False, "non_blocking": pinned}
        undecided = (
            self.activation_checkpointing is None and self.gradient_checkpointing is None
        )  # its deprecated name
        super().__post_init__()
        check_reporters(self.report_to)
        if undecided:  # which transformers takes for a no
            self.activation_checkpointing = True if self.packing is False else None

    def row_options(self) -> dict[str, Any]:
        """The options of [`GeoVRDataCollator`] that are arguments here."""
        return {name: getattr(self, name) for name in ROW_OPTIONS}

    def check_collator(self, collator: Any):
        """Check that these arguments and a collator do not say different things about rows.

        Args:
            collator ([`GeoVRDataCollator`]): The collator.

        Raises:
            ValueError: An argument that is set differs from the collator's.
        """
        for name, value in self.row_options().items():
            if value not in (getattr(collator, name), getattr(GeoVRTrainingArguments, name)):
                raise ValueError(
                    f"The arguments say `{name}={value}`, the `data_collator` {getattr(collator, name)}. Give it to "
                    "the collator, or leave the collator to the trainer."
                )

    def _refuse_impossible_combinations(self):
        for name in (f.name for f in fields(self) if f.name.endswith("_loss_weight")):
            weight = getattr(self, name)
            if weight is not None and not 0 <= weight < float("inf"):
                raise ValueError(f"`{name}` must be zero or positive, got {weight}.")
        if self.geometry_learning_rate < 0:
            raise ValueError(f"`geometry_learning_rate` must be zero or positive, got {self.geometry_learning_rate}.")
        if self.max_questions_per_clip < 1:
            raise ValueError(f"`max_questions_per_clip` must be at least 1, got {self.max_questions_per_clip}.")
        if self.packing is False and (self.max_questions_per_clip > 1 or self.max_question_tokens is not None):
            raise ValueError("`max_questions_per_clip` and `max_question_tokens` need `packing=True`.")
        if self.torch_compile or self.torch_compile_backend or self.torch_compile_mode:
            raise ValueError(
                "`torch_compile` compiles the model as a whole, which takes minutes and breaks at every clip. Use "
                "`compile_layers=True`."
            )
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
