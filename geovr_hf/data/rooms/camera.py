"""Pinhole cameras and the path of someone who walks through the room and looks around."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from .boxes import Obstacles
from .plan import FloorPlan


_BODY = 0.25  # metres kept between the camera's path and furniture
_WALL = 0.5  # metres kept to walls: nearer, a wall fills the picture
_STEPS = 12  # points at which a leg of the path is checked
_SPOTS = 160  # places drawn, of which the free ones may be on the path
_CANDIDATES = 24  # ends tried for a leg
_CHOICE = 4  # free ends of a leg, of which the one farthest from the path so far is taken
_SPEED = 0.6  # metres per second
_TURN = 0.7  # radians per second


class Rays(NamedTuple):
    """Rays of `T` images of `H x W` pixels.

    A direction's component along the optical axis is 1, so that the ray parameter of a hit is its z-depth.

    Args:
        origins (`(T, 3)` float32): Camera centres in the room's frame.
        directions (`(T, H, W, 3)` float32): Through the pixels' centres, in the room's frame.
    """

    origins: np.ndarray
    directions: np.ndarray


@dataclass(frozen=True)
class Walk:
    """Cameras of a clip.

    Args:
        room_from_cam (`(T, 4, 4)` float64): Pose of each camera in the room's frame (metres, z up). Camera axes are
            OpenCV's: x right, y down, z forward.
        fov (`(2,)` radians): Vertical and horizontal field of view. The principal point is the image's middle.
        timestamps (`(T,)` seconds): Time of each frame, from 0.
    """

    room_from_cam: np.ndarray
    fov: tuple[float, float]
    timestamps: np.ndarray

    def select(self, frames: list[int]) -> "Walk":
        """The walk at the given frames only."""
        return replace(self, room_from_cam=self.room_from_cam[frames], timestamps=self.timestamps[frames])

    def rays(self, size: tuple[int, int]) -> Rays:
        """Rays through the centres of `height x width` pixels. Pixels are square if `size` has the walk's aspect."""
        height, width = size
        tan_v, tan_h = np.tan(np.array(self.fov) / 2)
        x = ((np.arange(width) + 0.5) / width * 2 - 1) * tan_h
        y = ((np.arange(height) + 0.5) / height * 2 - 1) * tan_v
        grid = np.stack([*np.meshgrid(x, y), np.ones(size)], axis=-1).astype(np.float32)
        cameras = self.room_from_cam.astype(np.float32)
        directions = grid.reshape(-1, 3) @ cameras[:, :3, :3].transpose(0, 2, 1)
        return Rays(cameras[:, :3, 3], directions.reshape(-1, height, width, 3))


def sample_fov(rng: np.random.Generator, fov_range: tuple[float, float], aspect: float) -> tuple[float, float]:
    """Draw a horizontal field of view from `fov_range` (degrees); the vertical one follows from width / height."""
    horizontal = np.radians(rng.uniform(*fov_range))
    return float(2 * np.arctan(np.tan(horizontal / 2) / aspect)), float(horizontal)


def sample_walk(
    rng: np.random.Generator,
    plan: FloorPlan,
    obstacles: Obstacles,
    num_frames: int,
    fov: tuple[float, float],
    sweep_range: tuple[float, float],
    look_ahead: bool = False,
    eye_height: tuple[float, float] = (1.2, 1.7),
) -> Walk | None:
    """Draw a smooth, collision-free path at eye height with a gaze that sweeps over the room.

    Args:
        rng: Source of all draws.
        plan: The empty room.
        obstacles: Ground plans of the furniture.
        num_frames: Number of frames `T`, spread evenly over the walk.
        fov: Vertical and horizontal field of view in radians.
        sweep_range: Least and greatest angle in degrees by which the gaze turns.
        look_ahead: Look where the path leads instead of sweeping over the room.
        eye_height: Least and greatest height of the camera in metres.

    Returns:
        The walk, or `None` if no free path was found.
    """
    path = _sample_path(rng, plan, obstacles)
    if path is None:
        return None
    s = np.linspace(0, 1, num_frames) if num_frames > 1 else np.zeros(1)
    lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
    travelled = np.concatenate([[0], np.cumsum(lengths)])
    ground = np.stack([np.interp(s * travelled[-1], travelled, path[:, i]) for i in range(2)], axis=1)
    sweep = np.radians(rng.uniform(*sweep_range)) * rng.choice([-1, 1])
    sway = rng.uniform(0, 2 * np.pi, 4)
    gaze = _ahead(path, s) if look_ahead else _sweep(rng, plan, ground.mean(axis=0), sweep, s)
    yaw = gaze + 0.12 * np.sin(7 * s + sway[0])
    pitch = -np.radians(rng.uniform(9, 20)) + 0.06 * np.sin(9 * s + sway[1])
    roll = 0.03 * np.sin(8 * s + sway[2])
    height = rng.uniform(*eye_height) + 0.02 * np.sin(20 * s + sway[3])
    room_from_cam = np.tile(np.eye(4), (num_frames, 1, 1))
    room_from_cam[:, :3, :3] = _gaze(yaw, pitch, roll)
    room_from_cam[:, :2, 3] = ground
    room_from_cam[:, 2, 3] = height
    duration = max(travelled[-1] / _SPEED, abs(sweep) / _TURN)
    return Walk(room_from_cam, fov, np.round(s * duration, 3))


def _sample_path(rng, plan: FloorPlan, obstacles: Obstacles) -> np.ndarray | None:
    """Points of a smoothed polyline of two to four legs, shape `(P, 2)`."""

    def free(points: np.ndarray) -> np.ndarray:
        return (plan.clearance(points) >= _WALL) & (obstacles.clearance(points) >= _BODY)

    spots = rng.uniform(0, 1, (_SPOTS, 2)) * (plan.width, plan.depth)
    spots = spots[free(spots)]
    if len(spots) < 2:
        return None
    legs = int(rng.integers(2, 5))
    path = [spots[0]]
    for _ in range(legs):
        ends = spots[rng.integers(len(spots), size=_CANDIDATES)]
        span = np.linalg.norm(ends - path[-1], axis=1)
        ends = ends[(span > 0.4) & (span < 2.5)]
        steps = np.linspace(0, 1, _STEPS)[None, :, None]
        ends = ends[free(path[-1] + steps * (ends[:, None] - path[-1])).all(axis=1)]
        if len(ends) == 0:
            break
        path.append(max(ends[:_CHOICE], key=lambda end: np.linalg.norm(end - path, axis=1).min()))
    if len(path) < 2:
        return None
    smooth = _round_corners(np.array(path))
    # Cutting a corner can brush what the corner went around; the polyline itself is known to be free.
    return smooth if free(smooth).all() else np.array(path)


def _sweep(rng, plan: FloorPlan, place: np.ndarray, angle: float, s: np.ndarray) -> np.ndarray:
    """Headings at progress `s` of a gaze that turns by `angle`, more slowly where the view is wide.

    So it lingers where there is room to look into, and what the turn leaves out is rather a wall close by.
    """
    headings = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    reach = np.linspace(0.1, 10, 50)[:, None]
    points = place + reach * np.stack([np.cos(headings), np.sin(headings)], axis=-1)[:, None]
    free = np.minimum.accumulate(plan.clearance(points) > 0, axis=1).sum(axis=1)
    openness = free / free.max() + 0.25  # the constant bounds the speed, so that neighbouring frames overlap
    skipped = rng.choice(headings, p=openness**-2 / (openness**-2).sum())
    turn = skipped + np.sign(angle) * np.pi + angle * np.linspace(-0.5, 0.5, 72)
    seen = np.cumsum(np.interp(turn, headings, openness, period=2 * np.pi))
    return np.interp(s, (seen - seen[0]) / (seen[-1] - seen[0]), turn)


def _ahead(path: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Headings at progress `s` of someone who looks along the path, turning smoothly over about a metre of it."""
    travelled = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.linspace(0, travelled[-1], 200)
    dense = np.stack([np.interp(at, travelled, path[:, i]) for i in range(2)], axis=1)
    step = np.diff(dense, axis=0)
    heading = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
    reach = max(1, round(100 * min(1.0, 1.0 / travelled[-1])))
    padded = np.pad(heading, reach, mode="edge")
    smooth = np.convolve(padded, np.full(2 * reach + 1, 1 / (2 * reach + 1)), mode="valid")
    return np.interp(s, np.linspace(0, 1, len(smooth)), smooth)


def _round_corners(path: np.ndarray, rounds: int = 3) -> np.ndarray:
    """Chaikin's corner cutting: both ends stay."""
    for _ in range(rounds):
        a, b = path[:-1], path[1:]
        cut = np.stack([0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b], axis=1).reshape(-1, 2)
        path = np.concatenate([path[:1], cut, path[-1:]])
    return path


def _gaze(yaw: np.ndarray, pitch: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """Rotations room-from-camera, shape `(T, 3, 3)`: `yaw` about z, `pitch` upwards, `roll` about the view axis."""
    forward = np.stack([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)], axis=-1)
    right = np.stack([np.sin(yaw), -np.cos(yaw), np.zeros_like(yaw)], axis=-1)
    down = np.cross(forward, right)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    return np.stack([c * right + s * down, c * down - s * right, forward], axis=-1)
