"""transformers' common processor and video-processor tests."""

import tempfile
import unittest
from pathlib import Path

import numpy as np
from candidates import candidate

from geovr_hf.tiny import make_tiny_processor

from .test_processing_common import ProcessorTesterMixin
from .test_video_processing_common import VideoProcessingTestMixin, prepare_video


def _save_tiny_processor() -> str:
    folder = tempfile.mkdtemp(prefix="processor_", dir=Path.cwd())
    tiny = make_tiny_processor(["lower newer upper older longer string"] * 4)
    parts = {name: getattr(tiny, name) for name in tiny.get_attributes()}
    candidate.processor(**parts, chat_template=tiny.chat_template).save_pretrained(folder)
    return folder


SAVED = _save_tiny_processor()


class TestProcessor(ProcessorTesterMixin, unittest.TestCase):
    processor_class = candidate.processor
    tiny_model_id = SAVED


class _VideoProcessorTester:
    batch_size = 3
    num_frames = 8
    num_channels = 3

    def prepare_video_inputs(self, equal_resolution=False, return_tensors="pil"):
        """Clips whose sides are multiples of 32, which the processor leaves alone."""
        sides = (64,) * 3 if equal_resolution else (32, 64, 96)
        return [prepare_video(self.num_frames, self.num_channels, side, 64, return_tensors) for side in sides]

    def expected_output_video_shape(self, videos):
        """Patches of all clips, and values per patch."""
        areas = [np.asarray(video[0]).size // self.num_channels for video in videos]
        return sum(areas) // 16**2 * self.num_frames // 2, self.num_channels * 2 * 16**2


class TestVideoProcessor(VideoProcessingTestMixin, unittest.TestCase):
    """On the video processor that a saved processor loads."""

    fast_video_processing_class = type(candidate.processor.from_pretrained(SAVED).video_processor)
    video_processor_dict = {
        "size": {"shortest_edge": 32 * 32, "longest_edge": 2**20},
        "do_sample_frames": False,
    }

    def setUp(self):
        super().setUp()
        self.video_processor_tester = _VideoProcessorTester()

    def assert_expected_videos_shape(self, encoded_videos, expected_output_video_shape, num_videos):
        """The patches of all clips are concatenated."""
        self.assertEqual(tuple(encoded_videos.shape), expected_output_video_shape)


del ProcessorTesterMixin, VideoProcessingTestMixin
