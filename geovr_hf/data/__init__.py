"""Clips and rows: reading video, published question sets, recorded RGB-D, and (`geovr_hf.data.rooms`) synthetic rooms.

Nothing here imports PyAV or `datasets` before it needs them.
"""

from geovr_hf.data.clip import Clip, UnreadableClipError
from geovr_hf.data.datasets import SkippedRow, StreamingVideoDataset, VideoDataset
from geovr_hf.data.images import list_frames, read_image
from geovr_hf.data.rgbd import RGBDRecording
from geovr_hf.data.rgbd_rows import rgbd_rows
from geovr_hf.data.rows import RowDecoder, normalize_row, resolve_media
from geovr_hf.data.sampling import FrameSampling
from geovr_hf.data.video import read_clip
from geovr_hf.data.vlm_3r import load_vlm_3r
from geovr_hf.data.vsi_590k import load_vsi_590k
from geovr_hf.data.vsi_bench import VSIBenchPrompt, load_vsi_bench


__all__ = [
    "Clip",
    "FrameSampling",
    "RGBDRecording",
    "RowDecoder",
    "SkippedRow",
    "StreamingVideoDataset",
    "UnreadableClipError",
    "VSIBenchPrompt",
    "VideoDataset",
    "list_frames",
    "load_vlm_3r",
    "load_vsi_590k",
    "load_vsi_bench",
    "normalize_row",
    "read_clip",
    "read_image",
    "resolve_media",
    "rgbd_rows",
]
