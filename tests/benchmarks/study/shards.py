"""Rooms rendered once, by all cores, into arrays on disk; read as rows for the trainer.

A clip of 8 frames of 96 x 128 pixels takes 0.48 MB: 20,000 of them 9.6 GB. Rendering stops and goes on where it
stopped: a chunk counts from the moment its questions are there, which are written last.
"""

import json
import multiprocessing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from geovr_hf.data import Clip
from geovr_hf.data.rooms import Question, clip_targets, render_clip
from geovr_hf.data.rooms.clips import find_room
from geovr_hf.modeling import GeometryTargets
from geovr_hf.visualization.atomic_files import atomic_path

from .settings import Rooms, Study


CHUNK = 40  # rooms of a worker's task
_SHOWN = 0.02  # least share of a frame's pixels for an object whose distance is asked of the probes


def render(study: Study, rooms: Rooms, folder: Path, workers: int) -> None:
    """Render what is missing of a set.

    Raises:
        ValueError: The folder holds rooms of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = json.dumps({"rooms": asdict(rooms), "spec": study.dataset(rooms).spec.fingerprint}, indent=2)
    marker = folder / "rooms.json"
    if marker.exists() and marker.read_text() != facts:
        raise ValueError(f"{folder} holds rooms of other settings. Choose another folder, or delete it.")
    if not marker.exists():
        _allocate(study, rooms, folder)
        marker.write_text(facts)
    chunks = [start for start in range(0, rooms.count, CHUNK) if not _questions_file(folder, start).exists()]
    task = partial(_render_chunk, study, rooms, folder)
    with multiprocessing.get_context("spawn").Pool(max(1, min(workers, len(chunks)))) as pool:
        for _ in tqdm(pool.imap_unordered(task, chunks), total=len(chunks), desc=rooms.name, unit=f"{CHUNK} rooms"):
            pass


def _questions_file(folder: Path, start: int) -> Path:
    return folder / f"questions-{start:06d}.json"


def _allocate(study: Study, rooms: Rooms, folder: Path) -> None:
    recipe = study.dataset(rooms).recipe
    count, frames = rooms.count, study.num_frames
    grid = (recipe.depth_size[0] // 28, recipe.depth_size[1] // 28)
    features = recipe.features
    shapes = {
        "frames": ((frames, *study.image_size, 3), np.uint8),
        "timestamps": ((frames,), np.float64),
        "pose": ((frames, 9), np.float32),
        "depth": ((frames, *recipe.depth_size), np.float16),
        "scale": ((), np.float32),
        "features": ((features.num_layers, frames, *grid, features.hidden_size), np.float16),
        "object_cells": ((frames, *grid), np.float16),
        "object_distance": ((frames,), np.float32),
    }
    for name, (shape, dtype) in shapes.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(count, *shape)).flush()


def _open(folder: Path, mode: str) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path, mmap_mode=mode) for path in folder.glob("*.npy")}


def _render_chunk(study: Study, rooms: Rooms, folder: Path, start: int) -> None:
    torch.set_num_threads(1)
    recipe = study.dataset(rooms).recipe
    arrays, questions = _open(folder, "r+"), []
    for number in range(start, min(start + CHUNK, rooms.count)):
        key, room, asked = find_room(recipe.spec, rooms.seed, number, recipe.questions_per_room, recipe.question_types)
        clip, view = render_clip(recipe.spec, key, room, study.image_size)
        targets = clip_targets(room, study.image_size, recipe.depth_size, recipe.features)
        cells, distance = _largest_objects(view, room, arrays["object_cells"].shape[-2:])
        values = {
            "frames": clip.frames,
            "timestamps": clip.timestamps,
            "pose": targets.pose_enc,
            # 0 is what was not hit; half precision keeps three digits.
            "depth": torch.where(targets.depth_confidence > 0, targets.depth, 0),
            "scale": targets.metric_scale,
            "features": torch.stack(targets.features),
            "object_cells": cells,
            "object_distance": distance,
        }
        for name, value in values.items():
            arrays[name][number] = np.asarray(value)
        questions.append([{**asdict(question), "prompt": question.prompt} for question in asked])
    for array in arrays.values():
        array.flush()
    with atomic_path(_questions_file(folder, start)) as temporary:
        temporary.write_text(json.dumps(questions))


def _largest_objects(view, room, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Share of each cell that each frame's largest object covers, `(T, h, w)`, and its distance in metres, `(T,)`.

    The distance is the mean over its pixels; NaN, and no cell, where no object covers enough of the frame.
    """
    frames, height, width = view.instances.shape
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
        blocks = mask.reshape(grid[0], height // grid[0], grid[1], width // grid[1])
        cells[frame] = blocks.mean((1, 3))
    return cells, distances


class StoredRooms(Dataset):
    """Decoded rows of a rendered set, a question each; rows of one clip share its tensors.

    Args:
        folder (`Path`): What [`render`] wrote.
        rooms (`int`, *optional*): The first rooms only.
        view (`str`, *optional*): `clip`, `black` (frames without light) or `shuffled` (frames in a random order).

    Raises:
        ValueError: Rendering was not finished.
    """

    def __init__(self, folder: Path, rooms: int | None = None, view: str = "clip"):
        self.folder, self.view = Path(folder), view
        self.name = json.loads((self.folder / "rooms.json").read_text())["rooms"]["name"]
        stored = [json.loads(path.read_text()) for path in sorted(self.folder.glob("questions-*.json"))]
        self.asked = [asked for chunk in stored for asked in chunk]
        count = len(np.load(self.folder / "scale.npy", mmap_mode="r"))
        if len(self.asked) != count:
            raise ValueError(f"{folder} holds {len(self.asked)} of {count} rooms. Render the rest first.")
        self.num_rooms = count if rooms is None else min(rooms, count)
        self.per_room = len(self.asked[0])
        self._arrays: dict[str, np.ndarray] | None = None
        self._last: tuple[int, dict[str, Any], GeometryTargets] | None = None

    def __len__(self) -> int:
        return self.num_rooms * self.per_room

    def clip_key(self, index: int) -> int:
        """The room that row `index` is about."""
        return index // self.per_room

    def questions(self) -> list[Question]:
        """All questions, for guessers that read no frame."""
        return [
            Question(
                asked["question_type"],
                asked["text"],
                asked["answer"],
                None if asked["options"] is None else tuple(asked["options"]),
                tuple(asked["subjects"]),
            )
            for room in self.asked[: self.num_rooms]
            for asked in room
        ]

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the set, mapped; each process opens its own."""
        if self._arrays is None:
            self._arrays = _open(self.folder, "r")
        return self._arrays

    def __getitem__(self, index: int) -> dict[str, Any]:
        room, place = divmod(index, self.per_room)
        if self._last is None or self._last[0] != room:
            self._last = (room, *self._clip(room))
        _, content, targets = self._last
        asked = self.asked[room][place]
        return {
            "messages": [
                {"role": "user", "content": [content, {"type": "text", "text": asked["prompt"]}]},
                {"role": "assistant", "content": [{"type": "text", "text": asked["answer"]}]},
            ],
            "geometry_targets": targets,
            "id": f"{self.name}-{room}-{place}",
            "question_type": asked["question_type"],
            "answer": asked["answer"],
        }

    def _clip(self, room: int) -> tuple[dict[str, Any], GeometryTargets]:
        arrays = self.arrays()
        frames = torch.from_numpy(arrays["frames"][room].copy())
        if self.view == "black":
            frames = torch.zeros_like(frames)
        elif self.view == "shuffled":
            frames = frames[torch.randperm(len(frames), generator=torch.Generator().manual_seed(room))]
        timestamps = torch.from_numpy(arrays["timestamps"][room].copy())
        clip = Clip(frames, timestamps, f"{self.name}-{room}", tuple(range(len(frames))))
        depth = torch.from_numpy(arrays["depth"][room].astype(np.float32))
        targets = GeometryTargets(
            pose_enc=torch.from_numpy(arrays["pose"][room].copy()),
            depth=depth,
            depth_confidence=(depth > 0).float(),
            metric_scale=torch.tensor(float(arrays["scale"][room])),
            features=[torch.from_numpy(layer.astype(np.float32)) for layer in arrays["features"][room]],
            features_pooled=True,
        )
        return clip.content(), targets

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": None, "_last": None}
