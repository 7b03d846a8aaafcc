"""A room's clip: its pictures, targets and questions, made again at will from a few numbers."""

from typing import NamedTuple

import torch

from geovr_hf.data.clip import Clip
from geovr_hf.modeling.targets_geovr import GeometryTargets

from .asking import ask_questions
from .questions import Question
from .render import Lighting, View, render
from .scene import Room, RoomsSpec, build_room, room_rng
from .targets import FeatureSpec, geometry_targets, token_grid


_ATTEMPTS = 100
_LIGHT, _QUESTIONS = 1, 2  # purposes of random numbers besides the room itself


class RoomKey(NamedTuple):
    """What a room is made again from, together with its `RoomsSpec`.

    Args:
        seed: Seed of the data set.
        room: Number of the room.
        attempt: Draws of this room that were given up before.
    """

    seed: int
    room: int
    attempt: int

    def source(self, spec: RoomsSpec) -> str:
        """The name of the clip: `rooms://<fingerprint>/<seed>/<room>/<attempt>`."""
        return f"rooms://{spec.fingerprint}/{self.seed}/{self.room}/{self.attempt}"

    @classmethod
    def parse(cls, source: str, spec: RoomsSpec) -> "RoomKey":
        """Read a clip's name.

        Raises:
            ValueError: It is not the name of a synthetic room, or of one made by another spec.
        """
        scheme, _, rest = source.partition("://")
        fields = rest.split("/")
        if scheme != "rooms" or len(fields) != 4 or not all(field.isdigit() for field in fields[1:]):
            raise ValueError(
                f"{source!r} is not a clip of a synthetic room. Their sources look like rooms://1a2b3c4d/0/17/0."
            )
        if fields[0] != spec.fingerprint:
            raise ValueError(
                f"{source!r} was made by another `RoomsSpec` or version of the generator than the one at hand "
                f"({spec.fingerprint}): pass the spec of the data set, `dataset.spec`."
            )
        return cls(*map(int, fields[1:]))


def find_room(
    spec: RoomsSpec, seed: int, number: int, num_questions: int, question_types: tuple[str, ...]
) -> tuple[RoomKey, Room, list[Question]]:
    """Draw a room until it can be furnished, walked through and asked enough questions.

    Raises:
        ValueError: No attempt succeeded.
    """
    for attempt in range(_ATTEMPTS):
        room = build_room(spec, seed, number, attempt)
        if room is None:
            continue
        rng = room_rng(seed, number, 1 + attempt, _QUESTIONS)
        questions = ask_questions(room, rng, num_questions, question_types, start=number * num_questions)
        if questions is not None:
            return RoomKey(seed, number, attempt), room, questions
    raise ValueError(
        f"None of {_ATTEMPTS} draws of room {number} (seed {seed}) can be furnished with {spec.num_objects} objects "
        f"and asked {num_questions} different questions of the types {', '.join(question_types)}. Ask fewer questions "
        "per room, allow more question types, or change the number of objects or frames."
    )


def restore_room(spec: RoomsSpec, source: str) -> tuple[RoomKey, Room]:
    """Make the room of a clip again from its source.

    Raises:
        ValueError: The source is not that of a room of this spec.
    """
    key = RoomKey.parse(source, spec)
    room = build_room(spec, *key)
    if room is None:
        raise ValueError(f"{source!r} names a draw that was given up: no clip was ever made of it.")
    return key, room


def render_clip(
    spec: RoomsSpec, key: RoomKey, room: Room, image_size: tuple[int, int], supersampling: int = 1
) -> tuple[Clip, View]:
    """Render all frames of a room.

    Returns:
        The clip, and what else rendering found (instance labels, hits).
    """
    lighting = Lighting.sample(room_rng(key.seed, key.room, 1 + key.attempt, _LIGHT), room)
    view = render(room, room.walk, image_size, lighting, supersampling)
    clip = Clip(
        frames=torch.from_numpy(view.frames),
        timestamps=torch.from_numpy(room.walk.timestamps),
        source=key.source(spec),
        frame_indices=tuple(range(len(view.frames))),
    )
    return clip, view


def clip_targets(
    room: Room,
    image_size: tuple[int, int],
    depth_size: tuple[int, int],
    features: FeatureSpec | None = None,
    frames: tuple[int, ...] | None = None,
) -> GeometryTargets:
    """Targets of all frames of a room, or of the given ones, the first of which is the world."""
    walk = room.walk if frames is None else room.walk.select(list(frames))
    return geometry_targets(walk, room.caster.cast(walk.rays(depth_size)), token_grid(image_size), features)
