"""Images from disk: single pictures, and folders of frames that are read as a clip."""

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from geovr_hf.data.clip import Clip, UnreadableClipError
from geovr_hf.data.sampling import FrameSampling


IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


def read_image(path: str | Path) -> Image.Image:
    """Read one colour picture, turned upright as its EXIF orientation says.

    Args:
        path (`str` or `Path`): A file that Pillow can read, with at most 8 bits per channel.

    Returns:
        `PIL.Image.Image`: RGB.

    Raises:
        UnreadableClipError: The file is missing, damaged, no image, or a 16-bit map such as recorded depth.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise UnreadableClipError(
                    f"{path}: a picture of mode {image.mode!r} is a map of measurements (depth?), not a colour frame. "
                    "Read recorded RGB-D with `geovr_hf.data.RGBDRecording`."
                )
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow: SyntaxError for a broken PNG
        raise UnreadableClipError(f"{path}: cannot read this image: {error}") from error


def list_frames(folder: str | Path) -> list[Path]:
    """The colour frames of a folder, in order.

    Recorded RGB-D keeps colour beside depth: `*.color.*` files, or a subfolder `color` or `rgb`, are then the frames.

    Args:
        folder (`str` or `Path`): Folder of images.

    Returns:
        `list[Path]`: Sorted by name, numbers by value (`9.jpg` before `10.jpg`); empty if there is none.
    """
    folder = Path(folder)
    for name in ("color", "rgb"):
        if (folder / name).is_dir():
            folder = folder / name
            break
    images = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    colour = [path for path in images if path.stem.endswith(".color")]
    return sorted(colour or images, key=natural_key)


def natural_key(path: Path) -> tuple[tuple[str, int], ...]:
    """Sort key of a file name that compares its runs of digits as numbers."""
    return tuple((text, int(digits or -1)) for text, digits in re.findall(r"(\D*)(\d*)", path.name))


def check_image_rate(image_rate: float, name: str = "`image_rate`") -> float:
    """Check how many images of a folder make a second.

    Args:
        image_rate (`float`): Images per second.
        name (`str`, *optional*): What the error calls it: the option that the user gave.

    Returns:
        `float`: The same.

    Raises:
        ValueError: It is not positive.
    """
    if not image_rate > 0:
        raise ValueError(f"{name} must be positive, got {image_rate}.")
    return image_rate


def read_image_folder(folder: str | Path, sampling: FrameSampling, image_rate: float = 1.0) -> Clip:
    """Read a folder of images as a clip.

    Args:
        folder (`str` or `Path`): Folder of equally large images, see [`list_frames`].
        sampling ([`FrameSampling`]): Which of them to take.
        image_rate (`float`, *optional*, defaults to 1.0): Images per second; a folder has no clock of its own.

    Returns:
        [`Clip`]: Frame `i` of the folder is at `i / image_rate` seconds.

    Raises:
        UnreadableClipError: No image, an unreadable one, or images of different size.
        ValueError: The rate is not positive.
    """
    paths, times, chosen = choose_images(folder, sampling, image_rate)
    frames = [torch.from_numpy(np.array(read_image(paths[index]))) for index in chosen]
    sizes = {tuple(frame.shape[:2]) for frame in frames}
    if len(sizes) > 1:
        raise UnreadableClipError(f"{folder}: the images of a clip must be of one size, got {sorted(sizes)} (H, W).")
    return Clip(
        frames=torch.stack(frames),
        timestamps=torch.from_numpy(times[chosen]),
        source=str(folder),
        frame_indices=tuple(chosen.tolist()),
    )


def choose_images(
    folder: str | Path, sampling: FrameSampling, image_rate: float = 1.0
) -> tuple[list[Path], np.ndarray, np.ndarray]:
    """What [`read_image_folder`] would read, without reading it.

    Returns:
        All images of the folder, their times in seconds, and the positions of those that are sampled.

    Raises:
        UnreadableClipError: No image, or none in the stretch that is sampled.
        ValueError: The rate is not positive.
    """
    check_image_rate(image_rate)
    paths = list_frames(folder)
    if not paths:
        raise UnreadableClipError(f"{folder}: no image in this folder ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    times = np.arange(len(paths)) / image_rate
    chosen = sampling.choose(times, duration=1 / image_rate)
    if len(chosen) == 0:
        raise UnreadableClipError(
            f"{folder}: no frame between {sampling.start} and {sampling.end} seconds; "
            f"its {len(paths)} images end at {times[-1]:.3f} s."
        )
    return paths, times, chosen
