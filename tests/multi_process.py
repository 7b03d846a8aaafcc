"""Processes with a launch configuration, as `accelerate launch` would start them."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from geovr_hf.launch_configs import launch_config


ROOT = Path(__file__).parents[1]
GRACE = 3  # seconds for the others to end by themselves once one has failed


def launch(config: str, folder: Path, program: str, *arguments, processes: int = 2, timeout: int = 240) -> None:
    """Run a program of this folder in several processes.

    `accelerate launch` itself takes a configuration of GPUs only where there are some, so its own functions read the
    file here, and the processes are started by hand.

    Args:
        config: Name of the launch configuration.
        folder: Where the processes write what they print.
        program: File name of the program.
        *arguments: Its arguments.
        processes: Their number. A single one is told nothing of others, and sees one GPU.
        timeout: Seconds after which they are stopped.

    Raises:
        AssertionError: A process failed or did not end. The message is the end of what each printed.
    """
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "0"}
    if processes > 1:
        environment = launch_environment(config, processes) | {
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(free_port()),
        }
    paths = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests" / program), *map(str, arguments)]
    logs = [folder / f"process_{rank}.log" for rank in range(processes)]
    started = []
    try:
        for rank, log in enumerate(logs):
            with log.open("w") as output:
                own = environment | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {})
                started.append(
                    subprocess.Popen(command, env=own, stdout=output, stderr=output, start_new_session=True)
                )
        codes = wait_for(started, timeout)
        # The first to fail takes the others with it: what they all printed tells which that was.
        ends = [
            f"process {rank}, exit code {code}\n{log.read_text()[-3000:]}"
            for rank, (code, log) in enumerate(zip(codes, logs, strict=True))
        ]
        assert codes == [0] * processes, f"{config}: " + "\n".join(ends)
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def wait_for(processes: list[subprocess.Popen], timeout: int) -> list[int | None]:
    """Exit codes, once all have ended or one has failed; `None` for those that run on."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        codes = [process.poll() for process in processes]
        if None not in codes:
            return codes
        if any(codes):
            time.sleep(GRACE)
            break
        time.sleep(0.05)
    return [process.poll() for process in processes]


def launch_environment(config: str, processes: int) -> dict[str, str]:
    """What `accelerate launch --config_file` passes on to its processes. Precision is left to the program."""
    options = ["--config_file", str(launch_config(config)), "--num_processes", str(processes)]
    arguments = launch_command_parser().parse_args([*options, "--mixed_precision", "no", "program.py"])
    arguments, file, _ = _validate_launch_command(arguments)
    if not arguments.use_deepspeed:
        return prepare_multi_gpu_env(arguments)
    arguments.deepspeed_fields_from_accelerate_config = ",".join(file.deepspeed_config)
    return prepare_deepspeed_cmd_env(arguments)[1]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def is_sharded_run() -> bool:
    """Whether this process was launched for FSDP or DeepSpeed."""
    return any(os.environ.get(name) == "true" for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"))


def take_processes_for_gpus():
    """Accelerate offers FSDP and DeepSpeed to GPUs alone. PyTorch's FSDP2 and DeepSpeed themselves run on the CPU."""
    PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
