"""Teachers beside a model that is shared out among processes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.integrations import deepspeed


_FSDP = "FSDP_CPU_RAM_EFFICIENT_LOADING"


@contextmanager
def whole_in_every_process() -> Iterator[None]:
    """Let `from_pretrained` load a network as if there were neither FSDP nor ZeRO-3.

    While one of them is configured it leaves out the weights in all processes but the first, or keeps a share in each,
    for a wrapper to make up for later. Nobody wraps a teacher.
    """
    fsdp, zero = os.environ.get(_FSDP), deepspeed._hf_deepspeed_config_weak_ref
    os.environ[_FSDP] = "false"
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = zero
        if fsdp is None:
            del os.environ[_FSDP]
        else:
            os.environ[_FSDP] = fsdp
