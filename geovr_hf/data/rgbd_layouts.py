"""On-disk layouts of recorded RGB-D: where each one keeps colour, depth, poses, intrinsics and times.

| layout | colour | depth | pose | intrinsics |
|---|---|---|---|---|
| 7-Scenes, 3DMatch | `frame-000006.color.jpg` | `….depth.png`, mm | `….pose.txt` | `intrinsics.txt` |
| ScanNet export | `color/6.jpg` | `depth/6.png`, mm | `pose/6.txt` | `intrinsic/intrinsic_{color,depth}.txt` |
| TUM | `rgb.txt` | `depth.txt`, 1/5000 m | `groundtruth.txt` | given, or `intrinsics.txt` |

Poses are camera-to-world in metres, axes as OpenCV's, in all three.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from geovr_hf.data.images import list_frames
from geovr_hf.modeling.geometry_geovr import quaternion_to_matrix


TUM_LARGEST_GAP = 0.02
"""Seconds between a picture and the depth map or pose taken with it, as in TUM's own association tool."""


@dataclass(frozen=True)
class RGBDFrame:
    """Files and pose of one frame.

    Args:
        color (`Path`): Colour picture.
        depth (`Path` or `None`): 16-bit depth map; `None` if none was taken with the picture.
        world_from_cam (`np.ndarray` of shape `(4, 4)`): Pose in metres; not finite where tracking was lost.
        time (`float`): Seconds, from any origin.
    """

    color: Path
    depth: Path | None
    world_from_cam: np.ndarray
    time: float


@dataclass(frozen=True)
class RGBDFiles:
    """A recording as found on disk.

    Args:
        frames (`list[RGBDFrame]`): In order of time.
        color_intrinsics (`np.ndarray` of shape `(3, 3)`): Pinhole matrix in pixels of the colour pictures.
        depth_intrinsics (`np.ndarray` of shape `(3, 3)` or `None`): The same of the depth maps; `None` if a depth map
            covers exactly what its colour picture covers, at whatever resolution.
        depth_per_metre (`float`): Depth value of one metre.
    """

    frames: list[RGBDFrame]
    color_intrinsics: np.ndarray
    depth_intrinsics: np.ndarray | None
    depth_per_metre: float


def find_recording(folder: str | Path, frame_rate: float, intrinsics: np.ndarray | None = None) -> RGBDFiles:
    """Recognise the layout of a folder and list its frames.

    Args:
        folder (`str` or `Path`): The recording.
        frame_rate (`float`): Frame numbers per second, for layouts whose file names count frames.
        intrinsics (`np.ndarray` of shape `(3, 3)`, *optional*): Colour intrinsics, instead of the folder's own.

    Returns:
        [`RGBDFiles`]

    Raises:
        ValueError: The folder is missing, has none of the three layouts, lacks a file of its layout, or a file in it
            does not hold the numbers it should.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of recorded RGB-D.")
    if (folder / "rgb.txt").is_file():
        return _find_tum(folder, intrinsics)
    if (folder / "pose").is_dir():
        return _find_scannet(folder, frame_rate, intrinsics)
    if any(folder.glob("*.color.*")):
        return _find_frames(folder, frame_rate, intrinsics)
    raise ValueError(
        f"{folder}: not recorded RGB-D. Expected `*.color.*`, `*.depth.png` and `*.pose.txt` files, or the folders "
        "`color`, `depth` and `pose`, or the files `rgb.txt`, `depth.txt` and `groundtruth.txt`."
    )


def _find_frames(folder: Path, frame_rate: float, intrinsics: np.ndarray | None) -> RGBDFiles:
    frames = [
        RGBDFrame(
            color=color,
            depth=_existing(folder / f"{color.stem.removesuffix('.color')}.depth.png"),
            world_from_cam=_read_matrix(folder / f"{color.stem.removesuffix('.color')}.pose.txt", (4, 4)),
            time=_frame_number(color) / frame_rate,
        )
        for color in list_frames(folder)
    ]
    if intrinsics is None:
        intrinsics = _read_matrix(folder / "intrinsics.txt", (3, 3))
    return RGBDFiles(frames, intrinsics, None, 1000.0)


def _find_scannet(folder: Path, frame_rate: float, intrinsics: np.ndarray | None) -> RGBDFiles:
    frames = [
        RGBDFrame(
            color=color,
            depth=_existing(folder / "depth" / f"{color.stem}.png"),
            world_from_cam=_read_matrix(folder / "pose" / f"{color.stem}.txt", (4, 4)),
            time=_frame_number(color) / frame_rate,
        )
        for color in list_frames(folder)
    ]
    if not frames:
        raise ValueError(f"{folder}: the folder `color` holds no picture.")
    if intrinsics is None:
        intrinsics = _read_matrix(folder / "intrinsic" / "intrinsic_color.txt", (4, 4))[:3, :3]
    depth_intrinsics = _read_matrix(folder / "intrinsic" / "intrinsic_depth.txt", (4, 4))[:3, :3]
    return RGBDFiles(frames, intrinsics, depth_intrinsics, 1000.0)


def _find_tum(folder: Path, intrinsics: np.ndarray | None) -> RGBDFiles:
    colors = _read_tum_list(folder / "rgb.txt", 1)
    depths = _read_tum_list(folder / "depth.txt", 1)
    poses = _read_tum_list(folder / "groundtruth.txt", 7)
    if intrinsics is None:
        if not (folder / "intrinsics.txt").is_file():
            raise ValueError(
                f"{folder}: a TUM recording does not hold its intrinsics. Pass `intrinsics` (3 x 3, pixels), "
                "or write them to `intrinsics.txt` in the folder."
            )
        intrinsics = _read_matrix(folder / "intrinsics.txt", (3, 3))
    if [Path(color).name for (color,) in colors.values()] != [path.name for path in list_frames(folder)]:
        # A clip read from the folder counts the pictures there; a teacher would look up other frames.
        raise ValueError(f"{folder}: `rgb.txt` does not list just the pictures in the folder `rgb`, in their order.")
    depth_times, pose_times = np.array(list(depths)), np.array(list(poses))
    frames = []
    for time, (color,) in colors.items():
        depth = _nearest(depth_times, time)
        pose = _nearest(pose_times, time)
        frames.append(
            RGBDFrame(
                color=folder / color,
                depth=None if depth is None else folder / depths[depth][0],
                world_from_cam=np.full((4, 4), np.nan) if pose is None else _tum_pose(poses[pose]),
                time=time,
            )
        )
    return RGBDFiles(frames, intrinsics, None, 5000.0)


def _read_tum_list(path: Path, columns: int) -> dict[float, list[str]]:
    """A TUM list: lines of a time and values; `#` begins a comment. Sorted by time."""
    entries = {}
    for number, line in enumerate(_existing(path).read_text().splitlines(), start=1):
        fields = line.split("#")[0].split()
        if not fields:
            continue
        if len(fields) != columns + 1:
            raise ValueError(f"{path}, line {number}: expected a time and {columns} values, got {line!r}.")
        entries[float(fields[0])] = fields[1:]
    if not entries:
        raise ValueError(f"{path}: the list is empty.")
    return dict(sorted(entries.items()))


def _nearest(times: np.ndarray, time: float) -> float | None:
    nearest = float(times[np.abs(times - time).argmin()])
    return nearest if abs(nearest - time) <= TUM_LARGEST_GAP else None


def _tum_pose(fields: list[str]) -> np.ndarray:
    """`tx ty tz qx qy qz qw` as a camera-to-world matrix."""
    values = torch.tensor([float(field) for field in fields], dtype=torch.float64)
    pose = np.eye(4)
    pose[:3, :3] = quaternion_to_matrix(values[3:]).numpy()
    pose[:3, 3] = values[:3].numpy()
    return pose


def _read_matrix(path: Path, shape: tuple[int, int]) -> np.ndarray:
    text = _existing(path).read_text()
    try:
        return np.array([float(field) for field in text.split()]).reshape(shape)
    except ValueError as error:
        raise ValueError(f"{path}: expected {shape[0]} x {shape[1]} numbers, got {text.strip()[:80]!r}.") from error


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path}: this file of the recording is missing.")
    return path


def _frame_number(path: Path) -> int:
    """The last number in a file name: 6 of `frame-000006.color.jpg`."""
    numbers = re.findall(r"\d+", path.stem)
    if not numbers:
        raise ValueError(f"{path}: a frame's file name must hold its number.")
    return int(numbers[-1])
