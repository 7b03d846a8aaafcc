"""Our own stand-ins for the support modules that transformers' released test files import and do not ship.

They hold no tests: whatever runs in the suite is transformers' own.
"""

import wave
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import av
import numpy as np
from PIL import Image


# Used for configurations without sub-configurations only.
config_common_kwargs = {}


class GenerationTesterMixin:
    """Not released. tests/test_generation_parity.py takes its place."""


class ExportTesterMixin:
    """Not released."""


def url_to_local_path(url: str) -> str:
    """Path of a small file of the same kind: the suite must not depend on the network."""
    return str(_media_folder() / f"sample{Path(url).suffix}")


@cache
def _media_folder() -> Path:
    folder = Path(mkdtemp(prefix="media_", dir=Path.cwd()))
    noise = np.random.default_rng(0)
    picture = noise.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    for suffix in ("png", "jpg"):
        Image.fromarray(picture).save(folder / f"sample.{suffix}")
    # 11 frames at 30 per second: the length that the suite's expectations on sampling assume.
    with av.open(folder / "sample.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for shift in range(11):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 8 * shift, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with wave.open(str(folder / "sample.wav"), "wb") as audio:
        audio.setnchannels(1)
        audio.setsampwidth(2)
        audio.setframerate(16000)
        audio.writeframes(bytes(32000))
    return folder
