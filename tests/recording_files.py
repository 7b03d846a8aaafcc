"""A small RGB-D recording in the layout of 7-Scenes, of noise."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_noise_recording(folder: Path) -> str:
    """Write six frames of 48 x 64 pixels, from a camera that steps ahead. Returns the folder's path."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(6):
        stem = folder / f"frame-{index:06d}"
        Image.fromarray(generator.integers(0, 256, (48, 64, 3)).astype(np.uint8)).save(f"{stem}.color.jpg")
        Image.fromarray(generator.integers(500, 4000, (48, 64)).astype(np.uint16)).save(f"{stem}.depth.png")
        pose = np.eye(4)
        pose[2, 3] = 0.1 * index
        np.savetxt(f"{stem}.pose.txt", pose)
    np.savetxt(folder / "intrinsics.txt", [[60, 0, 32], [0, 60, 24], [0, 0, 1]])
    return str(folder)
