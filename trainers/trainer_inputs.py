"""What a trainer is given, checked before anything is trained."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.utils import logging

from geovr_hf.modeling.processing_geovr import GeoVRProcessor
from geovr_hf.modeling.targets_geovr import GeometryTargets
from geovr_hf.trainers.conversation import check_frames
from geovr_hf.trainers.data_collator import GeoVRAnswerCollator, GeoVRDataCollator
from geovr_hf.trainers.geovr_training_args import GeoVRTrainingArguments
from geovr_hf.trainers.packed_collator import GeoVRPackedDataCollator


logger = logging.get_logger(__name__)


def check_arguments(args: Any, expected: type[TrainingArguments], teacher: Any, compute_loss_func: Any = None) -> None:
    """Check the kinds of what a trainer is given beside model and rows.

    Args:
        args (`Any`): The arguments.
        expected (`type`): What they must be.
        teacher (`Any`): The online teacher, or `None`.
        compute_loss_func (`Callable`, *optional*): What transformers' trainers take and ours do not.

    Raises:
        ValueError: The arguments are of another kind, the teacher cannot be asked, or there is a function for losses.
    """
    if not isinstance(args, expected):
        raise ValueError(
            f"`args` must be `{expected.__name__}`, got `{type(args).__name__}`. It takes the same arguments "
            f"and those of GeoVR: `{expected.__name__}(output_dir=..., ...)`."
        )
    if teacher is not None and not callable(getattr(teacher, "targets", None)):
        raise ValueError(
            f"`teacher` must have a method `targets(frames)`, got {type(teacher).__name__}. Wrap it in a class that "
            "has, or take one of `geovr_hf.teachers.load_teacher`."
        )
    if compute_loss_func is not None:
        raise ValueError(
            "`compute_loss_func` would be passed over: the model computes its losses. Override `compute_loss`, as in "
            "docs/extending.md."
        )


def check_model(model: Any, processor: GeoVRProcessor | None = None) -> None:
    """Check that a model is one of GeoVR, and the processor its own.

    Args:
        model (`Any`): The model, perhaps with adapters.
        processor ([`GeoVRProcessor`], *optional*): The processor.

    Raises:
        ValueError: The model is none of GeoVR, or the processor's geometry tokens are not the model's.
    """
    config = getattr(model, "config", None)
    if not hasattr(config, "geometry_token_ids"):
        given, name = ("the text ", repr(model)) if isinstance(model, str) else ("a ", type(model).__name__)
        raise ValueError(
            f"`model` must be a `GeoVRForConditionalGeneration`, got {given}{name}. Load it by "
            "`GeoVRForConditionalGeneration.from_pretrained`, which also gives plain Qwen3-VL weights heads "
            "(`objectives=[]`: none), or pass a `model_init` that does."
        )
    if processor is not None:
        token_ids = getattr(processor, "geometry_token_ids", None)
        if token_ids != config.geometry_token_ids:
            raise ValueError(
                f"The processor's geometry tokens have the ids {token_ids}, the model's configuration says "
                f"{config.geometry_token_ids}. Use the `GeoVRProcessor` saved with the model, or set "
                "`camera_first_token_id`, `camera_token_id` and `scale_token_id` of the configuration."
            )


def check_inputs(args: GeoVRTrainingArguments, data_collator: Any, teacher: Any) -> None:
    """Check that arguments, collator and teacher of a [`GeoVRTrainer`] fit together.

    Args:
        args ([`GeoVRTrainingArguments`]): The arguments.
        data_collator (`Callable`): The collator of the rows.
        teacher (`Teacher`, *optional*): The online teacher.

    Raises:
        ValueError: It does not. The message names the cure.
    """
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs in one process cannot share a batch of clips. Start one process per GPU by "
            "`torchrun` or `accelerate launch`, or choose one GPU by CUDA_VISIBLE_DEVICES."
        )
    if isinstance(data_collator, GeoVRDataCollator):
        args.check_collator(data_collator)
        if teacher is not None and not (data_collator.keep_frames and data_collator.geometry_tokens):
            raise ValueError(
                "A `teacher` needs the frames and geometry tokens: "
                "`GeoVRDataCollator(processor, keep_frames=True, geometry_tokens=True)`."
            )
    elif args.eval_answers:
        raise ValueError(
            "`eval_answers=True` needs a `GeoVRDataCollator`, which can pose questions without their answers. Use "
            "one, or set `eval_answers=False`."
        )


def decide_packing(args: GeoVRTrainingArguments, data_collator: Any, trainer_class: type[Trainer]) -> None:
    """Switch packing on or off, in place, where the arguments leave it open: on where it does what `False` does.

    Args:
        args ([`GeoVRTrainingArguments`]): The arguments.
        data_collator (`Callable`): The collator of the rows.
        trainer_class (`type`): The trainer's class.

    Raises:
        ValueError: Packing is on and cannot do what collator, trainer or arguments want of it, or it is off and
            arguments need it. The message names them.
    """
    obstacle = _packing_obstacle(data_collator, trainer_class)
    if args.packing and obstacle is not None:
        raise ValueError(f"`packing=True` {obstacle}, or set `packing=False`.")
    if args.packing is None:
        args.packing = obstacle is None and args.device.type in ("cuda", "cpu")
        if not args.packing and args.activation_checkpointing is None:
            args.activation_checkpointing = True
        if obstacle is not None and (args.max_questions_per_clip > 1 or args.max_question_tokens is not None):
            raise ValueError(
                f"`max_questions_per_clip` and `max_question_tokens` need packing, which {obstacle}, or leave them "
                "out."
            )
        if obstacle is not None and isinstance(data_collator, GeoVRDataCollator):
            logger.warning(f"Training batches are not packed: packing {obstacle}, or set `packing=False`.")
    if args.packing:
        _refuse_what_packing_passes_over(args)


def _packing_obstacle(data_collator: Any, trainer_class: type[Trainer]) -> str | None:
    """Why batches cannot be packed and what would help, as the end of a sentence about packing."""
    if not isinstance(data_collator, GeoVRDataCollator):
        return "needs a `GeoVRDataCollator`. Use one"
    if _forgets(data_collator, "for_packing"):
        return (
            f"would train without what `{type(data_collator).__name__}` overrides. Override its `for_packing`, too, "
            "to return a `GeoVRPackedDataCollator` that does the same"
        )
    if trainer_class._get_train_sampler is not Trainer._get_train_sampler:
        return (
            f"would draw batches by clip, not by the `_get_train_sampler` that `{trainer_class.__name__}` overrides. "
            "Override `get_train_dataloader` instead"
        )
    return None


def _refuse_what_packing_passes_over(args: GeoVRTrainingArguments):
    if args.train_sampling_strategy == "group_by_length":
        raise ValueError(
            '`train_sampling_strategy="group_by_length"` has no effect on packed rows, which are not padded. Leave it '
            '`"random"`, or set `packing=False`.'
        )
    if args.neftune_noise_alpha is not None:
        raise ValueError(
            "`neftune_noise_alpha` would scale the noise by the length of all rows of a packed batch together. Set "
            "`packing=False`."
        )
    if args.accelerator_config.split_batches:
        raise ValueError(
            '`accelerator_config={"split_batches": True}` cannot split packed rows. Leave it out, or set '
            "`packing=False`."
        )


def warn_without_targets(objectives: Sequence[str], clips: dict[str, torch.Tensor]) -> None:
    """Say so if a model has geometric objectives and no clip of an update has the target of any.

    Args:
        objectives (`Sequence[str]`): The model's objectives.
        clips (`dict[str, torch.Tensor]`): For each, clips of the update that have its target.
    """
    if objectives and not sum(clips[name] for name in objectives):
        logger.warning(
            f"No clip of the first update has a geometric target, of {', '.join(objectives)}. If that goes on, "
            "language alone is learnt and the heads stay random: give rows `geometry_targets`, data sets or the "
            "trainer a `teacher`, or the model `objectives=[]`."
        )


def complete_targets(
    teacher: Any, frames: Sequence[torch.Tensor | None], targets: Sequence[GeometryTargets | None]
) -> list[GeometryTargets | None]:
    """Ask an online teacher about those clips of a batch that have frames and no targets; see [`ask_teacher`]."""
    return [
        ask_teacher(teacher, clip, f"clip {number} of the batch") if target is None and clip is not None else target
        for number, (clip, target) in enumerate(zip(frames, targets, strict=True))
    ]


def ask_teacher(teacher: Any, frames: torch.Tensor, name: str) -> GeometryTargets | None:
    """Ask an online teacher about a clip, and check what it says as the targets of rows are checked.

    Args:
        teacher (`Teacher`): An object with `targets(frames)`.
        frames (`torch.ByteTensor` of shape `(T, H, W, 3)`): The clip's frames.
        name (`str`): What errors call the clip.

    Returns:
        `GeometryTargets` or `None`: The targets, if the teacher has any.

    Raises:
        ValueError: They are not what the losses can take. The message names clip and teacher.
    """
    targets = teacher.targets(frames)
    if targets is None:
        return None
    name = f"{name}, set by the teacher `{type(teacher).__name__}`,"
    if not isinstance(targets, GeometryTargets):
        raise ValueError(f"The targets of {name} must be `GeometryTargets`, got {type(targets).__name__}.")
    # This waits for the device, once per clip that was asked about: little beside a teacher's network, while targets
    # that are not finite would reach the weights and destroy them.
    targets.validate(name)
    check_frames(targets, frames, name)
    return targets


@contextmanager
def training_collator(trainer: Trainer) -> Iterator[None]:
    """Context in which a trainer's collator is that for training: transformers makes all its loaders with the same."""
    given = trainer.data_collator
    if isinstance(given, GeoVRDataCollator):
        trainer.data_collator = given.for_training()
    try:
        yield
    finally:
        trainer.data_collator = given


def answer_collator(data_collator: GeoVRDataCollator, geometry_tokens: bool) -> GeoVRAnswerCollator:
    """The collator that poses questions in evaluation, with a warning if it does not do what a subclass overrides."""
    if _forgets(data_collator, "for_answering"):
        logger.warning_once(
            f"Questions are posed without what `{type(data_collator).__name__}` overrides. Override its "
            "`for_answering`, too, if that changes what the model reads, or set `eval_answers=False`."
        )
    return data_collator.for_answering(geometry_tokens)


def _forgets(data_collator: GeoVRDataCollator, method: str) -> bool:
    """Whether the collator that a method makes is not of a subclass that may have overridden anything."""
    made = type(data_collator)
    ours = made in (GeoVRDataCollator, GeoVRPackedDataCollator)
    return not ours and getattr(made, method) is getattr(GeoVRDataCollator, method)
