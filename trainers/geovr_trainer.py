"""The trainer: transformers' own, with GeoVR's losses, learning rates and evaluation."""

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from accelerate.data_loader import IterableDatasetShard
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback, set_seed
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging

from geovr_hf.modeling.packed_layout_geovr import PackedLayout
from geovr_hf.modeling.processing_geovr import GeoVRProcessor
from geovr_hf.modeling.targets_geovr import GeometryTargets
from geovr_hf.trainers.activation_memory import must_checkpoint
from geovr_hf.trainers.carded import Carded
from geovr_hf.trainers.compilation import compile_layers
from geovr_hf.trainers.data_collator import GeoVRDataCollator
from geovr_hf.trainers.evaluation import Answer, answer_questions
from geovr_hf.trainers.geovr_training_args import GeoVRTrainingArguments
from geovr_hf.trainers.metrics import GEOMETRY_ERRORS, average_scores, geometry_errors, name_geometry_means
from geovr_hf.trainers.packed_loader import packed_loader
from geovr_hf.trainers.packed_training import fastest_attention, prepare_attention
from geovr_hf.trainers.parameter_groups import freeze_parameters, split_parameter_groups
from geovr_hf.trainers.peft import add_adapters, check_adapted
from geovr_hf.trainers.process_group import release_process_group
from geovr_hf.trainers.raw_pixels import PixelScaler
from geovr_hf.trainers.resumable import Resumable
from geovr_hf.trainers.running_means import RunningMeans
from geovr_hf.trainers.sharding import PrefetchTrainedLayers, may_compile, prepare_sharding, save_gradient_copies
from geovr_hf.trainers.trainer_inputs import (
    answer_collator,
    check_arguments,
    check_inputs,
    check_model,
    complete_targets,
    decide_packing,
    training_collator,
    warn_without_targets,
)


if TYPE_CHECKING:
    from peft import PeftConfig

logger = logging.get_logger(__name__)

# Each loss the model reports, and what it is a mean of: supervised tokens, or clips with the target of an objective.
LOSS_ITEMS = {
    "lm_loss": "tokens",
    "camera_loss": "camera",
    "translation_loss": "camera",
    "rotation_loss": "camera",
    "fov_loss": "camera",
    "depth_loss": "depth",
    "depth_regression_loss": "depth",
    "depth_gradient_loss": "depth",
    "scale_loss": "scale",
    "alignment_loss": "alignment",
}
ITEMS = tuple(dict.fromkeys(LOSS_ITEMS.values()))
LOSS_WEIGHTS = (
    "lm_loss_weight",
    "camera_loss_weight",
    "depth_loss_weight",
    "scale_loss_weight",
    "alignment_loss_weight",
)


class GeoVRTrainer(Carded, Resumable, Trainer):
    r"""Trains a GeoVR model on conversations about clips, and on the geometry of those clips.

    The language loss is a mean over the supervised tokens, each geometric loss a mean over the clips that have its
    target, both over the whole batch of an update: neither accumulation nor the number of processes changes it.

    Ordinary logs contain every loss, averaged over the logging window and unweighted: `lm_loss`, `camera_loss` (and
    `translation_loss`, `rotation_loss`, `fov_loss`), `depth_loss` (and `depth_regression_loss`,
    `depth_gradient_loss`), `scale_loss`, `alignment_loss`; and `geometry_learning_rate`. Evaluation reports the same
    losses with `eval_` in front, each a mean over all tokens or clips of the set, with `eval_loss` as their weighted
    sum; the errors of the predicted geometry (those of [`~geovr_hf.trainers.metrics.geometry_errors`], with
    `scale_ratio` for the scale); and how well questions are answered: `answer_accuracy`, and the mean of every
    question type. The answers themselves, of the last evaluation with all its sets, are in `trainer.answers`.

    Arguments that are not listed are those of [`~transformers.Trainer`].

    Args:
        model ([`GeoVRForConditionalGeneration`] or [`~peft.PeftModel`], *optional*):
            The model, or instead of it `model_init`, which makes one for every training or trial of a search.
        args ([`GeoVRTrainingArguments`]):
            The arguments.
        data_collator (`Callable`, *optional*):
            Makes batches of rows, by default [`GeoVRDataCollator`].
        train_dataset (`Dataset`, *optional*):
            Decoded rows, see [`~geovr_hf.trainers.conversation.read_row`].
        eval_dataset (`Dataset` or `dict[str, Dataset]`, *optional*):
            The same for evaluation.
        processing_class ([`GeoVRProcessor`], *optional*):
            The processor, saved with every checkpoint. By default the collator's.
        teacher (*optional*):
            An object whose `targets(frames)` gives the [`GeometryTargets`] of a clip's uint8 frames `(T, H, W, 3)`. It
            is asked, during training, for clips that come without any. A clip that has some keeps them alone: the
            units of two sources differ.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapters to train, see [`~geovr_hf.trainers.peft.geovr_lora_config`].

    Raises:
        ValueError: Model, arguments or teacher of another kind, a processor whose geometry tokens are not the model's,
            adapters that would leave the heads untrained, nothing left to train, or several GPUs in one process.
    """

    _tag_names = ("geovr", "spatial-reasoning", "3d")

    # `compute_loss` divides by the items of the whole accumulated batch.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        args: GeoVRTrainingArguments | None = None,
        data_collator: Callable[[list[dict]], dict] | None = None,
        train_dataset=None,
        eval_dataset=None,
        processing_class: GeoVRProcessor | None = None,
        *,
        teacher=None,
        peft_config: "PeftConfig | None" = None,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs,
    ):
        check_arguments(args, GeoVRTrainingArguments, teacher, kwargs.get("compute_loss_func"))
        if data_collator is None:
            if processing_class is None:
                raise ValueError("Pass a `processing_class` (or a `data_collator`): rows need a processor.")
            data_collator = GeoVRDataCollator(processing_class, keep_frames=teacher is not None, **args.row_options())
        elif processing_class is None:
            processing_class = getattr(data_collator, "processor", None)
        check_inputs(args, data_collator, teacher)
        decide_packing(args, data_collator, type(self))

        set_seed(args.seed)  # transformers does it later, and adapters are drawn now
        self._prepare = partial(self._prepare_model, processor=processing_class, peft_config=peft_config)
        if model is not None or kwargs.get("model_init") is None:
            model = self._prepare(model, args)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            **kwargs,
        )
        if self.get_tp_size() * self.get_cp_size() * self.get_sp_size() > 1:
            raise ValueError("Tensor, context and sequence parallelism would split clips. Use DDP, FSDP or DeepSpeed.")
        prepare_sharding(self.accelerator, self.model)
        if self.is_fsdp_enabled:
            plugin = self.accelerator.state.fsdp_plugin
            self.add_callback(PrefetchTrainedLayers(plugin.transformer_cls_names_to_wrap))
            if plugin.activation_checkpointing:
                args.activation_checkpointing = False  # FSDP does it
        # Qwen3-VL says no, because its own loss does not count the items of accumulated batches.
        self.model_accepts_loss_kwargs = True
        self.teacher = teacher
        self.answers: list[Answer] = []
        self._losses = {mode: RunningMeans(tuple(LOSS_ITEMS)) for mode in ("train", "eval")}
        self._geometry_errors = RunningMeans(GEOMETRY_ERRORS)
        self._items_in_batch: dict[str, torch.Tensor] = {}
        self._geometry_learning_rate: float | None = None
        half = args.bf16 or self.model.dtype == torch.bfloat16
        pixel_dtype = torch.bfloat16 if half else torch.float32
        self._scale_pixels = PixelScaler(data_collator.processor, pixel_dtype) if args.packing else None

    def call_model_init(self, trial=None) -> nn.Module:
        """As in transformers; what `model_init` makes is prepared like a model that is passed."""
        model = self._prepare(super().call_model_init(trial), self.args)
        prepare_sharding(self.accelerator, model)
        return model

    @classmethod
    def _prepare_model(cls, model, args: GeoVRTrainingArguments, processor, peft_config) -> nn.Module:
        """Write the loss weights to the configuration, freeze, and add adapters."""
        check_model(model, processor)
        for name in LOSS_WEIGHTS:
            if getattr(args, name) is not None:
                setattr(model.config, name, getattr(args, name))
        if hasattr(model, "peft_config"):
            if peft_config is not None:
                raise ValueError("The model has adapters already. Pass either it or `peft_config`.")
            check_adapted(model, args)
        else:
            freeze_parameters(model, args)
            if peft_config is not None:
                model = add_adapters(model, peft_config, args)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError("Nothing is left to train: the model has no heads, and the arguments freeze the rest.")
        model.add_model_tags(list(cls._tag_names))
        if args.packing:
            prepare_attention(model)
        return compile_layers(model) if args.compile_layers and may_compile(args) else model

    # ---- optimization ----

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: DataLoader | None = None) -> nn.Module:
        model = super()._wrap_model(model, training, dataloader)
        save_gradient_copies(self.accelerator.ddp_handler)
        return model

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in transformers, with groups of their own for the heads and the geometry-token embedding."""
        if self.optimizer is None:
            optimizer = super().create_optimizer(model)
            split_parameter_groups(optimizer, self.model if model is None else model, self.args.geometry_learning_rate)
        return self.optimizer

    def _get_learning_rate(self) -> float:
        # Asked once per update, before the schedule moves on: the moment to remember the other rate.
        rates = [group["lr"] for group in self.optimizer.param_groups if group.get("geometry")]
        self._geometry_learning_rate = float(rates[0]) if rates else None
        return super()._get_learning_rate()

    # ---- batches ----

    def get_train_dataloader(self) -> DataLoader:
        """As in transformers; packed batches go by clip."""
        if not self.args.packing or self.train_dataset is None:
            with training_collator(self):
                return super().get_train_dataloader()
        collator = self.data_collator.for_packing(raw_pixels=True)
        tokenizer = self.processing_class.tokenizer
        size = self._train_batch_size
        return packed_loader(self.train_dataset, collator, self.args, tokenizer, self.accelerator, size)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch=None) -> torch.Tensor:
        """As in transformers, with the fastest attention, and checkpointing if the first batch demands it."""
        if not self.args.packing:
            return super().training_step(model, inputs, num_items_in_batch)
        self._decide_checkpointing(inputs)
        with fastest_attention():
            return super().training_step(model, inputs, num_items_in_batch)

    def _decide_checkpointing(self, inputs: dict[str, Any]):
        if self.args.activation_checkpointing is not None:
            return
        half = self.args.bf16 or self.args.fp16
        itemsize = self.model.dtype.itemsize - (1 if half and self.model.dtype == torch.float32 else 0)
        needed = must_checkpoint(self.model, inputs["input_ids"].numel(), itemsize)
        # All processes as one: where parameters are gathered for a layer, they must gather together.
        needed = self.accelerator.reduce(torch.tensor(int(needed), device=self.args.device)).item() > 0
        self.args.activation_checkpointing = needed
        if needed:
            self.model.activation_checkpointing_enable(self.args.activation_checkpointing_kwargs)
        logger.info(f"Activations are {'computed again' if needed else 'kept'} for the backward pass.")

    # ---- losses ----

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        """Collect the batches of one update, complete their targets, and count what their losses are means of."""
        batches = list(islice(epoch_iterator, num_batches))
        for batch in batches:
            self._ask_teacher(batch)
        return batches, self._get_num_items_in_batch(batches, device) if batches else None

    def _ask_teacher(self, batch: dict[str, Any]):
        frames = batch.pop("frames", None)
        if self.teacher is not None and frames is not None:
            batch["geometry_targets"] = complete_targets(self.teacher, frames, batch["geometry_targets"])

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        """Count supervised tokens and clips over the accumulated batches of all processes, in one reduction."""
        counts = torch.stack([self._count_items(batch, device) for batch in batch_samples]).sum(0)
        counts = self.accelerator.reduce(counts, reduction="sum")
        self._items_in_batch = dict(zip(ITEMS, counts, strict=True))
        if self.state.global_step == 0:
            warn_without_targets(self.model.config.objectives, self._items_in_batch)
        return self._items_in_batch["tokens"].clamp(min=1)

    @staticmethod
    def _count_items(batch: dict[str, Any], device: torch.device) -> torch.Tensor:
        """Items of one batch, in the order of `ITEMS`."""
        targets = [target for target in batch.get("geometry_targets") or [] if target is not None]
        clips = [sum(target.has(objective) for target in targets) for objective in ITEMS[1:]]
        layout = batch.get("layout")
        tokens = 0 if layout is None else len(layout.supervised)
        # Whole: to write a number into a tensor on the device would wait for it.
        counts = torch.tensor([tokens, *clips]).to(device, non_blocking=True)
        if layout is None and batch.get("labels") is not None:
            # The first token of a row is predicted from nothing.
            counts[0] = batch["labels"][:, 1:].ne(-100).sum()
        return counts

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ):
        """Run the model; its losses become this batch's share of the means over the whole accumulated batch.

        Args:
            model (`nn.Module`): The model, perhaps wrapped.
            inputs (`dict`): A batch.
            return_outputs (`bool`, *optional*, defaults to `False`): Return the model's output, too.
            num_items_in_batch (`torch.Tensor`, *optional*): Supervised tokens of the whole accumulated batch. Without,
                the losses are means over this batch.

        Returns:
            `torch.Tensor` of shape `()`, or it and the [`GeoVROutput`].
        """
        keep_columns = getattr(self.data_collator, "keep_columns", ())
        inputs = {name: value for name, value in inputs.items() if name not in keep_columns}
        if not self.model.training:
            inputs["output_geometry"] = inputs.get("geometry_targets") is not None
        if num_items_in_batch is not None:
            inputs["num_items_in_batch"] = num_items_in_batch
            inputs["num_clips_in_batch"] = {
                name: count.clamp(min=1) for name, count in self._items_in_batch.items() if name != "tokens"
            }
        outputs = model(**inputs)
        self._record_losses(inputs, outputs, whole_batch=num_items_in_batch is not None)
        if not self.model.training and inputs.get("geometry_targets"):
            self._record_geometry(inputs, outputs)
        # Gradients are averaged over the processes, whose losses are shares of one mean.
        loss = outputs.loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """As in transformers; pixels that came as bytes become what the model takes."""
        inputs = super()._prepare_inputs(inputs)
        return inputs if self._scale_pixels is None else self._scale_pixels(inputs)

    def _prepare_input(self, data: Any) -> Any:
        if isinstance(data, (GeometryTargets, PackedLayout)):
            return data.to(self.args.device)
        return super()._prepare_input(data)

    def _record_losses(self, inputs: dict[str, Any], outputs, whole_batch: bool):
        """Add this batch's losses to the running means: of updates in training, of tokens and clips in evaluation."""
        local = dict(zip(ITEMS, self._count_items(inputs, self.args.device), strict=True))
        whole = self._items_in_batch if whole_batch else local
        for name, item in LOSS_ITEMS.items():
            if name not in outputs:
                continue
            whole_items = whole[item].clamp(min=1)
            if self.model.training:
                # The shares of an update add up to one step, or to none if no clip has the target.
                self._losses["train"].add(name, outputs[name], count=local[item] / whole_items)
            else:
                self._losses["eval"].add(name, outputs[name] * whole_items, count=local[item])

    def _record_geometry(self, inputs: dict[str, Any], outputs):
        """Add the errors of this batch's predicted geometry to the running means."""
        for clip, target in enumerate(inputs["geometry_targets"]):
            if target is None:
                continue
            predictions = {
                name: outputs[name][clip] for name in ("pose_enc", "depth", "metric_scale") if name in outputs
            }
            for name, error in geometry_errors(target, **predictions).items():
                self._geometry_errors.add(name, error)

    def check_row(self, row: dict[str, Any]):
        """Send one decoded row through collator, teacher and model, so that what cannot work fails before training.

        With FSDP and DeepSpeed it does not reach the model, whose weights come to their places when training begins.

        Args:
            row (`dict`): A row of a data set.

        Raises:
            ValueError: What the collator, the teacher or the model say about it.
        """
        batch = self._prepare_inputs(self.data_collator([row]))
        self._ask_teacher(batch)
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            with torch.no_grad(), self.compute_loss_context_manager():
                self.model(**batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and with a training loss its components and the geometry learning rate.

        Args:
            logs (`dict[str, float]`): The values.
            start_time (`float`, *optional*): When training started.
        """
        if "loss" in logs:
            logs |= self._losses["train"].pop(self.accelerator)
            if self._geometry_learning_rate is not None:
                logs["geometry_learning_rate"] = self._geometry_learning_rate
        elif "train_loss" in logs:  # training is over: what came after its last log belongs to no window
            self._losses["train"].clear()
        super().log(logs, start_time)

    def window_state(self) -> dict[str, Any]:
        """The losses since the last log, for a checkpoint."""
        return self._losses["train"].state_dict()

    def load_window_state(self, state: dict[str, Any]):
        """Go on from the losses of a checkpoint."""
        self._losses["train"].load_state_dict(state)

    def end(self):
        """As in transformers, for the very end of a script. With the process group, its threads end here."""
        release_process_group(self)
        super().end()

    # ---- evaluation ----

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """As in transformers; of the output, only logits are gathered, and only where somebody asks for them."""
        self._ask_teacher(inputs)
        self._ignore_repeated_rows(inputs)
        if not prediction_loss_only:
            inputs["logits_to_keep"] = 0
        ignore_keys = [*(ignore_keys or ()), *self.model.config.keys_to_ignore_at_inference, *LOSS_ITEMS]
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def _ignore_repeated_rows(self, inputs: dict[str, Any]):
        """Leave nothing to measure in rows that were evaluated already: several processes' last batches have some."""
        rows, progress = inputs["input_ids"], self.accelerator.gradient_state
        if not progress.end_of_dataloader or progress.remainder <= 0:
            return
        new = max(0, progress.remainder - self.accelerator.process_index * len(rows))
        if inputs.get("labels") is not None:
            inputs["labels"] = inputs["labels"].clone()
            inputs["labels"][new:] = -100
        if inputs.get("geometry_targets"):
            num_clips = int((rows[:new] == self.model.config.scale_token_id).sum())
            rest = len(inputs["geometry_targets"]) - num_clips
            inputs["geometry_targets"] = [*inputs["geometry_targets"][:num_clips], *[None] * rest]

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """As in transformers; of several sets, `answers` holds those to all, one set after the other."""
        sets = self.eval_dataset if eval_dataset is None else eval_dataset
        if not isinstance(sets, dict):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        metrics, answers = {}, []
        for name, rows in sets.items():  # by its name, as transformers does, which keeps a loader of each
            chosen = name if eval_dataset is None else rows
            metrics |= self.evaluate(chosen, ignore_keys, f"{metric_key_prefix}_{name}")
            answers += self.answers
        self.answers = answers
        return metrics

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As in transformers, with the losses, geometric errors and answers of GeoVR among the metrics.

        Losses are means over all supervised tokens, or all clips that have the target, and `loss` is their sum, each
        times its weight: neither depends on how rows are cut into batches. A subclass with a `compute_loss` of its own
        keeps transformers' `loss`, a mean of the batches'.
        """
        self.answers = []
        self._losses["eval"].clear()
        self._geometry_errors.clear()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        metrics = self._losses["eval"].pop(self.accelerator)
        weights = {name.removesuffix("_weight"): getattr(self.model.config, name) for name in LOSS_WEIGHTS}
        if metrics and type(self).compute_loss is GeoVRTrainer.compute_loss:
            metrics["loss"] = sum(weight * metrics[name] for name, weight in weights.items() if name in metrics)
        metrics |= name_geometry_means(self._geometry_errors.pop(self.accelerator))
        if self.args.eval_answers:
            self.answers = self._answer(dataloader.dataset)
            metrics |= average_scores((answer.question_type, answer.score) for answer in self.answers)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def _answer(self, dataset) -> list[Answer]:
        if isinstance(dataset, IterableDatasetShard):  # prepared for this process already; preparing shards it again
            dataset = dataset.dataset
        dataloader = DataLoader(
            dataset,
            batch_size=self.args.eval_batch_size,
            collate_fn=answer_collator(self.data_collator, self.args.eval_geometry_tokens),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return answer_questions(
            self.model,
            self.processing_class.tokenizer,
            self.accelerator.prepare_data_loader(dataloader),
            self.accelerator,
            max_new_tokens=self.args.eval_max_new_tokens,
            show_progress=not self.args.disable_tqdm,
        )
