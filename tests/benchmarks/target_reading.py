"""What reading stored targets costs a loader's worker, and what each format changes in the losses.

    python tests/benchmarks/target_reading.py           # 32 frames, four layers of 1024 channels, depth of 392 x 504
    python tests/benchmarks/target_reading.py --tiny    # a check of the script itself

Needs no video, no GPU and none of datasets, PyAV and pyarrow. The reading is done in a process of its own with one
thread, as in a `DataLoader`. "read" is what `TargetFolder.targets` takes until every byte is in memory, file in the
page cache; "cold" the same with the file dropped from it, so that the disk is read; "check" what the collator does to
find NaN; "hand over" what it costs the worker to pass the targets on: a copy into shared memory, or for mapped ones
their file's name. Prints a table and one line of JSON.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from statistics import median

import torch

from geovr_hf.data import FrameSampling
from geovr_hf.modeling.losses_geovr import alignment_loss, depth_loss
from geovr_hf.modeling.map_tensors_geovr import map_tensors
from geovr_hf.targets import PRESETS, Manifest, TargetFolder, TargetFormat, TargetWriter
from geovr_hf.targets.mapped import MappedTargets


sys.path.insert(0, str(Path(__file__).parents[1]))
from targets_support import realistic_targets, spec  # noqa: E402  (a helper beside the tests)


FORMATS = {
    "full (bfloat16, float16)": PRESETS["full"],
    "8bit (int8, float16, uint4)": PRESETS["8bit"],
    "compact (int4, half size, uint4)": PRESETS["compact"],
    "float8, float16, uint4": TargetFormat(features="float8", confidence="uint4"),
    "float16": TargetFormat(features="float16"),
    "float32": TargetFormat("float32", "float32", "float32"),
}


def tensors_of(targets) -> list[torch.Tensor]:
    return [value for value in vars(targets).values() if isinstance(value, torch.Tensor)] + (targets.features or [])


def touch(targets) -> None:
    """Bring every page of all tensors into memory."""
    for tensor in tensors_of(targets):
        tensor.reshape(-1).view(torch.uint8)[:: os.sysconf("SC_PAGE_SIZE")].sum()


def hand_over(targets) -> None:
    """What the worker's side of a `DataLoader` does to pass targets on."""
    if isinstance(targets, MappedTargets):
        ForkingPickler.dumps(targets)
    else:
        map_tensors(targets, torch.Tensor.share_memory_)


def drop_from_memory(path: Path) -> None:
    """Take a file out of the page cache. Nobody may have it mapped."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def time_reading(folder: str, frames: torch.Tensor, repeats: int) -> dict[str, float]:
    """Median milliseconds of each part of reading, in this process."""
    teacher = TargetFolder(folder)
    path = teacher.files()[0]
    times = {"read": [], "cold": [], "check": [], "hand over": []}

    def timed(name, function, *arguments):
        start = time.perf_counter()
        result = function(*arguments)
        times[name].append(1e3 * (time.perf_counter() - start))
        return result

    def read():
        targets = teacher.targets(frames)
        touch(targets)
        return targets

    for _ in range(repeats):
        if hasattr(os, "posix_fadvise"):
            drop_from_memory(path)
            timed("cold", read)
        targets = timed("read", read)
        timed("check", targets.validate)
        timed("hand over", hand_over, targets)
        del targets
    return {name: median(values) for name, values in times.items() if values}


class HalfTrainedStudent:
    """A student whose outputs are the true targets with noise, and its losses."""

    def __init__(self, true):
        generator = torch.Generator().manual_seed(1)
        self.true = true
        self.features = [f + f.std((0, 1, 2)) * torch.randn(f.shape, generator=generator) for f in true.features]
        self.depth = true.depth * (1 + 0.1 * torch.randn(true.depth.shape, generator=generator))
        self.losses = self.alignment(true), depth_loss(self.depth, true.depth, true.depth_confidence).total

    def alignment(self, targets) -> float:
        """Mean over the layers."""
        pairs = zip(self.features, targets.features, strict=True)
        return sum(float(alignment_loss(mine, theirs)) for mine, theirs in pairs) / len(self.features)

    def loss_changes(self, stored) -> dict[str, float]:
        """How much the losses change with stored targets: alignment absolutely, depth in proportion."""
        alignment, loss = self.losses
        prediction = self.depth
        if stored.depth.shape != self.true.depth.shape:
            # The head emits maps of the stored size; here they are picked from the same pixels.
            size = stored.depth.shape[-2:]
            prediction, depth = (
                torch.nn.functional.interpolate(maps[:, None], size, mode="nearest-exact")[:, 0]
                for maps in (self.depth, self.true.depth)
            )
            loss = depth_loss(prediction, depth, (stored.depth_confidence > 0).float()).total
        back = depth_loss(prediction, stored.depth, stored.depth_confidence).total
        return {"alignment": self.alignment(stored) - alignment, "depth": float(back / loss - 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="two frames of small targets, to check the script")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--folder", help="where to write, to measure another disk (default: a temporary folder)")
    arguments = parser.parse_args()

    shape = {"frames": 2, "grid": (2, 2), "channels": 64} if arguments.tiny else {"frames": 32}
    true = realistic_targets(**shape)
    teacher = type("Stored", (), {"spec": spec(layers=4, channels=true.features[0].shape[-1]), "fingerprint": "x"})
    frames = torch.zeros(len(true.depth), 8, 8, 3, dtype=torch.uint8)
    student = HalfTrainedStudent(true)
    context = multiprocessing.get_context("spawn")
    results = {}
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as root,
        ProcessPoolExecutor(1, context, torch.set_num_threads, (1,)) as worker,
    ):
        for number, (name, target_format) in enumerate(FORMATS.items()):
            folder = Path(root) / str(number)
            start = time.perf_counter()
            path = TargetWriter(folder, Manifest.of(teacher, FrameSampling(), target_format)).write(frames, true)
            written = 1e3 * (time.perf_counter() - start)
            timing = worker.submit(time_reading, str(folder), frames, arguments.repeats).result()
            changes = student.loss_changes(TargetFolder(folder).targets(frames))
            results[name] = {"bytes": path.stat().st_size, "write": written, **timing, **changes}
            path.unlink()

    machine = platform.processor() or platform.machine()
    print(f"{machine}, {os.cpu_count()} cores, torch {torch.__version__}, {len(frames)} frames, ms are medians")
    columns = ("read", "cold", "check", "hand over", "write")
    print(f"{'':34}{'MB':>8}{''.join(f'{name:>11}' for name in columns)}{'alignment':>12}{'depth':>10}")
    for name, result in results.items():
        times = "".join(f"{result[column]:11.1f}" if column in result else f"{'-':>11}" for column in columns)
        print(f"{name:34}{result['bytes'] / 1e6:8.1f}{times}{result['alignment']:12.1e}{result['depth']:10.1e}")
    print(json.dumps({"machine": machine, "torch": torch.__version__, **vars(arguments), "results": results}))


if __name__ == "__main__":
    main()
