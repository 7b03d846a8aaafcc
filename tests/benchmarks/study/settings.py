"""All that a run of the study depends on."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from geovr_hf.data.rooms import QUESTION_TYPES, FeatureSpec, RoomsDataset
from geovr_hf.data.rooms.furniture import CATEGORIES


# No training room holds these; the shifted rooms do.
UNSEEN_FURNITURE = ("desk", "stool", "suitcase")
SEEN_FURNITURE = tuple(name for name in CATEGORIES if name not in UNSEEN_FURNITURE)

# The objectives of each arm, beside language. `features` are the rooms' own coordinate maps, Fourier-encoded: no
# network's (see `FeatureSpec`).
ARMS: dict[str, tuple[str, ...]] = {
    "language": (),
    "camera": ("camera",),
    "depth": ("depth",),
    "scale": ("scale",),
    "features": ("alignment",),
    "all": ("camera", "depth", "scale", "alignment"),
    "untrained": (),  # no step at all: what the architecture and the initial weights give to the probes
    "language-longer": (),  # language alone for as many steps as the heads of `all` would pay for
}
VIEWS = ("clip", "black", "shuffled")


@dataclass(frozen=True)
class Rooms:
    """A set of rooms.

    Args:
        name: Its folder.
        count: Number of rooms.
        seed: Two seeds have no room in common.
        options: What differs from the generator's defaults.
    """

    name: str
    count: int
    seed: int
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Sizes and schedule; the same for every arm.

    Args:
        train_rooms, test_rooms, shifted_rooms: Numbers of rooms.
        probe_rooms: Training rooms on which probes are fitted; they are scored on the test rooms.
        questions_per_room: Questions about each clip, which share its tokens in training.
        num_frames, image_size: Of each clip.
        student: Arguments of `make_tiny_config`.
        clips_per_batch: Clips of a step, each with all of its questions.
        steps: Steps of every arm.
        curve_points: Evaluations along the way.
        curve_rooms: Test rooms of those.
        longer: Steps of `language-longer` as a multiple of `steps`; set it to the measured cost of `all`.
        learning_rate, vocab_size, loss_weights: As their names say; weights left out are the paper's.
    """

    train_rooms: int = 20000
    test_rooms: int = 400
    shifted_rooms: int = 250
    probe_rooms: int = 600
    questions_per_room: int = 8
    num_frames: int = 8
    image_size: tuple[int, int] = (96, 128)
    student: dict[str, int] = field(
        default_factory=lambda: {
            "hidden_size": 640,
            "num_layers": 16,
            "num_heads": 10,
            "vision_hidden_size": 384,
            "vision_depth": 6,
            "camera_hidden_size": 256,
            "scale_hidden_size": 128,
            "depth_fusion_size": 64,
        }
    )
    depth_hidden_sizes: tuple[int, ...] = (64, 64, 128, 128)
    clips_per_batch: int = 32
    steps: int = 3000
    curve_points: int = 6
    curve_rooms: int = 60
    longer: float = 1.3
    learning_rate: float = 6e-4
    vocab_size: int = 1024
    loss_weights: dict[str, float] = field(default_factory=dict)

    def sets(self) -> dict[str, Rooms]:
        """The sets of rooms, by name. The shifted set has lower cameras, larger rooms and unseen furniture."""
        seen = {"furniture": SEEN_FURNITURE}
        shift = {"furniture": tuple(CATEGORIES), "eye_height": (0.7, 1.0), "area": (30.0, 70.0)}
        return {
            "train": Rooms("train", self.train_rooms, 100, seen),
            "test": Rooms("test", self.test_rooms, 101, seen),
            "shifted": Rooms("shifted", self.shifted_rooms, 102, shift),
        }

    def dataset(self, rooms: Rooms) -> RoomsDataset:
        """The generator of a set."""
        return RoomsDataset(
            rooms.count,
            seed=rooms.seed,
            num_frames=self.num_frames,
            image_size=self.image_size,
            questions_per_room=self.questions_per_room,
            question_types=QUESTION_TYPES,
            features=FeatureSpec(),
            cached_rooms=1,
            **rooms.options,
        )

    def steps_of(self, arm: str) -> int:
        """Steps of an arm: as many for all but the two controls."""
        return {"untrained": 0, "language-longer": round(self.longer * self.steps)}.get(arm, self.steps)

    def to_dict(self) -> dict[str, Any]:
        """For the result files."""
        return asdict(self)


# The whole pipeline in about two minutes on a CPU. Nothing is learnt.
TINY = replace(
    Study(),
    train_rooms=12,
    test_rooms=4,
    shifted_rooms=4,
    probe_rooms=6,
    questions_per_room=4,
    num_frames=4,
    image_size=(64, 64),
    student={"hidden_size": 64, "num_layers": 4, "num_heads": 4, "vision_hidden_size": 32, "vision_depth": 3},
    depth_hidden_sizes=(16, 16, 32, 32),
    clips_per_batch=4,
    steps=4,
    curve_points=2,
    curve_rooms=2,
    vocab_size=512,
)
