"""What packed training needs of model and data: attention, batches by clip, the fastest kernels."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import ConcatDataset, Dataset, Subset
from tqdm.auto import tqdm
from transformers.utils import logging

from geovr_hf.modeling.packed_attention_geovr import PER_FRAME, SHARED_PREFIX
from geovr_hf.modeling.processing_geovr import chat_words
from geovr_hf.trainers.clip_sampler import ClipBatchSampler, clip_keys
from geovr_hf.trainers.conversation import placed_messages
from geovr_hf.trainers.geovr_training_args import GeoVRTrainingArguments


logger = logging.get_logger(__name__)

# cuDNN's attention is the fastest on Hopper GPUs at the lengths of clips, FlashAttention 2 everywhere else.
KERNELS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
TEXTS_AT_ONCE = 1000


def prepare_attention(model) -> None:
    """Let a model take packed rows, in place. Other rows, evaluation and generation go through SDPA as before.

    Args:
        model (`PreTrainedModel` or `PeftModel`): The model.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model
    implementations = {"text_config": SHARED_PREFIX}
    if base.config.vision_config._attn_implementation == "sdpa":
        implementations["vision_config"] = PER_FRAME
    chosen = base.config.text_config._attn_implementation
    if chosen not in ("sdpa", SHARED_PREFIX):
        logger.warning(
            f"The language model attends by SDPA, not by the model's `attn_implementation={chosen!r}`, which knows no "
            "packed rows. `packing=False` keeps it."
        )
    base.set_attn_implementation(implementations)


def fastest_attention() -> AbstractContextManager:
    """Context in which SDPA takes the fastest kernels; around forward and backward, for these must agree."""
    if torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 9:
        return sdpa_kernel(KERNELS, set_priority=True)
    return nullcontext()


def clip_batches(
    dataset: Dataset, args: GeoVRTrainingArguments, tokenizer: Callable, num_processes: int, batch_size: int
) -> ClipBatchSampler:
    """Batches of packed rows for all processes, as the arguments want them.

    Args:
        dataset (`Dataset`): The training rows.
        args ([`GeoVRTrainingArguments`]): The arguments.
        tokenizer (`Callable`): The tokenizer, which counts tokens for `max_question_tokens`.
        num_processes (`int`): Processes that share the batches.
        batch_size (`int`): Packed rows of a batch, which `auto_find_batch_size` makes fewer than the arguments say.

    Returns:
        [`ClipBatchSampler`].
    """
    budget, lengths = args.max_question_tokens, None
    if budget is not None:
        lengths = question_lengths(dataset, tokenizer)
    return ClipBatchSampler(
        clip_keys(dataset) if args.max_questions_per_clip > 1 else [None] * len(dataset),
        clips_per_batch=batch_size,
        max_questions=args.max_questions_per_clip,
        lengths=lengths,
        max_tokens=budget,
        num_processes=num_processes,
        drop_last=args.dataloader_drop_last,
        shuffle=args.train_sampling_strategy != "sequential",
        seed=args.seed if args.data_seed is None else args.data_seed,
    )


def question_lengths(dataset: Dataset, tokenizer: Callable) -> list[int]:
    """Tokens of the words of each row, without decoding its clips.

    Args:
        dataset (`Dataset`): Rows that say their words by a method `words(index)`, with the chat template's own tokens
            if these are to count; or rows in a list; or such data sets joined, or subsets of them.
        tokenizer (`Callable`): The tokenizer.

    Returns:
        `list[int]`: A number per row.

    Raises:
        ValueError: The data set has no such method.
    """
    if isinstance(dataset, ConcatDataset):
        return [length for part in dataset.datasets for length in question_lengths(part, tokenizer)]
    if isinstance(dataset, Subset):
        lengths = question_lengths(dataset.dataset, tokenizer)
        return [lengths[index] for index in dataset.indices]
    if hasattr(dataset, "words"):
        words = dataset.words
    elif isinstance(dataset, (list, tuple)):
        words = partial(_words_in_list, dataset)
    else:
        raise ValueError(
            f"`max_question_tokens` needs the words of each row, but {type(dataset).__name__} has no method "
            "`words(index)`. Leave it out; `max_questions_per_clip` bounds a row, too."
        )
    lengths: list[int] = []
    for start in tqdm(range(0, len(dataset), TEXTS_AT_ONCE), desc="Counting tokens", leave=False):
        texts = [words(index) for index in range(start, min(start + TEXTS_AT_ONCE, len(dataset)))]
        lengths += map(len, tokenizer(texts, add_special_tokens=False)["input_ids"])
    return lengths


def _words_in_list(rows: Sequence[dict], index: int) -> str:
    return chat_words(placed_messages(rows[index], f"row {index}", needs_answer=False)[0])
