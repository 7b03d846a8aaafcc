"""A fresh process that knows a checkpoint only from its folder: answers and geometry of one clip.

    python -m geovr_hf.commands.demo_reload CHECKPOINT ROOM

ROOM holds `frames/` and `questions.json`, as [`write_room`] leaves them; `answers.json` and `geometry.safetensors` are
added. The demo runs this to show that what it saved is all that is needed.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from geovr_hf.commands.checkpoints import answer, load_checkpoint
from geovr_hf.commands.reconstruct import predict
from geovr_hf.data import Clip, list_frames, read_image
from geovr_hf.modeling import GeoVRGeometry
from geovr_hf.visualization.atomic_files import atomic_path


def write_room(folder: Path, row: dict[str, Any], questions: list[dict[str, str]]) -> None:
    """Write a room's clip as pictures, and what is to be asked about it.

    Args:
        folder (`Path`): where to write.
        row (`dict`): a decoded row of the room.
        questions (`list[dict]`): `question_type`, `question` and `answer` of each question.
    """
    content = row["messages"][0]["content"][0]
    for index, frame in enumerate(content["video"].numpy()):
        with atomic_path(folder / f"frames/{index:03d}.png") as temporary:
            Image.fromarray(frame).save(temporary)
    write_json(folder / "questions.json", {"frame_seconds": content["timestamps"], "questions": questions})


def read_room(folder: Path) -> tuple[Clip, list[dict[str, str]]]:
    """Read back the clip and the questions of [`write_room`]."""
    description = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    frames = [torch.from_numpy(np.array(read_image(path))) for path in list_frames(folder / "frames")]
    clip = Clip(
        frames=torch.stack(frames),
        timestamps=torch.tensor(description["frame_seconds"], dtype=torch.float64),
        source=str(folder),
        frame_indices=tuple(range(len(frames))),
    )
    return clip, description["questions"]


def read_geometry(folder: Path) -> GeoVRGeometry:
    """The geometry that the fresh process predicted."""
    return GeoVRGeometry(**load_file(folder / "geometry.safetensors"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main(checkpoint_folder: str, room_folder: str) -> None:
    """Load, answer, predict, write."""
    room = Path(room_folder)
    clip, questions = read_room(room)
    checkpoint = load_checkpoint(checkpoint_folder, device="cpu")
    answers = [question | {"model": answer(checkpoint, clip, question["question"], 16)} for question in questions]
    geometry = predict(checkpoint, clip)
    with atomic_path(room / "geometry.safetensors") as temporary:
        save_file({name: value.contiguous() for name, value in vars(geometry).items()}, temporary)
    write_json(room / "answers.json", {"model_class": type(checkpoint.model).__name__, "answers": answers})


if __name__ == "__main__":
    main(*sys.argv[1:])
