"""Rooms rendered once, by all cores, into arrays on disk.

A clip of 8 frames of 96 x 128 pixels takes 0.5 MB: 20,000 of them 10 GB. Rendering stops and goes on where it stopped:
a chunk counts from the moment its words are there, which are written last.
"""

import json
import multiprocessing
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from geovr_hf.data.rooms import Question, render_clip
from geovr_hf.data.rooms.clips import find_room
from geovr_hf.data.rooms.targets import geometry_targets
from geovr_hf.visualization.atomic_files import atomic_path

from .flat_questions import Sights, ask_flat_questions, names_in, sights_of
from .grounding import COLUMN, shown_in_tokens, token_shares
from .settings import Rooms, Study


CHUNK = 40  # rooms of a worker's task
_SHOWN = 0.02  # least share of a frame's pixels for an object whose distance is asked of the probes


def render(study: Study, names: list[str], data: Path, workers: int) -> None:
    """Render what is missing of the named sets, one after the other.

    Raises:
        ValueError: A folder holds rooms of other settings.
    """
    tasks = []
    for name in names:
        rooms = study.sets()[name]
        _prepare(study, rooms, data / name)
        starts = range(0, rooms.count, CHUNK)
        tasks += [(name, start) for start in starts if not _words_file(data / name, start).exists()]
    task, bar = partial(_render_chunk, study, data), partial(tqdm, total=len(tasks), unit=f"{CHUNK} rooms")
    if workers <= 1 or len(tasks) <= 1:
        for _ in bar(map(task, tasks)):
            pass
        return
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read by workers as they start
    with multiprocessing.get_context("spawn").Pool(min(workers, len(tasks)), torch.set_num_threads, (1,)) as pool:
        for _ in bar(pool.imap_unordered(task, tasks)):
            pass


def _prepare(study: Study, rooms: Rooms, folder: Path) -> None:
    recipe = study.dataset(rooms).recipe
    made_by = (rooms, recipe.spec.fingerprint, recipe.image_size, recipe.depth_size, recipe.questions_per_room)
    made_by += (study.questions_per_frame,)
    facts = json.dumps({"name": rooms.name, "count": rooms.count, "made_by": repr(made_by)}, indent=2)
    marker = folder / "rooms.json"
    if not marker.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _allocate(study, rooms, folder)
        marker.write_text(facts)
    elif marker.read_text() != facts:
        raise ValueError(f"{folder} holds rooms of other settings. Choose another folder, or delete it.")


def _words_file(folder: Path, start: int) -> Path:
    return folder / f"words-{start:06d}.jsonl"


def _allocate(study: Study, rooms: Rooms, folder: Path) -> None:
    count, frames, grid, features = rooms.count, study.num_frames, study.token_grid, study.features
    shapes = {
        "frames": ((frames, *study.image_size, 3), np.uint8),
        "pose": ((frames, 9), np.float32),
        "depth": ((frames, *study.depth_size), np.float16),
        "scale": ((), np.float32),
        "features": ((features.num_layers, frames, *grid, features.hidden_size), np.float16),
        "object_cells": ((frames, *grid), np.float16),
        "object_distance": ((frames,), np.float32),
    }
    if rooms.named:
        shapes[COLUMN] = ((frames, *grid, 2), np.uint8)
    for name, (shape, dtype) in shapes.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(count, *shape)).flush()


def open_arrays(folder: Path, mode: str) -> dict[str, np.ndarray]:
    """The arrays of a set, mapped."""
    return {path.stem: np.load(path, mmap_mode=mode) for path in folder.glob("*.npy")}


def _render_chunk(study: Study, data: Path, task: tuple[str, int]) -> None:
    name, start = task
    rooms, folder = study.sets()[name], data / name
    recipe = study.dataset(rooms).recipe
    arrays, words = open_arrays(folder, "r+"), []
    for number in range(start, min(start + CHUNK, rooms.count)):
        key, room, asked = find_room(recipe.spec, rooms.seed, number, recipe.questions_per_room, recipe.question_types)
        clip, view = render_clip(recipe.spec, key, room, study.image_size)
        hits = room.caster.cast(room.walk.rays(study.depth_size))
        targets = geometry_targets(room.walk, hits, study.token_grid, study.features)
        cells, distance = _largest_objects(view, room, study.token_grid)
        values = {
            "frames": clip.frames,
            "pose": targets.pose_enc,
            # 0 is what was not hit; half precision keeps three digits.
            "depth": torch.where(targets.depth_confidence > 0, targets.depth, 0),
            "scale": targets.metric_scale,
            "features": torch.stack(targets.features),
            "object_cells": cells,
            "object_distance": distance,
        }
        spoken: dict[str, list[Question] | str] = {"questions": asked}
        if rooms.flat:
            sights, rng = sights_of(view, room), np.random.default_rng((rooms.seed, number))
            spoken["flat"] = _flat_questions(sights, rng, rooms.flat)
            if rooms.named:
                values[COLUMN] = shown_in_tokens(view, room, study.token_grid)
                of_frames = [ask_flat_questions([frame], rng, study.questions_per_frame) for frame in sights]
                spoken |= {f"frame-{place}": asked for place, asked in enumerate(of_frames) if asked}
                spoken["names"] = "\n".join(names_in(frame, rng) for frame in sights)
        for kind, value in values.items():
            arrays[kind][number] = np.asarray(value)
        words.append(spoken)
    with atomic_path(_words_file(folder, start)) as temporary:
        temporary.write_text("".join(json.dumps(room, default=asdict) + "\n" for room in words))


def _flat_questions(sights: Sights, rng: np.random.Generator, count: int) -> list[Question]:
    questions = ask_flat_questions(sights, rng, count)
    if questions is None:
        raise RuntimeError(f"A clip shows too little for {count} flat questions. Ask fewer.")
    return questions


def _largest_objects(view, room, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Share of each cell that each frame's largest object covers, `(T, h, w)`, and its distance in metres, `(T,)`.

    The distance is the mean over its pixels; NaN, and no cell, where no object covers enough of the frame.
    """
    frames = len(view.instances)
    cells, distances = np.zeros((frames, *grid)), np.full(frames, np.nan)
    for frame, labels in enumerate(view.instances):
        counts = np.bincount(labels.ravel(), minlength=2)
        counts[0] = 0
        label = int(counts.argmax())
        if counts[label] < _SHOWN * labels.size:
            continue
        mask = labels == label
        rays = view.hits.points[frame][mask] - room.walk.room_from_cam[frame, :3, 3]
        distances[frame] = np.linalg.norm(rays, axis=1).mean()
        cells[frame] = token_shares(mask, grid)
    return cells, distances
