"""Ground truth of synthetic rooms as a teacher."""

import hashlib

import torch

from geovr_hf.data.clip import Clip
from geovr_hf.data.rooms import FeatureSpec, RoomsSpec, clip_targets, restore_room
from geovr_hf.data.rooms.targets import check_depth_size, default_depth_size, token_grid
from geovr_hf.modeling.targets_geovr import GeometryTargets

from .teacher import TeacherSpec


class SyntheticRoomsTeacher:
    """Makes a clip's room again from its `source` and says exactly what it looks like.

    Pose, depth and metric scale are exact. The features, if any, are no network's: they are the rooms' own coordinate
    maps, Fourier-encoded (`coordinate-fourier`, see [`FeatureSpec`]). A unit is the mean depth of the frames asked
    about, the first of which is the world, so targets of a part of a clip differ from a part of the clip's targets.

    Args:
        rooms (`RoomsSpec`, *optional*):
            How the rooms were made: `dataset.spec` of the data set that the clips come from. By default `RoomsSpec()`.
        depth_size (`tuple[int, int]`, *optional*):
            Height and width of the depth maps. By default 28 pixels for each 32 pixels of the clip's frames.
        features (`FeatureSpec`, *optional*):
            Feature targets to make. None by default.

    Example:
    ```python
    >>> from geovr_hf import load_teacher
    >>> from geovr_hf.data.rooms import RoomsDataset

    >>> dataset = RoomsDataset(10)
    >>> teacher = load_teacher("synthetic", rooms=dataset.spec)
    >>> targets = teacher.targets(dataset.room_clip(3).clip)
    ```
    """

    def __init__(
        self,
        rooms: RoomsSpec | None = None,
        depth_size: tuple[int, int] | None = None,
        features: FeatureSpec | None = None,
    ):
        self.rooms = RoomsSpec() if rooms is None else rooms
        self.depth_size = depth_size
        self.features = features
        self.spec = _spec(features)
        values = (self.rooms.fingerprint, depth_size, features)
        self.fingerprint = f"{self.spec.name}-{hashlib.sha256(repr(values).encode()).hexdigest()[:12]}"

    def targets(self, clip: Clip | torch.Tensor) -> GeometryTargets:
        """Exact targets of a clip of a synthetic room.

        Raises:
            ValueError: The clip is bare frames, does not come from rooms of this spec, or has frames that its room
                lacks.
        """
        if not isinstance(clip, Clip):
            raise ValueError(
                "The synthetic teacher knows rooms by their name, not by their looks: give it the `Clip` with its "
                f"`source` and `frame_indices`, not {type(clip).__name__}."
            )
        _, room = restore_room(self.rooms, clip.source)
        outside = [index for index in clip.frame_indices if not 0 <= index < self.rooms.num_frames]
        if outside:
            raise ValueError(f"{clip.source} has frames 0 to {self.rooms.num_frames - 1}, not {outside}.")
        depth_size = self.depth_size or default_depth_size(clip.image_size)
        check_depth_size(depth_size, token_grid(clip.image_size), self.features)
        return clip_targets(room, clip.image_size, depth_size, self.features, clip.frame_indices)


def _spec(features: FeatureSpec | None) -> TeacherSpec:
    layers = 0 if features is None else features.num_layers
    deepest = max(layers, 4) - 1
    return TeacherSpec(
        name="synthetic" if features is None else "synthetic-coordinate-fourier",
        num_layers=layers,
        alignment_layers=tuple(range(layers)),
        depth_layers=tuple(round(deepest * stage / 3) for stage in range(4)),
        hidden_size=0 if features is None else features.hidden_size,
        patch_size=14,
        pool_size=2,
        image_rule=None,
        licence="Apache-2.0",
        non_commercial=False,
    )
