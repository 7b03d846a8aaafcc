"""What a teacher is shown: frames out of the processor's patches, resized to the teacher's grid."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image


@dataclass(frozen=True)
class ImageRule:
    """How large a teacher wants its images.

    Args:
        longest_side (`int`):
            Pixels of the longer side.
        multiple (`int`):
            The shorter side is rounded to a multiple of it: twice the teacher's patch, so that features pool 2x2.
    """

    longest_side: int
    multiple: int


IMAGE_RULES = {
    "vggt": ImageRule(longest_side=504, multiple=28),
    "vggt_omega": ImageRule(longest_side=512, multiple=32),
    "da3": ImageRule(longest_side=504, multiple=28),
}


def teacher_image_size(frame_size: tuple[int, int], rule: ImageRule) -> tuple[int, int]:
    """Size of a teacher's image: nothing is cropped, the aspect ratio is kept up to rounding.

    As published, halves are rounded to the even multiple.

    Args:
        frame_size (`tuple[int, int]`): Height and width of the frame in pixels.
        rule ([`ImageRule`]): The teacher's rule.

    Returns:
        `tuple[int, int]`: Height and width of the teacher's image in pixels.

    Raises:
        ValueError: A side is not positive, or the frame is so elongated that its shorter side would vanish.
    """
    height, width = frame_size
    if min(height, width) <= 0:
        raise ValueError(f"`frame_size` must be positive, got {tuple(frame_size)}.")
    longest, shortest = max(height, width), min(height, width)
    rounded = round(shortest * rule.longest_side / longest / rule.multiple) * rule.multiple
    if rounded == 0:
        raise ValueError(
            f"A frame of {height} x {width} pixels is too elongated for {rule}: its shorter side would be rounded to "
            "0. Crop the clip."
        )
    return (rounded, rule.longest_side) if width >= height else (rule.longest_side, rounded)


def teacher_images(frames: torch.Tensor, rule: ImageRule) -> torch.Tensor:
    """Resize frames for a teacher with Pillow's bicubic filter, as published.

    Args:
        frames (`torch.ByteTensor` of shape `(T, H, W, 3)`): RGB frames.
        rule ([`ImageRule`]): The teacher's rule.

    Returns:
        `torch.FloatTensor` of shape `(T, 3, height, width)`: RGB in [0, 1], not normalised.

    Raises:
        ValueError: `frames` has another shape or dtype, or no size follows from the rule.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise ValueError(
            f"`frames` must be uint8 of shape (frames, height, width, 3), got {frames.dtype} of {tuple(frames.shape)}."
        )
    height, width = teacher_image_size(tuple(frames.shape[1:3]), rule)

    def resize(frame: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))

    # Pillow lets go of the interpreter while it resizes. Workers of a DataLoader have one thread.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        resized = list(pool.map(resize, frames.cpu().numpy()))
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255


def frames_from_pixel_values(
    pixel_values_videos: torch.Tensor,
    grid_thw: tuple[int, int, int],
    *,
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5),
    patch_size: int = 16,
    temporal_patch_size: int = 2,
    merge_size: int = 2,
    rounding: Literal["truncate", "nearest"] = "truncate",
) -> torch.Tensor:
    """Put the frames of a clip together again from a Qwen-VL video processor's patches.

    Args:
        pixel_values_videos (`torch.FloatTensor` of shape `(t * h * w, 3 * temporal_patch_size * patch_size ** 2)`):
            Normalised patches of one clip, the `merge_size` x `merge_size` patches of a visual token side by side.
        grid_thw (`tuple[int, int, int]`):
            Numbers t, h, w of patches in time, height and width: the clip's row of `video_grid_thw`.
        image_mean (`tuple[float, float, float]`, *optional*, defaults to `(0.5, 0.5, 0.5)`):
            The processor's mean.
        image_std (`tuple[float, float, float]`, *optional*, defaults to `(0.5, 0.5, 0.5)`):
            The processor's standard deviation.
        patch_size (`int`, *optional*, defaults to 16):
            Pixels of a patch along height and width.
        temporal_patch_size (`int`, *optional*, defaults to 2):
            Frames of a patch.
        merge_size (`int`, *optional*, defaults to 2):
            Patches of a visual token along height and width.
        rounding (`str`, *optional*, defaults to `"truncate"`):
            `"truncate"` is published and turns a level into the one below where float32 arithmetic ends just under an
            integer: 63 of the 256 levels with this mean and deviation. `"nearest"` gives back what was put in.

    Returns:
        `torch.ByteTensor` of shape `(t * temporal_patch_size, H, W, 3)`: RGB frames.

    Raises:
        ValueError: The patches do not fit the grid, or `rounding` is unknown.
    """
    if rounding not in ("truncate", "nearest"):
        raise ValueError(f"`rounding` must be 'truncate' or 'nearest', got {rounding!r}.")
    t, h, w = (int(size) for size in grid_thw)
    expected = (t * h * w, 3 * temporal_patch_size * patch_size**2)
    if tuple(pixel_values_videos.shape) != expected or h % merge_size or w % merge_size:
        raise ValueError(
            f"`pixel_values_videos` of a grid {(t, h, w)} must have shape {expected}, with height and width of the "
            f"grid multiples of {merge_size}, got {tuple(pixel_values_videos.shape)}."
        )
    blocks = (t, h // merge_size, w // merge_size, merge_size, merge_size)
    patches = pixel_values_videos.float().reshape(*blocks, 3, temporal_patch_size, patch_size, patch_size)
    # t, (h, merge, patch), (w, merge, patch), c, temporal -> t, temporal, height, width, c
    frames = patches.permute(0, 6, 1, 3, 7, 2, 4, 8, 5).reshape(-1, h * patch_size, w * patch_size, 3)
    mean, std = (torch.tensor(values, device=frames.device) for values in (image_mean, image_std))
    levels = (frames * std + mean) * 255
    if rounding == "nearest":
        levels = levels.round()
    return levels.clamp(0, 255).to(torch.uint8)


def last_timestamp(text: str) -> float | None:
    """Time of the last frame named in a Qwen3-VL prompt, which writes `<12.3 seconds>` before each.

    Args:
        text (`str`): The prompt.

    Returns:
        `float` or `None`: Seconds, or `None` if the prompt names no time.
    """
    times = re.findall(r"<(\d+(?:\.\d+)?) seconds>", text)
    return float(times[-1]) if times else None
