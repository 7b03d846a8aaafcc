"""Synthetic rooms: furnished, textured, ray-cast interiors with exact geometry and questions with exact answers.

| I want to change | file |
|---|---|
| what a piece of furniture looks like, its sizes and colours | `builders.py`, `furniture.py` |
| walls, windows, floor shapes | `plan.py` |
| where furniture stands | `layout.py` |
| the camera's path and gaze | `camera.py` |
| textures, light | `patterns.py`, `render.py` |
| pose, depth, scale and feature targets | `targets.py` |
| questions | `questions_numeric.py`, `questions_choice.py`, `questions_direction.py`, `questions_camera.py` |
| rows and streaming | `dataset.py` |

Needs the extra `rooms` (trimesh, embreex), and neither `datasets` nor `av`.
"""

from .asking import CAMERA_TYPES, NUMERIC_TYPES, QUESTION_TYPES, ask_questions
from .clips import RoomKey, clip_targets, render_clip, restore_room
from .dataset import RoomClip, RoomsDataset, RoomsIterableDataset
from .questions import Question
from .scene import Room, RoomsSpec, build_room
from .targets import FeatureSpec


__all__ = [
    "CAMERA_TYPES",
    "NUMERIC_TYPES",
    "QUESTION_TYPES",
    "FeatureSpec",
    "Question",
    "Room",
    "RoomClip",
    "RoomKey",
    "RoomsDataset",
    "RoomsIterableDataset",
    "RoomsSpec",
    "ask_questions",
    "build_room",
    "clip_targets",
    "render_clip",
    "restore_room",
]
