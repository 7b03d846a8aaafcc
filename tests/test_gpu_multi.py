"""Two GPUs with each launch configuration train what one GPU trains, and save what everybody can load."""

import importlib.util

import pytest
import torch
from multi_process import launch
from sharded_run import CASES, compare, write_start
from test_multi_process import needs_deepspeed


pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
# `geovr train` reads its rows by `datasets`.
COMMAND = ["command"] if importlib.util.find_spec("datasets") is not None else []


@pytest.fixture(scope="module")
def one_gpu(tmp_path_factory):
    """Where all runs start from, and what one GPU makes of it."""
    start, folder = write_start(tmp_path_factory.mktemp("start")), tmp_path_factory.mktemp("one_gpu")
    launch("ddp", folder, "sharded_run.py", folder, start, *CASES, *COMMAND, processes=1)
    return start, folder


@pytest.mark.parametrize(
    "config",
    ["ddp", "fsdp2", pytest.param("zero2", marks=needs_deepspeed), pytest.param("zero3", marks=needs_deepspeed)],
)
def test_two_gpus_train_what_one_does(config, tmp_path, one_gpu):
    start, alone = one_gpu
    launch(config, tmp_path, "sharded_run.py", tmp_path, start, *CASES, "resumed", *COMMAND)
    # FlexAttention's kernels compute in TF32, and where a row lies in its batch decides how they cut it. ZeRO-3 draws
    # fresh heads on the GPU, all others on the CPU.
    compare(alone, tmp_path, start, list(CASES), loss=2e-3, update=3e-2, same_heads=config != "zero3")
