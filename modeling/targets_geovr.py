"""What a teacher says about a clip."""

from dataclasses import dataclass, fields

import torch

from .map_tensors_geovr import map_tensors


@dataclass
class GeometryTargets:
    r"""Geometric targets of one clip of `T` frames. A field that is `None` is an objective this clip does not have.

    Cameras follow OpenCV: x right, y down, z forward. Lengths are in the teacher's own unit. A batch is a list with
    one entry per clip, in the order of the rows of `video_grid_thw`, `None` for a clip without targets.

    Numbers, arrays and integer tensors become float32 tensors, floating tensors stay as they are.

    Args:
        pose_enc (`torch.FloatTensor` of shape `(T, 9)`, *optional*):
            Camera-from-world translation (3), its rotation as a quaternion x, y, z, w (4), vertical and horizontal
            field of view in radians (2). Frame 0 is the world.
        depth (`torch.FloatTensor` of shape `(T, H, W)`, *optional*):
            Depth along the camera's z axis.
        depth_confidence (`torch.FloatTensor` of shape `(T, H, W)`, *optional*):
            Confidence of `depth`. 0 means no measurement: such pixels take part in no loss and no metric, and their
            depth may be anything, NaN too.
        metric_scale (`torch.FloatTensor` of shape `()`, *optional*):
            Metres in one unit.
        features (`list[torch.FloatTensor]` of shapes `(T, h, w, C)`, *optional*):
            Features of the teacher's distilled layers, shallow to deep, or one tensor `(layers, T, h, w, C)` of all.
        features_pooled (`bool`, *optional*, defaults to `False`):
            Whether `features` are already averaged to the student's token grid. Otherwise the model pools them.

    Raises:
        TypeError: A field is no tensor, and nothing that becomes one.
        ValueError: `features` are one tensor of other than five dimensions.
    """

    pose_enc: torch.Tensor | None = None
    depth: torch.Tensor | None = None
    depth_confidence: torch.Tensor | None = None
    metric_scale: torch.Tensor | None = None
    features: list[torch.Tensor] | None = None
    features_pooled: bool = False

    def __post_init__(self):
        for name in ("pose_enc", "depth", "depth_confidence", "metric_scale"):
            setattr(self, name, _as_floats(getattr(self, name), name))
        if self.features is None:
            return
        if hasattr(self.features, "ndim"):
            if self.features.ndim != 5:
                raise ValueError(
                    "`features` must be a list of tensors (frames, height, width, channels), one per layer, or one "
                    f"tensor with layers in front, got one of shape {tuple(self.features.shape)}."
                )
            self.features = list(self.features)
        if not isinstance(self.features, (list, tuple)):
            raise TypeError(
                f"`features` must be a list of tensors, one per layer, got {type(self.features).__name__}."
            )
        self.features = [_as_floats(value, f"features[{layer}]") for layer, value in enumerate(self.features)]

    @property
    def num_frames(self) -> int | None:
        """Number of frames, or `None` if no field has a frame axis."""
        for value in (self.pose_enc, self.depth, *(self.features or [])):
            if value is not None:
                return value.shape[0]
        return None

    def has(self, objective: str) -> bool:
        """Whether the clip has the target of `objective` (`"camera"`, `"depth"`, `"scale"` or `"alignment"`)."""
        field = {"camera": "pose_enc", "depth": "depth", "scale": "metric_scale", "alignment": "features"}[objective]
        return getattr(self, field) is not None

    def validate(self, name: str = "the clip") -> "GeometryTargets":
        """Check shapes and values.

        Reading the values waits for the device, so this is for the data side, not for a training step.

        Args:
            name (`str`, *optional*, defaults to `"the clip"`):
                What errors call the clip.

        Returns:
            `GeometryTargets`: `self`.

        Raises:
            ValueError: A field has the wrong shape or number of frames, holds NaN or infinity (in `depth`, where
                something was measured), or a measured depth or the metric scale is not positive.
        """
        self.validate_shapes(name)
        for label, value in self._tensors():
            sound = _is_finite(value)
            if not sound and label == "depth" and self.depth_confidence is not None:
                sound = (torch.isfinite(value) | (self.depth_confidence == 0)).all()
            if not sound:
                raise ValueError(f"`{label}` of {name} holds NaN or infinite values. Mask or drop such frames.")
        if self.depth is not None and not self.depth.amin() > 0:
            measured = (
                self.depth > 0 if self.depth_confidence is None else (self.depth > 0) | (self.depth_confidence == 0)
            )
            if not measured.all():
                raise ValueError(
                    f"`depth` of {name} has {int((~measured).sum())} pixels that are not positive. Set "
                    "`depth_confidence` to 0 where nothing was measured."
                )
        if self.metric_scale is not None and not self.metric_scale > 0:
            raise ValueError(f"`metric_scale` of {name} must be positive, got {float(self.metric_scale)}.")
        return self

    def validate_shapes(self, name: str = "the clip"):
        """Check shapes alone, as [`GeometryTargets.validate`] does."""
        expected = {
            "pose_enc": (self.pose_enc, 2, "(frames, 9)"),
            "depth": (self.depth, 3, "(frames, height, width)"),
            "depth_confidence": (self.depth_confidence, 3, "(frames, height, width)"),
            "metric_scale": (self.metric_scale, 0, "()"),
        }
        for label, (value, ndim, shape) in expected.items():
            if value is not None and value.ndim != ndim:
                raise ValueError(f"`{label}` of {name} must have shape {shape}, got {tuple(value.shape)}.")
        if self.pose_enc is not None and self.pose_enc.shape[1] != 9:
            raise ValueError(f"`pose_enc` of {name} must have shape (frames, 9), got {tuple(self.pose_enc.shape)}.")
        if self.depth_confidence is not None and (
            self.depth is None or self.depth_confidence.shape != self.depth.shape
        ):
            shape = None if self.depth is None else tuple(self.depth.shape)
            raise ValueError(
                f"`depth_confidence` of {name} must match `depth`: {tuple(self.depth_confidence.shape)} and {shape}."
            )
        for layer, value in enumerate(self.features or []):
            if value.ndim != 4:
                raise ValueError(
                    f"`features[{layer}]` of {name} must have shape (frames, height, width, channels), "
                    f"got {tuple(value.shape)}."
                )
        lengths = {label: value.shape[0] for label, value in self._tensors() if value.ndim > 0}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"The targets of {name} have different numbers of frames: {lengths}.")
        if 0 in lengths.values():
            raise ValueError(f"The targets of {name} have no frames.")

    def _tensors(self) -> list[tuple[str, torch.Tensor]]:
        named = [
            (f.name, getattr(self, f.name)) for f in fields(self) if f.name not in ("features", "features_pooled")
        ]
        named += [(f"features[{layer}]", value) for layer, value in enumerate(self.features or [])]
        return [(name, value) for name, value in named if value is not None]

    def to(self, *args, **kwargs) -> "GeometryTargets":
        """Move or cast every tensor, like [`torch.Tensor.to`]. With this method, accelerate moves targets itself."""
        return map_tensors(self, lambda value: value.to(*args, **kwargs))

    def pin_memory(self) -> "GeometryTargets":
        """Copy every tensor to pinned memory. A `DataLoader` with `pin_memory=True` calls it."""
        return map_tensors(self, lambda value: value.pin_memory())


def _as_floats(value, name: str) -> torch.Tensor | None:
    """A field as a tensor of floating point."""
    if value is None or (isinstance(value, torch.Tensor) and value.is_floating_point()):
        return value
    try:
        return torch.as_tensor(value).float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"`{name}` must be a tensor, an array or numbers, got {type(value).__name__}: {error}"
        ) from error


def _is_finite(value: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite, at the speed of memory: rows' sums tell, unless they overflow."""
    sums = value.sum(-1) if value.ndim else value
    return bool(sums.isfinite().all() or value.isfinite().all())
