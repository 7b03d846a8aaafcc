"""All that a run of the study depends on."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from geovr_hf.data.rooms import QUESTION_TYPES, FeatureSpec, RoomsDataset
from geovr_hf.data.rooms.furniture import CATEGORIES


# Named in the warm-up, never asked about in training; the shifted rooms hold them.
UNASKED_FURNITURE = ("desk", "stool", "suitcase")
ASKED_FURNITURE = tuple(name for name in CATEGORIES if name not in UNASKED_FURNITURE)

# The objectives of each arm, beside language. `features` are the rooms' own coordinate maps, Fourier-encoded: no
# network's (see `FeatureSpec`).
ARMS: dict[str, tuple[str, ...]] = {
    "language": (),
    "camera": ("camera",),
    "depth": ("depth",),
    "scale": ("scale",),
    "features": ("alignment",),
    "depth-features": ("depth", "alignment"),
    "all": ("camera", "depth", "scale", "alignment"),
    "all-light": ("camera", "depth", "scale", "alignment"),
    "all-balanced": ("camera", "depth", "scale", "alignment"),
    "start": (),  # the warm-up alone, no step of the arms: what it gives to answers and probes
    "blind": (),  # language, trained on black frames: what the words alone can teach
    "language-longer": (),  # language for as many steps as the heads of `all` would pay for
}
# Factors of the paper's weights of the geometric losses, where they are not 1.
GEOMETRY_WEIGHTS = {"all-light": dict.fromkeys(ARMS["all"], 0.2), "all-balanced": {"camera": 0.1}}
CONTROLS = ("start", "blind", "language-longer")
VIEWS = ("clip", "black", "shuffled")
MERGE = 2  # patches to a visual token along each axis: Qwen3-VL's


@dataclass(frozen=True)
class Rooms:
    """A set of rooms.

    Args:
        name: Its folder.
        count: Number of rooms.
        seed: Two seeds have no room in common.
        options: What differs from the generator's defaults.
        flat: Questions about pictures as such that are asked about each clip, too.
        named: Whether it is also told what frames and visual tokens show, and asked about each frame alone.
    """

    name: str
    count: int
    seed: int
    options: dict[str, Any] = field(default_factory=dict)
    flat: int = 0
    named: bool = False


@dataclass(frozen=True)
class Study:
    """Sizes and schedule; the same for every arm.

    Args:
        warm_rooms, train_rooms, test_rooms, shifted_rooms: Numbers of rooms.
        probe_rooms: Training rooms on which probes are fitted; they are scored on the test rooms.
        questions_per_room: Questions about each clip, which share its tokens in training.
        flat_questions_per_room, questions_per_frame: Questions about pictures as such, those of the warm-up: about
            each clip, and about each of its frames alone.
        rehearsed_questions: Questions about pictures as such that every arm goes on being asked about each clip.
        num_frames, image_size, patch_size: Of each clip, in pixels; a visual token is two patches wide and high.
        depth_tile: Pixels of depth map to a visual token, along each axis.
        student: Arguments of `make_tiny_config`.
        depth_hidden_sizes: Channels of the depth head's stages.
        clips_per_batch: Clips of a step, each with all of its questions.
        warm_steps: Steps of the warm-up, which every arm starts from.
        warm_rows: Its batch: four in five are single frames, the others whole clips, each with questions about it.
        steps: Steps of every arm.
        curve_points: Evaluations along the way.
        curve_rooms: Test rooms of those.
        cost_steps: Steps of which the cost is measured, a third of them to get going.
        longer: Steps of `language-longer` as a multiple of `steps`; set it to the measured cost of `all`.
        learning_rate, vocab_size: As their names say.
        compile_layers: Compile the student's layers: faster steps after a slow start.
    """

    warm_rooms: int = 6000
    train_rooms: int = 20000
    test_rooms: int = 200
    shifted_rooms: int = 200
    probe_rooms: int = 500
    questions_per_room: int = 24
    flat_questions_per_room: int = 24
    questions_per_frame: int = 8
    rehearsed_questions: int = 0
    num_frames: int = 8
    image_size: tuple[int, int] = (96, 128)
    patch_size: int = 8
    depth_tile: int = 8
    student: dict[str, int] = field(
        default_factory=lambda: {
            "hidden_size": 640,
            "num_layers": 8,
            "num_heads": 10,
            "vision_hidden_size": 384,
            "vision_depth": 7,
            "camera_hidden_size": 256,
            "scale_hidden_size": 128,
            "depth_fusion_size": 64,
        }
    )
    depth_hidden_sizes: tuple[int, ...] = (64, 64, 128, 128)
    clips_per_batch: int = 12
    warm_steps: int = 2000
    warm_rows: int = 60
    steps: int = 2000
    curve_points: int = 5
    curve_rooms: int = 40
    cost_steps: int = 75
    longer: float = 1.3
    learning_rate: float = 5e-4
    vocab_size: int = 768
    compile_layers: bool = False

    def sets(self) -> dict[str, Rooms]:
        """The sets of rooms, by name. The shifted set has lower cameras, larger rooms and unasked furniture."""
        common = {"num_objects": (8, 11), "l_shaped": 0.15}
        asked = common | {"furniture": ASKED_FURNITURE}
        shift = {"eye_height": (0.7, 1.0), "area": (30.0, 70.0)}
        return {
            "warm-up": Rooms("warm-up", self.warm_rooms, 103, common, flat=self.flat_questions_per_room, named=True),
            "test": Rooms("test", self.test_rooms, 101, asked, flat=self.flat_questions_per_room),
            "shifted": Rooms("shifted", self.shifted_rooms, 102, common | shift),
            "train": Rooms("train", self.train_rooms, 100, asked, flat=self.rehearsed_questions),
        }

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of visual tokens over a frame."""
        return tuple(side // (self.patch_size * MERGE) for side in self.image_size)

    @property
    def depth_size(self) -> tuple[int, int]:
        """Height and width of depth maps."""
        return tuple(side * self.depth_tile for side in self.token_grid)

    def dataset(self, rooms: Rooms) -> RoomsDataset:
        """The generator of a set."""
        return RoomsDataset(
            rooms.count,
            seed=rooms.seed,
            num_frames=self.num_frames,
            image_size=self.image_size,
            depth_size=self.depth_size,
            questions_per_room=self.questions_per_room,
            question_types=QUESTION_TYPES,
            cached_rooms=1,
            **rooms.options,
        )

    @property
    def features(self) -> FeatureSpec:
        """Feature targets."""
        return FeatureSpec()

    def steps_of(self, arm: str) -> int:
        """Steps of an arm: as many for all but the controls that say otherwise."""
        return {"start": 0, "language-longer": round(self.longer * self.steps)}.get(arm, self.steps)

    def to_dict(self) -> dict[str, Any]:
        """For the result files."""
        return asdict(self)


# The whole pipeline in half a minute on a CPU. Nothing is learnt.
TINY = replace(
    Study(),
    warm_rooms=4,
    train_rooms=6,
    test_rooms=2,
    shifted_rooms=2,
    probe_rooms=4,
    questions_per_room=8,
    flat_questions_per_room=4,
    questions_per_frame=2,
    num_frames=4,
    image_size=(48, 64),
    student={"hidden_size": 32, "num_layers": 4, "num_heads": 4, "vision_hidden_size": 32, "vision_depth": 3},
    depth_hidden_sizes=(16, 16, 32, 32),
    clips_per_batch=2,
    warm_steps=2,
    warm_rows=6,
    steps=3,
    curve_points=1,
    curve_rooms=2,
    cost_steps=3,
    vocab_size=400,
)
