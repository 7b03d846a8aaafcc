"""Do training and test questions share scenes? Compared by the public scene names, whatever the data sets call them.

What names cannot tell: ARKitScenes numbers its videos, and several may show one home; data sets without scene names
(YouTube tours, Koala-36M) are compared by video.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple


# Rescans of a ScanNet room differ in the last two digits alone: scene0000_00 and scene0000_01 are one room.
_SCANNET = re.compile(r"(scene\d{4})_\d{2}$")
_ALIASES = {"scannetppv2": "scannetpp", "scannet++": "scannetpp", "scannetv2": "scannet", "arkitscene": "arkitscenes"}


class Scene(NamedTuple):
    """A place that was filmed."""

    source: str
    name: str


def scene_of(media: str) -> Scene:
    """The scene that a video shows, from its path.

    Args:
        media (`str`): Path as rows have it: `{data set}/…/{scene}.mp4`. Only its first folder and its stem count.

    Returns:
        [`Scene`]

    Examples:
        >>> scene_of("scannet/scene0191_01.mp4"), scene_of("scannetppv2/0a1b2c3d4e.mp4")
        (Scene(source='scannet', name='scene0191'), Scene(source='scannetpp', name='0a1b2c3d4e'))
    """
    path = PurePosixPath(media.replace("\\", "/").lower())
    source = path.parts[0] if len(path.parts) > 1 else ""
    name = path.stem
    if scannet := _SCANNET.match(name):
        # The name alone says ScanNet, in whichever folder the video lies.
        return Scene("scannet", scannet[1])
    return Scene(_ALIASES.get(source, source), name)


@dataclass(frozen=True)
class SceneOverlap:
    """What two sets of questions have in common.

    Args:
        train_scenes (`int`): Scenes trained on.
        test_scenes (`int`): Scenes tested on.
        shared (`list[str]`): Scenes in both, as `source/name`.
        test_questions (`int`): Questions of the test.
        affected_questions (`int`): Test questions about a shared scene.
    """

    train_scenes: int
    test_scenes: int
    shared: list[str]
    test_questions: int
    affected_questions: int

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return vars(self).copy()

    def __str__(self) -> str:
        """One sentence."""
        if not self.shared:
            return f"None of the {self.test_scenes} test scenes is among the {self.train_scenes} training scenes."
        return (
            f"{len(self.shared)} of {self.test_scenes} test scenes were trained on ({', '.join(self.shared[:3])}"
            f"{', …' if len(self.shared) > 3 else ''}): {self.affected_questions} of {self.test_questions} questions."
        )


def scene_overlap(train: Iterable[str], test: Iterable[str]) -> SceneOverlap:
    """Compare the scenes of two sets of questions.

    Args:
        train (`Iterable[str]`): Path of the video of each training question.
        test (`Iterable[str]`): Path of the video of each test question. A bare file name, of a test that does not say
            from which data set its scenes are, is compared by name alone.

    Returns:
        [`SceneOverlap`]
    """
    trained = {scene_of(media) for media in train}
    by_name = {scene.name: scene for scene in trained}
    tested = Counter(scene if scene.source else by_name.get(scene.name, scene) for scene in map(scene_of, test))
    shared = sorted(tested.keys() & trained)
    return SceneOverlap(
        train_scenes=len(trained),
        test_scenes=len(tested),
        shared=["/".join(scene) for scene in shared],
        test_questions=tested.total(),
        affected_questions=sum(tested[scene] for scene in shared),
    )


def videos_of(rows: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """Paths of the videos in stored rows, question by question.

    Args:
        rows (`Iterable[Mapping]`): Rows as [`~geovr_hf.data.load_vsi_590k`] and its siblings give them.
    """
    for row in rows:
        for key in ("messages", "prompt", "completion"):
            for message in row.get(key) or ():
                parts = message["content"] if isinstance(message["content"], list) else ()
                yield from (part["video"] for part in parts if isinstance(part.get("video"), str))
        yield from (video for video in row.get("videos") or () if isinstance(video, str))


def load_trained_videos(path: str) -> list[str]:
    """Paths of the videos of a training file: VSI-590K, VLM-3R or VSI-Bench, as published.

    Args:
        path (`str`): A `.jsonl`, `.json` or `.parquet` file.

    Returns:
        `list[str]`: One path for each question about a video.

    Raises:
        ValueError: None of the formats fits; what each says about the file is told.
    """
    from geovr_hf.data import load_vlm_3r, load_vsi_590k, load_vsi_bench

    complaints = []
    # VSI-590K last: its fields are a part of VLM-3R's.
    for load in (load_vlm_3r, load_vsi_bench, load_vsi_590k):
        try:
            return list(videos_of(load(path, streaming=True)))
        except ValueError as error:
            complaints.append(f"{load.__name__}: {error}")
    raise ValueError("\n".join([f"{path} is no known training file.", *complaints]))
