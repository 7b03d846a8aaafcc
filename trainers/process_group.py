"""The end of a run on several processes."""

from transformers import Trainer


def release_process_group(trainer: Trainer):
    """Let go of the process group, so that destroying it ends its threads.

    A gloo group ends its threads when its last holder lets go of it, and `DistributedDataParallel` is one. A thread
    that outlives `destroy_process_group` and has a tensor to release while the interpreter finalizes aborts a process
    that has done all its work: "terminate called without an active exception" (pytorch/pytorch#179291).

    Args:
        trainer ([`~transformers.Trainer`]): A trainer that is about to end. Its `model` stays.
    """
    trainer.model_wrapped = trainer.model
    trainer.accelerator.free_memory()
