"""Questions about the camera itself. They are not VSI-Bench's; very small models can learn them."""

import numpy as np

from geovr_hf.data.camera_questions import (
    DISPLACEMENT_TEXT,
    SMALLEST_TURN,
    TURN_OPTIONS,
    TURN_TEXT,
    center_depth_text,
    turn_between,
)

from .questions import Observed, Question


def ask_displacement(seen: Observed, rng: np.random.Generator) -> Question:
    """Metres from the camera's first to its last position, to one decimal."""
    places = seen.room.walk.room_from_cam[:, :3, 3]
    distance = np.linalg.norm(places[-1] - places[0])
    return Question("camera_displacement", DISPLACEMENT_TEXT, f"{distance:.1f}", None, ())


def ask_turn(seen: Observed, rng: np.random.Generator) -> Question | None:
    """Whether the camera ends up looking further left or right. Not asked if it has turned round."""
    poses = seen.room.walk.room_from_cam
    turn = turn_between(poses[0], poses[-1])
    if not SMALLEST_TURN <= abs(turn) <= np.pi - SMALLEST_TURN:
        return None
    return Question("camera_turn", TURN_TEXT, "A" if turn < 0 else "B", TURN_OPTIONS, ())


def ask_center_depth(seen: Observed, rng: np.random.Generator) -> Question | None:
    """Depth in metres, to one decimal, at the centre of the first or the last picture."""
    walk = seen.room.walk
    frame = int(rng.integers(2)) * (len(walk.room_from_cam) - 1)
    hits = seen.room.caster.cast(walk.select([frame]).rays((1, 1)))
    if hits.face.item() < 0:
        return None
    text = center_depth_text(frame, len(walk.room_from_cam))
    return Question("center_depth", text, f"{hits.depth.item():.1f}", None, ())
