"""Which questions a room is asked."""

import numpy as np

from .questions import Asker, Observed, Question
from .questions_camera import ask_center_depth, ask_displacement, ask_turn
from .questions_choice import ask_appearance_order, ask_relative_distance
from .questions_direction import ask_route, relative_direction
from .questions_numeric import ask_absolute_distance, ask_count, ask_room_size, ask_size
from .scene import Room


VSI_ASKERS: dict[str, Asker] = {
    "object_counting": ask_count,
    "object_abs_distance": ask_absolute_distance,
    "object_size_estimation": ask_size,
    "room_size_estimation": ask_room_size,
    "object_rel_distance": ask_relative_distance,
    "object_rel_direction_easy": relative_direction("easy"),
    "object_rel_direction_medium": relative_direction("medium"),
    "object_rel_direction_hard": relative_direction("hard"),
    "route_planning": ask_route,
    "obj_appearance_order": ask_appearance_order,
}
CAMERA_ASKERS: dict[str, Asker] = {
    "camera_displacement": ask_displacement,
    "camera_turn": ask_turn,
    "center_depth": ask_center_depth,
}
ASKERS = {**VSI_ASKERS, **CAMERA_ASKERS}

QUESTION_TYPES = tuple(VSI_ASKERS)
CAMERA_TYPES = tuple(CAMERA_ASKERS)
NUMERIC_TYPES = (
    "object_counting",
    "object_abs_distance",
    "object_size_estimation",
    "room_size_estimation",
    "camera_displacement",
    "center_depth",
)

_TRIES = 4  # draws of one type before it counts as used up in a room


def ask_questions(
    room: Room, rng: np.random.Generator, count: int, question_types: tuple[str, ...] = QUESTION_TYPES, start: int = 0
) -> list[Question] | None:
    """Draw `count` different questions about a room.

    Types take turns, beginning with number `start`. One that has no further question in this room is passed over.

    Returns:
        The questions, or `None` if the room has too few.
    """
    observed = Observed(room)
    open_types = list(np.roll(question_types, -(start % len(question_types))))
    asked: dict[str, Question] = {}
    while open_types and len(asked) < count:
        kind = str(open_types.pop(0))
        question = _ask_new(ASKERS[kind], observed, rng, asked)
        if question is not None:
            asked[question.text] = question
            open_types.append(kind)
    return list(asked.values()) if len(asked) == count else None


def _ask_new(ask: Asker, observed: Observed, rng: np.random.Generator, asked: dict[str, Question]) -> Question | None:
    for _ in range(_TRIES):
        question = ask(observed, rng)
        if question is None or question.text not in asked:
            return question
    return None
