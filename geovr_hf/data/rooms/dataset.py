"""Synthetic rooms as torch data sets: rendered when asked for, the same for the same seed, nothing on disk."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset, IterableDataset, get_worker_info

from geovr_hf.data.clip import Clip
from geovr_hf.modeling.targets_geovr import GeometryTargets

from .asking import ASKERS, QUESTION_TYPES
from .clips import RoomKey, clip_targets, find_room, render_clip
from .questions import Question
from .scene import Room, RoomsSpec
from .shapes import check_libraries
from .targets import FeatureSpec, check_depth_size, default_depth_size, token_grid


@dataclass(frozen=True, eq=False)
class RoomClip:
    """Everything about one room of a data set.

    Args:
        key: Its seed and numbers.
        room: The room itself, with ground truth.
        clip: Its frames.
        targets: Exact geometry of the frames.
        questions: What is asked about it.
    """

    key: RoomKey
    room: Room
    clip: Clip
    targets: GeometryTargets
    questions: list[Question]


@dataclass(frozen=True)
class RoomsRecipe:
    """How the rows of both data sets are made. The fields are documented at [`RoomsDataset`]."""

    spec: RoomsSpec
    seed: int
    image_size: tuple[int, int]
    depth_size: tuple[int, int]
    questions_per_room: int
    question_types: tuple[str, ...]
    features: FeatureSpec | None
    supersampling: int

    def __post_init__(self):
        unknown = [name for name in self.question_types if name not in ASKERS]
        if unknown or not self.question_types:
            raise ValueError(f"`question_types` must be some of {', '.join(ASKERS)}; got {self.question_types}.")
        if self.questions_per_room < 1:
            raise ValueError(f"`questions_per_room` must be at least 1, got {self.questions_per_room}.")
        if self.seed < 0:
            raise ValueError(f"`seed` must not be negative, got {self.seed}.")
        if self.supersampling < 1:
            raise ValueError(f"`supersampling` must be at least 1, got {self.supersampling}.")
        if set(self.question_types) == {"obj_appearance_order"} and self.spec.num_frames < 4:
            raise ValueError(f"Four things cannot appear one after the other in {self.spec.num_frames} frames.")
        check_depth_size(self.depth_size, token_grid(self.image_size), self.features)

    @classmethod
    def make(
        cls,
        seed: int,
        num_frames: int,
        image_size: tuple[int, int],
        depth_size: tuple[int, int] | None,
        questions_per_room: int,
        question_types: tuple[str, ...] | None,
        features: FeatureSpec | None,
        supersampling: int,
        room_options: dict[str, Any],
    ) -> "RoomsRecipe":
        """Fill in what may be left out."""
        if min(image_size) < 16:
            raise ValueError(f"`image_size` must be a (height, width) of at least 16 pixels, got {image_size}.")
        return cls(
            spec=RoomsSpec(num_frames=num_frames, aspect=image_size[1] / image_size[0], **room_options),
            seed=seed,
            image_size=tuple(image_size),
            depth_size=tuple(depth_size or default_depth_size(image_size)),
            questions_per_room=questions_per_room,
            question_types=QUESTION_TYPES if question_types is None else tuple(question_types),
            features=features,
            supersampling=supersampling,
        )

    def room_clip(self, number: int) -> RoomClip:
        """Make room number `number`."""
        key, room, questions = find_room(self.spec, self.seed, number, self.questions_per_room, self.question_types)
        clip, _ = render_clip(self.spec, key, room, self.image_size, self.supersampling)
        targets = clip_targets(room, self.image_size, self.depth_size, self.features)
        return RoomClip(key, room, clip, targets, questions)

    def row(self, rendered: RoomClip, index: int) -> dict[str, Any]:
        """The decoded row of a room's question number `index`."""
        question = rendered.questions[index]
        room = f"rooms-{self.spec.fingerprint}-{rendered.key.seed}-{rendered.key.room}"
        return {
            "messages": [
                {"role": "user", "content": [rendered.clip.content(), {"type": "text", "text": question.prompt}]},
                {"role": "assistant", "content": [{"type": "text", "text": question.answer}]},
            ],
            "geometry_targets": rendered.targets,
            "id": f"{room}-{index}",
            "room": room,
            "question_type": question.question_type,
            "answer": question.answer,
            "options": None if question.options is None else list(question.options),
        }


class RoomsDataset(Dataset):
    """Questions about furnished rooms, one decoded row each, in the order of the rooms.

    Row `i` belongs to room `i // questions_per_room`. It is a function of the arguments and `i` alone, whatever was
    read before and in whichever process. The rooms read last stay in memory, so that reading a room's questions one
    after the other renders it once. Rows of one room share their tensors: do not write into them.

    Args:
        num_rooms (`int`):
            Number of rooms. The length is `num_rooms * questions_per_room`.
        seed (`int`, *optional*, defaults to 0):
            Seed. Two seeds have no room in common: use one for training and another for evaluation.
        num_frames (`int`, *optional*, defaults to 8):
            Frames of a clip.
        image_size (`tuple[int, int]`, *optional*, defaults to `(96, 128)`):
            Height and width of the frames in pixels.
        depth_size (`tuple[int, int]`, *optional*):
            Height and width of the depth targets. Depth has its own rays through the centres of its own pixels, so it
            is exact at any size. By default 28 pixels for each 32 pixels of `image_size`, the tile of `GeoVRConfig`.
        questions_per_room (`int`, *optional*, defaults to 8):
            Questions of each room.
        question_types (`tuple[str, ...]`, *optional*):
            Some of `QUESTION_TYPES` (VSI-Bench's, all of them by default) and `CAMERA_TYPES`. They take turns; one
            that a room cannot answer is passed over.
        features (`FeatureSpec`, *optional*):
            Feature targets for the alignment objective. None by default.
        supersampling (`int`, *optional*, defaults to 1):
            Rays along each axis of a colour pixel. 2 gives smooth edges at about three times the cost.
        cached_rooms (`int`, *optional*, defaults to 32):
            Rooms kept in memory, in each process, at about 2 MB for a clip of the default size. `num_rooms` lets rows
            be read in any order, again and again, with every room rendered once.
        room_options:
            Further fields of [`RoomsSpec`]: `num_objects`, `area`, `l_shaped`, `fov`, `sweep`, `look_ahead`,
            `compass_walls`, `eye_height`, `furniture`.

    Raises:
        ValueError: A value is out of range, or a room that can be asked enough questions cannot be found.
        ImportError: trimesh or embreex is not installed.

    Example:
    ```python
    >>> from geovr_hf.data.rooms import FeatureSpec, RoomsDataset

    >>> dataset = RoomsDataset(500, seed=1, features=FeatureSpec())
    >>> row = dataset[0]
    >>> row["messages"][0]["content"][0]["video"].shape
    torch.Size([8, 96, 128, 3])
    ```
    """

    def __init__(
        self,
        num_rooms: int,
        seed: int = 0,
        num_frames: int = 8,
        image_size: tuple[int, int] = (96, 128),
        depth_size: tuple[int, int] | None = None,
        questions_per_room: int = 8,
        question_types: tuple[str, ...] | None = None,
        features: FeatureSpec | None = None,
        supersampling: int = 1,
        cached_rooms: int = 32,
        **room_options: Any,
    ):
        if num_rooms < 1:
            raise ValueError(f"`num_rooms` must be at least 1, got {num_rooms}.")
        if cached_rooms < 1:
            raise ValueError(f"`cached_rooms` must be at least 1, got {cached_rooms}.")
        check_libraries()  # here, not first in the workers of a loader
        self.num_rooms = num_rooms
        self.cached_rooms = cached_rooms
        self.recipe = RoomsRecipe.make(
            seed, num_frames, image_size, depth_size, questions_per_room, question_types, features, supersampling,
            room_options,
        )  # fmt: skip
        self._recent: OrderedDict[int, RoomClip] = OrderedDict()

    @property
    def spec(self) -> RoomsSpec:
        """What decides how rooms look; [`~geovr_hf.teachers.synthetic.SyntheticRoomsTeacher`] needs the same."""
        return self.recipe.spec

    def __len__(self) -> int:
        return self.num_rooms * self.recipe.questions_per_room

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number, question = divmod(index % len(self), self.recipe.questions_per_room)
        return self.recipe.row(self.room_clip(number), question)

    def clip_key(self, index: int) -> int:
        """The room that row `index` is about."""
        return index // self.recipe.questions_per_room

    def room_clip(self, number: int) -> RoomClip:
        """Room number `number` with its clip, targets and questions, from memory if it was read lately."""
        if not 0 <= number < self.num_rooms:
            raise IndexError(f"room {number} of {self.num_rooms}")
        if number not in self._recent:
            self._recent[number] = self.recipe.room_clip(number)
            if len(self._recent) > self.cached_rooms:
                self._recent.popitem(last=False)
        self._recent.move_to_end(number)
        return self._recent[number]

    def __getstate__(self) -> dict[str, Any]:
        # Embree scenes cannot be pickled, and a worker process renders its own rooms anyway.
        return {**self.__dict__, "_recent": OrderedDict()}


class RoomsIterableDataset(IterableDataset):
    """A stream of questions about furnished rooms, each room rendered once.

    With several `DataLoader` workers, worker `w` of `n` makes rooms `w, w + n, ...`: together they make each room
    once, the same rooms for any `n`, in an order that depends on `n`.

    Args:
        num_rooms (`int`, *optional*):
            Rooms of an epoch; endless by default.
        first_room (`int`, *optional*, defaults to 0):
            Number of the first room, to go on where a run was stopped.
        kwargs:
            `seed`, `num_frames`, ... of [`RoomsDataset`], with the same defaults.

    Raises:
        ValueError: A value is out of range, or a room that can be asked enough questions cannot be found.
        ImportError: trimesh or embreex is not installed.
    """

    def __init__(self, num_rooms: int | None = None, first_room: int = 0, **kwargs: Any):
        if num_rooms is not None and num_rooms < 1:
            raise ValueError(f"`num_rooms` must be at least 1, got {num_rooms}.")
        if first_room < 0:
            raise ValueError(f"`first_room` must not be negative, got {first_room}.")
        self.num_rooms = num_rooms
        self.first_room = first_room
        self.recipe = RoomsDataset(1, **kwargs).recipe
        self._epoch = 0

    @property
    def spec(self) -> RoomsSpec:
        """What decides how rooms look."""
        return self.recipe.spec

    def set_epoch(self, epoch: int) -> None:
        """Go to the rooms of an epoch. No epoch repeats a room of another; an endless stream has one epoch only."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        offset, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        start = self.first_room + self._epoch * (self.num_rooms or 0)
        number = start + offset
        while self.num_rooms is None or number < start + self.num_rooms:
            rendered = self.recipe.room_clip(number)
            for index in range(self.recipe.questions_per_room):
                yield self.recipe.row(rendered, index)
            number += stride
