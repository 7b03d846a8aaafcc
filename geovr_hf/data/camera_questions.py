"""What can be asked about any clip with known cameras and depth: recorded or rendered.

The kinds are VSTI-Bench's camera displacement and camera movement, and the depth at a picture's centre.
"""

import math

import numpy as np


SMALLEST_TURN = math.radians(10)
"""Turns below this are not asked about: too small to see."""

DISPLACEMENT_TEXT = "How far from its position in the first frame is the camera in the last frame, in meters?"
TURN_TEXT = "Compared with the first frame, which way does the camera look in the last frame?"
TURN_OPTIONS = ("A. left", "B. right")


def center_depth_text(frame: int, num_frames: int) -> str:
    """The question about the depth at the centre of one frame (counted from 0) of a clip."""
    name = {0: "the first frame", num_frames - 1: "the last frame"}.get(frame, f"frame {frame + 1} of {num_frames}")
    return (
        f"In {name}, how far from the camera is the surface in the center of the picture, measured along the viewing "
        "direction in meters?"
    )


def turn_between(world_from_first: np.ndarray, world_from_last: np.ndarray) -> float:
    """Angle by which a camera has turned about its vertical axis.

    Args:
        world_from_first (`np.ndarray` of shape `(4, 4)`): Pose of the camera in the first frame, OpenCV axes.
        world_from_last (`np.ndarray` of shape `(4, 4)`): Its pose in the last frame.

    Returns:
        `float`: Radians in (-pi, pi], positive to the right.
    """
    forward = world_from_first[:3, :3].T @ world_from_last[:3, 2]  # the last view in the first camera's axes
    return math.atan2(forward[0], forward[2])
