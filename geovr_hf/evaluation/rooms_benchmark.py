"""Synthetic rooms as a benchmark on disk, in the public layout of VSI-Bench: `test.jsonl` and a video of each."""

import json
import os
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from tqdm.auto import tqdm

from geovr_hf.data.clip import Clip
from geovr_hf.data.rooms import RoomsDataset
from geovr_hf.extras import import_extra


QUESTIONS = "test.jsonl"
_TICKS = 1000  # of the videos' clock, in a second


@dataclass(frozen=True)
class RoomsBenchmark:
    """What rooms a benchmark has.

    Args:
        num_rooms (`int`, *optional*, defaults to 50): Number of rooms, each with a video.
        questions_per_room (`int`, *optional*, defaults to 10): Questions about each.
        seed (`int`, *optional*, defaults to 977): Seed of the rooms. Rooms of another seed are other rooms: train on
            any other.
        num_frames (`int`, *optional*, defaults to 32): Frames of a video.
        image_size (`tuple[int, int]`, *optional*, defaults to `(240, 320)`): Height and width.
        dataset (`str`, *optional*, defaults to `"rooms"`): VSI-Bench's `dataset`, which is the folder of the videos.
    """

    num_rooms: int = 50
    questions_per_room: int = 10
    seed: int = 977
    num_frames: int = 32
    image_size: tuple[int, int] = (240, 320)
    dataset: str = "rooms"

    @property
    def rooms(self) -> RoomsDataset:
        """The rooms."""
        return RoomsDataset(
            self.num_rooms,
            self.seed,
            num_frames=self.num_frames,
            image_size=self.image_size,
            questions_per_room=self.questions_per_room,
            cached_rooms=1,
        )

    @property
    def name(self) -> str:
        """A folder name that changes whenever rooms or questions do."""
        height, width = self.image_size
        parts = (self.rooms.spec.fingerprint, self.num_rooms, self.questions_per_room, self.seed, height, width)
        return "-".join(map(str, parts))

    def write(self, folder: str | Path) -> Path:
        """Render the videos and write the questions, unless they are there.

        Videos appear whole, and the questions last, so that a folder with questions is complete. What an interrupted
        call has rendered is not rendered again.

        Args:
            folder (`str` or `Path`): Where to write; made if missing.

        Returns:
            `Path`: The folder.
        """
        folder = Path(folder)
        if (folder / QUESTIONS).exists():
            return folder
        (folder / self.dataset).mkdir(parents=True, exist_ok=True)
        rooms, rows = self.rooms, []
        for number in tqdm(range(self.num_rooms), desc="Rendering rooms", unit="room"):
            room = rooms.room_clip(number)
            scene = f"room_{self.seed}_{number:04d}"
            video = folder / self.dataset / f"{scene}.mp4"
            if not video.exists():
                write_video(video, room.clip)
            for question in room.questions:
                rows.append(
                    {
                        "id": len(rows),
                        "dataset": self.dataset,
                        "scene_name": scene,
                        "question_type": question.question_type,
                        "question": question.text,
                        "options": None if question.options is None else list(question.options),
                        "ground_truth": question.answer,
                        "prompt": question.prompt,
                    }
                )
        unfinished = folder / f".{QUESTIONS}.unfinished"
        unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(unfinished, folder / QUESTIONS)
        return folder


def write_video(path: Path, clip: Clip) -> None:
    """Write a clip as H.264 with its timestamps, nearly without loss. The file appears whole or not at all.

    Args:
        path (`Path`): An `.mp4` file. Its folder must exist.
        clip ([`Clip`]): Frames of even height and width.

    Raises:
        ImportError: PyAV is missing.
        ValueError: Odd height or width.
    """
    av = import_extra("av", "video", "Writing videos needs PyAV")
    height, width = clip.image_size
    if height % 2 or width % 2:
        raise ValueError(f"{path}: H.264 needs even sides, got {height} x {width} pixels.")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        unfinished = Path(folder) / path.name
        with av.open(str(unfinished), "w", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=30, options={"crf": "10", "preset": "fast", "g": "8"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.time_base = Fraction(1, _TICKS)
            ticks = (clip.timestamps * _TICKS).round().to(torch.int64).tolist()
            for frame, tick in zip(clip.frames.numpy(), ticks, strict=True):
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
                picture.pts, picture.time_base = tick, stream.codec_context.time_base
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        os.replace(unfinished, path)
