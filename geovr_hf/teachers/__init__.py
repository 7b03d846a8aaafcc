"""Teachers: sources of geometry targets."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .catalogue import CATALOGUE, PublishedNetwork
from .images import ImageRule
from .metric_network import MetricDepth
from .network_teacher import NetworkTeacher
from .networks import (
    DepthAnything3Config,
    DepthAnything3MetricConfig,
    DepthAnything3MetricModel,
    DepthAnything3Model,
    VGGTConfig,
    VGGTModel,
    VGGTOmegaConfig,
    VGGTOmegaModel,
)
from .teacher import Teacher, TeacherSpec


if TYPE_CHECKING:
    from .rgbd import RecordedRGBDTeacher
    from .synthetic import SyntheticRoomsTeacher

__all__ = [
    "CATALOGUE",
    "DepthAnything3Config",
    "DepthAnything3MetricConfig",
    "DepthAnything3MetricModel",
    "DepthAnything3Model",
    "ImageRule",
    "MetricDepth",
    "NetworkTeacher",
    "PublishedNetwork",
    "Teacher",
    "TeacherSpec",
    "VGGTConfig",
    "VGGTModel",
    "VGGTOmegaConfig",
    "VGGTOmegaModel",
    "load_teacher",
]

GROUND_TRUTHS = ("rgbd", "synthetic")


def load_teacher(
    name: str | Path, metric: str | Path | MetricDepth | None = None, **options: Any
) -> "NetworkTeacher | RecordedRGBDTeacher | SyntheticRoomsTeacher":
    r"""Load a teacher.

    Networks are loaded from the published files as they are: nothing is converted, no code is downloaded.

    Args:
        name (`str` or `Path`):
            A network: its Hub id (those of `CATALOGUE`, such as `"facebook/VGGT-1B"`; the part behind the owner will
            do), a folder or file of its published weights, a folder that `save_pretrained` of one of these networks
            wrote, or `"permissive"` for networks that may be used commercially (DA3-BASE with DA3METRIC-LARGE). Or a
            ground truth: `"rgbd"` for recorded RGB-D folders, `"synthetic"` for rendered rooms.
        metric (`str`, `Path` or [`MetricDepth`], *optional*):
            Metric network that says how many metres a unit of the first is, such as
            `"depth-anything/DA3METRIC-LARGE"`. Without, targets have no metric scale. Ground truths have one.
        device (`str` or `torch.device`, *optional*):
            Where networks go; by default the GPU, if there is one.
        dtype (`torch.dtype` or `str`, *optional*, defaults to `"auto"`):
            `"float32"` or `"bfloat16"`; `"auto"` is bfloat16 on GPUs. See [`TeacherNetwork`] for what is rounded.
        poses (`str`, *optional*, defaults to `"canonical"`):
            `"published"` leaves the network's nine numbers as they are, see [`NetworkTeacher`].
        frames_chunk_size (`int`, *optional*):
            Frames that pass at once through what treats every frame by itself; by default all of them. Bounds memory
            on long clips and does not change results.
        compile (`bool`, *optional*, defaults to `False`):
            Compile blocks and heads: the first clip of a size takes up to a minute, the others less time.
        attn_implementation (`str`, *optional*):
            Attention implementation of transformers. By default the fastest: SDPA on cuDNN's kernel, and on GPUs in
            bfloat16 the fused operators of [`accelerate_network`].
        weights, metric_weights (`str` or `Path`, *optional*):
            File or folder of the weights of `name` or `metric`, instead of the Hub.
        revision, metric_revision (`str`, *optional*):
            Revisions on the Hub.
        config, metric_config (`PreTrainedConfig`, *optional*):
            Sizes of networks that are in no catalogue, such as tiny ones for tests.
        options:
            For a ground truth, arguments of [`~geovr_hf.teachers.rgbd.RecordedRGBDTeacher`] or
            [`~geovr_hf.teachers.synthetic.SyntheticRoomsTeacher`].

    Returns:
        [`Teacher`]: The teacher.

    Raises:
        ValueError: The name is unknown, the weights cannot be had or do not fit, `metric` is given for a metric
            teacher, or `"rgbd"` is given no `folder`.

    Example:
    ```python
    >>> from geovr_hf import load_teacher
    >>> from geovr_hf.data import read_clip

    >>> teacher = load_teacher("facebook/VGGT-1B", metric="depth-anything/DA3METRIC-LARGE")
    >>> targets = teacher.targets(read_clip("walk.mp4", num_frames=32))
    ```
    """
    if name not in GROUND_TRUTHS:
        from .loading import load_network_teacher

        return load_network_teacher(name, metric, **options)
    if metric is not None:
        raise ValueError(f"The teacher {name!r} measures in metres itself: leave out `metric`, got {metric!r}.")
    # Imported here: each may need an extra that the other does not.
    if name == "rgbd":
        from .rgbd import RecordedRGBDTeacher

        if "folder" not in options:
            raise ValueError("The teacher 'rgbd' is a recorded folder: name it, `load_teacher('rgbd', folder=...)`.")
        return RecordedRGBDTeacher(**options)
    from .synthetic import SyntheticRoomsTeacher

    return SyntheticRoomsTeacher(**options)
