"""The loader of packed training batches: over rows by index, or over a stream."""

from collections.abc import Callable
from functools import partial

from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers.trainer_utils import seed_worker

from geovr_hf.trainers.clip_sampler import MarkedRows
from geovr_hf.trainers.geovr_training_args import GeoVRTrainingArguments
from geovr_hf.trainers.packed_collator import GeoVRPackedDataCollator, collate_apart, collate_groups
from geovr_hf.trainers.packed_training import clip_batches


def packed_loader(
    dataset: Dataset,
    collator: GeoVRPackedDataCollator,
    args: GeoVRTrainingArguments,
    tokenizer: Callable,
    accelerator: Accelerator,
    batch_size: int,
) -> DataLoader:
    """Make this process's loader.

    Args:
        dataset (`Dataset` or `IterableDataset`): The training rows. A stream that can group its rows by clip, by a
            method `grouped`, also deals them out to the processes itself.
        collator ([`GeoVRPackedDataCollator`]): Makes batches.
        args ([`GeoVRTrainingArguments`]): The arguments.
        tokenizer (`Callable`): The tokenizer, which counts tokens for `max_question_tokens`.
        accelerator (`Accelerator`): Prepares the loader.
        batch_size (`int`): Packed rows of a batch.

    Returns:
        `DataLoader`: Prepared.
    """
    workers = {
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory,
        "persistent_workers": args.dataloader_persistent_workers,
        "multiprocessing_context": args.dataloader_multiprocessing_context,
        "prefetch_factor": args.dataloader_prefetch_factor,
    }
    if not isinstance(dataset, IterableDataset):
        sampler = clip_batches(dataset, args, tokenizer, accelerator.num_processes, batch_size)
        seed = partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index)
        rows = MarkedRows(dataset)
        batches = DataLoader(rows, batch_sampler=sampler, collate_fn=collator, worker_init_fn=seed, **workers)
        return accelerator.prepare(batches)
    batched = {"batch_size": batch_size, "drop_last": args.dataloader_drop_last, **workers}
    if not hasattr(dataset, "grouped"):
        collate = partial(collate_apart, collator) if args.max_questions_per_clip == 1 else collator
        batches = DataLoader(dataset, collate_fn=collate, **batched)
        return accelerator.prepare(batches)
    stream = dataset.grouped(
        args.max_questions_per_clip,
        max_tokens=args.max_question_tokens,
        tokenizer=tokenizer,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    collate = partial(collate_groups, collator)
    # Prepared as if there were one process: accelerate would have each of them decode the others' clips.
    prepared = prepare_data_loader(
        DataLoader(stream, collate_fn=collate, **batched),
        args.device,
        num_processes=1,
        process_index=0,
        put_on_device=True,
        rng_types=[],
        dispatch_batches=False,
        non_blocking=accelerator.non_blocking,
    )
    accelerator._dataloaders.append(prepared)
    return prepared
