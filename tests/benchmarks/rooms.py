"""How fast synthetic rooms are made, on one core: seconds a clip by stage, and clips a second.

python tests/benchmarks/rooms.py --clips 50 --out rooms.json
"""

import argparse
import json
import platform
import time
from collections import defaultdict
from contextlib import contextmanager

import torch
from tqdm import tqdm

from geovr_hf.data.rooms import QUESTION_TYPES, FeatureSpec, RoomsDataset, clip_targets, render_clip
from geovr_hf.data.rooms.clips import find_room


class Stopwatch:
    """Wall and processor seconds of named stages. Processor seconds are what a free core would take."""

    def __init__(self):
        self.wall, self.cpu = defaultdict(float), defaultdict(float)

    @contextmanager
    def stage(self, name):
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[name] += time.perf_counter() - wall
        self.cpu[name] += time.process_time() - cpu


def measure(clips: int, num_frames: int, image_size: tuple[int, int], seed: int = 0) -> dict:
    recipe = RoomsDataset(1, seed, num_frames=num_frames, image_size=image_size, features=FeatureSpec()).recipe
    recipe.room_clip(clips)  # what is computed once a process: templates, noise
    watch = Stopwatch()
    for number in tqdm(range(clips), desc=f"{num_frames} x {image_size[0]} x {image_size[1]}", unit="clip"):
        with watch.stage("build, walk, ask"):
            key, room, _ = find_room(recipe.spec, seed, number, 8, QUESTION_TYPES)
        with watch.stage("render"):
            render_clip(recipe.spec, key, room, image_size)
        with watch.stage("targets"):
            clip_targets(room, image_size, recipe.depth_size, recipe.features)
    stages = {name: {"wall_s": watch.wall[name] / clips, "cpu_s": watch.cpu[name] / clips} for name in watch.wall}
    cpu = sum(stage["cpu_s"] for stage in stages.values())
    wall = sum(stage["wall_s"] for stage in stages.values())
    return {
        "num_frames": num_frames,
        "image_size": image_size,
        "depth_size": recipe.depth_size,
        "clips": clips,
        "stages": stages,
        "wall_s": wall,
        "cpu_s": cpu,
        "clips_per_cpu_second": 1 / cpu,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=50, help="clips of each size")
    parser.add_argument("--out", help="file for the figures, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [(8, (64, 96)), (8, (96, 128)), (16, (192, 256))]
    results = [measure(max(1, arguments.clips * 8 * 96 * 128 // (n * h * w)), n, (h, w)) for n, (h, w) in sizes]
    report = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__, "results": results}
    if arguments.out:
        with open(arguments.out, "w") as file:
            json.dump(report, file, indent=2)
    print(json.dumps(report))
    names = list(results[0]["stages"])
    print(f"| clip | {' | '.join(f'{name}, ms' for name in names)} | all, ms | clips/s |")
    print("|---|" + "---:|" * (len(names) + 2))
    for row in results:
        cells = [f"{1000 * row['stages'][name]['cpu_s']:.0f}" for name in names]
        size = f"{row['num_frames']} x {row['image_size'][0]} x {row['image_size'][1]}"
        print(f"| {size} | {' | '.join(cells)} | {1000 * row['cpu_s']:.0f} | {row['clips_per_cpu_second']:.1f} |")


if __name__ == "__main__":
    main()
