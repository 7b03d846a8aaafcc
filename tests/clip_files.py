"""Video files that carry their frame numbers in their pixels, written with PyAV."""

import struct
from pathlib import Path

import numpy as np


HEIGHT, WIDTH, BLOCK = 32, 64, 8


def numbered_frame(number: int) -> np.ndarray:
    """A picture `(32, 64, 3)`: a grey ramp, and a top row of eight blocks that spell `number` in binary."""
    frame = np.full((HEIGHT, WIDTH, 3), 60, dtype=np.uint8)
    frame[HEIGHT // 2 :, :, 0] = np.arange(WIDTH) * 3
    for bit in range(8):
        frame[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 if number >> bit & 1 else 0
    return frame


def read_number(frame) -> int:
    """The number that a decoded, possibly lossy picture carries."""
    blocks = np.asarray(frame)[2:6, :, :].mean((0, 2)).reshape(8, BLOCK)[:, 2:6].mean(1)
    return sum(int(level > 127) << bit for bit, level in enumerate(blocks))


def write_video(path: Path, num_frames=40, codec="libx264", options=None, rate=30, ticks=None) -> str:
    """Write numbered frames. `ticks` gives presentation times in 1/1000 s, else the rate is constant."""
    import av

    # The index at the head of an mp4 file: what is left of a truncated one can still be opened.
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {"g": "12"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        if ticks is not None:
            from fractions import Fraction

            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            if ticks is not None:
                frame.pts, frame.time_base = ticks[number], stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def turn_clockwise(source: str, path: Path) -> str:
    """Copy an mp4 file with the display matrix set to a quarter turn clockwise, as phones do."""
    data = bytearray(Path(source).read_bytes())
    matrix = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version and flags, times and duration, reserved, layer
    one = 1 << 16
    data[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, HEIGHT * one, 0, 1 << 30)
    path.write_bytes(data)
    return str(path)
