import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_files import HEIGHT, WIDTH, numbered_frame, read_number, turn_clockwise, write_video
from PIL import Image

from geovr_hf.data import Clip, FrameSampling, UnreadableClipError, read_clip


av = pytest.importorskip("av")

FORMATS = {
    "h264_b_frames.mp4": ("libx264", {"g": "12", "bf": "3"}),
    "h264_open_groups.mp4": ("libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}),
    "h264_transport_stream.ts": ("libx264", {"g": "12"}),
    "vp9.webm": ("libvpx-vp9", {"g": "12", "deadline": "realtime"}),
    "mpeg4.avi": ("mpeg4", {"g": "12", "bf": "2"}),
}


def decode_everything(path):
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "video.mp4")


class TestChoosingFrames:
    @pytest.mark.parametrize("total,count", [(1, 1), (7, 7), (40, 1), (40, 5), (41, 8), (600, 32), (97, 96)])
    def test_a_constant_rate_gives_the_frames_of_qwens_sampler(self, total, count):
        times = np.arange(total) / 29.97
        chosen = FrameSampling(num_frames=count).choose(times, 1 / 29.97)
        assert chosen.tolist() == np.linspace(0, total - 1, count).round().astype(int).tolist()

    @pytest.mark.parametrize("rate,total,count", [(30, 600, 32), (30, 90, 6), (25, 20, 4), (24, 2, 2)])
    def test_the_default_is_two_frames_per_second_between_4_and_32(self, rate, total, count):
        assert len(FrameSampling().choose(np.arange(total) / rate, 1 / rate)) == count

    def test_a_variable_rate_is_sampled_evenly_in_time(self):
        times = np.concatenate([np.arange(100) / 100, 1 + np.arange(1, 11) / 10])  # one fast and one slow second
        chosen = FrameSampling(num_frames=5).choose(times, 0.1)
        assert times[chosen] == pytest.approx([0, 0.5, 1.0, 1.5, 2.0], abs=0.051)

    def test_no_frame_is_taken_twice_however_uneven_the_times(self):
        generator = np.random.default_rng(0)
        for _ in range(200):
            times = np.cumsum(generator.exponential(size=generator.integers(1, 30)) ** 4 + 1e-3)
            count = generator.integers(1, len(times) + 1)
            chosen = FrameSampling(num_frames=int(count)).choose(times, 0.1)
            assert len(chosen) == count and (np.diff(chosen) > 0).all()
            assert chosen[0] >= 0 and chosen[-1] < len(times)

    @pytest.mark.parametrize(
        "options",
        [
            {"num_frames": 4, "fps": 1.0},
            {"num_frames": 0},
            {"fps": 0.0},
            {"min_frames": 8, "max_frames": 4},
            {"start": 2.0, "end": 1.0},
        ],
    )
    def test_contradictory_sampling_is_refused(self, options):
        with pytest.raises(ValueError, match=r"num_frames|fps|min_frames|end"):
            FrameSampling(**options)


class TestReadingVideos:
    @pytest.mark.parametrize("name", FORMATS)
    def test_sparse_reading_gives_the_frames_of_a_full_decode(self, tmp_path, name):
        codec, options = FORMATS[name]
        path = write_video(tmp_path / name, codec=codec, options=options)
        full = decode_everything(path)
        assert len(full) == 40
        for count in (1, 3, 7, 40):
            clip = read_clip(path, num_frames=count)
            assert len(clip) == count
            for index, frame in zip(clip.frame_indices, clip.frames, strict=True):
                assert np.array_equal(frame.numpy(), full[index])
                assert read_number(frame) == index

    @pytest.mark.parametrize("name", ["long.mp4", "long.mkv", "long.ts"])
    def test_sparse_reading_decodes_only_the_groups_it_needs(self, name, tmp_path, monkeypatch):
        path = write_video(tmp_path / name, num_frames=240, options={"g": "10", "bf": "3"})
        decoded = []
        original = av.container.InputContainer.decode

        class CountingContainer:
            def __init__(self, container):
                self.container = container

            def __getattr__(self, name):
                return getattr(self.container, name)

            def __enter__(self):
                return self

            def __exit__(self, *error):
                self.container.close()

            def decode(self, *streams):
                for frame in original(self.container, *streams):
                    decoded.append(frame.pts)
                    yield frame

        open_container = av.open
        monkeypatch.setattr(av, "open", lambda *args, **kwargs: CountingContainer(open_container(*args, **kwargs)))
        clip = read_clip(path, num_frames=4)
        assert [read_number(frame) for frame in clip.frames] == list(clip.frame_indices) == [0, 80, 159, 239]
        assert len(decoded) <= 4 * 10

    def test_timestamps_are_those_of_the_file(self, tmp_path):
        ticks = [0, 40, 80, 500, 510, 900, 2000, 2040]
        path = write_video(tmp_path / "uneven.mkv", num_frames=8, ticks=ticks, options={"bf": "2"})
        clip = read_clip(path, num_frames=8)
        assert clip.timestamps.tolist() == pytest.approx([tick / 1000 for tick in ticks])
        assert clip.content()["timestamps"] == clip.timestamps.tolist()

    def test_a_stretch_keeps_the_times_and_numbers_of_the_whole(self, video):
        clip = read_clip(video, fps=10, start=0.5, end=1.0)
        assert clip.frame_indices[0] == 15 and clip.frame_indices[-1] == 30
        assert clip.timestamps[0] == pytest.approx(0.5) and clip.timestamps[-1] == pytest.approx(1.0)
        assert [read_number(frame) for frame in clip.frames] == list(clip.frame_indices)

    def test_one_frame_is_a_clip(self, tmp_path):
        clip = read_clip(write_video(tmp_path / "still.mp4", num_frames=1))
        assert len(clip) == 1 and clip.timestamps.tolist() == [0.0]

    def test_a_short_video_gives_all_it_has_and_repeats_nothing(self, tmp_path):
        clip = read_clip(write_video(tmp_path / "short.mp4", num_frames=3), num_frames=16)
        assert clip.frame_indices == (0, 1, 2)

    def test_a_video_marked_as_turned_comes_out_upright(self, video, tmp_path):
        upright = read_clip(turn_clockwise(video, tmp_path / "phone.mp4"), num_frames=2)
        stored = read_clip(video, num_frames=2)
        assert upright.image_size == (WIDTH, HEIGHT)
        assert torch.equal(upright.frames, stored.frames.rot90(-1, (1, 2)))

    def test_workers_of_a_data_loader_read_the_same_clips(self, video):
        class Clips(torch.utils.data.Dataset):
            def __len__(self):
                return 4

            def __getitem__(self, index):
                return read_clip(video, num_frames=index + 1).frames

        loader = torch.utils.data.DataLoader(Clips(), batch_size=None, num_workers=2)
        for index, frames in enumerate(loader):
            assert torch.equal(frames, read_clip(video, num_frames=index + 1).frames)


class TestUnreadableVideos:
    def make(self, kind, tmp_path):
        path = tmp_path / f"{kind}.mp4"
        if kind == "missing":
            return path
        data = Path(write_video(tmp_path / "whole.mp4", num_frames=60)).read_bytes()
        start = data.index(b"mdat")
        contents = {
            "empty": b"",
            "text": b"this is no video at all" * 20,
            "without_index": data[: len(data) // 2],
            "damaged": data[: start + 40] + bytes(len(data[start + 40 :]) // 3) + data[start + 40 :][len(data) // 3 :],
        }
        path.write_bytes(contents[kind])
        return path

    @pytest.mark.parametrize("kind", ["missing", "empty", "text", "without_index", "damaged"])
    def test_the_error_names_the_file(self, kind, tmp_path):
        path = self.make(kind, tmp_path)
        with pytest.raises(UnreadableClipError, match=f"{kind}.mp4: ."):
            read_clip(path, num_frames=60)

    @pytest.mark.parametrize("ending", ["mkv", "mp4", "avi"])
    @pytest.mark.parametrize("share", [0.5, 0.8])
    def test_a_download_that_stopped_is_truncated_not_short(self, ending, share, tmp_path):
        whole = Path(write_video(tmp_path / f"whole.{ending}", num_frames=200)).read_bytes()
        path = tmp_path / f"stopped.{ending}"
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UnreadableClipError, match=f"stopped.{ending}: .*truncated"):
            read_clip(path)

    def test_tags_in_another_encoding_do_no_harm(self, tmp_path):
        path = tmp_path / "tagged.mkv"
        with av.open(str(path), "w") as container:
            container.metadata["title"] = "CAFETERIA"
            stream = container.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
            for number in range(6):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")))
            container.mux(stream.encode())
        path.write_bytes(path.read_bytes().replace(b"CAFETERIA", b"CAF\xe9TERIA"))
        assert [read_number(frame) for frame in read_clip(path, num_frames=3).frames] == [0, 2, 5]

    def test_a_codec_that_ffmpeg_lacks_is_named_as_the_reason(self, tmp_path):
        data = Path(write_video(tmp_path / "whole.mp4", num_frames=6)).read_bytes()
        path = tmp_path / "rare.mp4"
        path.write_bytes(data.replace(b"avc1", b"zzzz"))
        with pytest.raises(UnreadableClipError, match=r"rare\.mp4: FFmpeg, as PyAV brings it, cannot decode"):
            read_clip(path)

    def test_a_sound_file_has_no_video(self, tmp_path):
        path = tmp_path / "sound.wav"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            sound.sample_rate = 8000
            container.mux(stream.encode(sound))
        with pytest.raises(UnreadableClipError, match="no video stream"):
            read_clip(path)

    def test_a_stretch_after_the_end_names_the_end(self, video):
        with pytest.raises(UnreadableClipError, match=r"40 frames end at 1\.300 s"):
            read_clip(video, start=5.0)

    def test_a_stream_without_times_is_refused_with_the_cure(self, tmp_path):
        with pytest.raises(UnreadableClipError, match="ffmpeg"):
            read_clip(write_video(tmp_path / "raw.h264"))

    def test_the_error_survives_the_way_back_from_a_worker(self):
        error = pickle.loads(pickle.dumps(UnreadableClipError("a.mp4: broken")))
        assert str(error) == "a.mp4: broken" and isinstance(error, ValueError)


class TestFoldersOfImages:
    def write(self, folder, names):
        folder.mkdir(exist_ok=True)
        for number, name in enumerate(names):
            Image.fromarray(numbered_frame(number)).save(folder / name)
        return folder

    def test_images_are_frames_in_the_order_of_their_numbers(self, tmp_path):
        folder = self.write(tmp_path / "frames", [f"{number}.png" for number in range(12)])
        clip = read_clip(folder, num_frames=12, image_rate=2.0)
        assert [read_number(frame) for frame in clip.frames] == list(range(12))
        assert clip.timestamps.tolist() == [number / 2 for number in range(12)]
        assert clip.source == str(folder)
        with pytest.raises(ValueError, match="`image_rate` must be positive, got 0"):
            read_clip(folder, image_rate=0)

    def test_recorded_depth_beside_colour_is_not_taken_for_frames(self, tmp_path):
        folder = self.write(tmp_path / "rgbd", ["frame-0.color.png", "frame-1.color.png"])
        Image.fromarray(np.full((HEIGHT, WIDTH), 1000, np.uint16)).save(folder / "frame-0.depth.png")
        assert len(read_clip(folder)) == 2

    def test_a_depth_map_alone_is_refused(self, tmp_path):
        folder = self.write(tmp_path / "depth", [])
        Image.fromarray(np.full((HEIGHT, WIDTH), 1000, np.uint16)).save(folder / "0.png")
        with pytest.raises(UnreadableClipError, match="RGBDRecording"):
            read_clip(folder)

    def test_a_photograph_taken_sideways_comes_out_upright(self, tmp_path):
        folder = self.write(tmp_path / "photo", [])
        exif = Image.Exif()
        exif[0x0112] = 6  # turn clockwise to view
        Image.fromarray(numbered_frame(5)).save(folder / "0.png", exif=exif)
        clip = read_clip(folder)
        assert np.array_equal(clip.frames[0].numpy(), np.rot90(numbered_frame(5), -1))

    def test_an_empty_folder_a_broken_image_and_mixed_sizes_are_named(self, tmp_path):
        folder = self.write(tmp_path / "frames", [])
        with pytest.raises(UnreadableClipError, match="no image"):
            read_clip(folder)
        (folder / "0.png").write_bytes(b"not a picture")
        with pytest.raises(UnreadableClipError, match=r"0\.png"):
            read_clip(folder)
        self.write(folder, ["0.png"])
        Image.new("RGB", (8, 8)).save(folder / "1.png")
        with pytest.raises(UnreadableClipError, match="one size"):
            read_clip(folder)


class TestClip:
    frames = torch.zeros(2, 4, 6, 3, dtype=torch.uint8)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)

    @pytest.mark.parametrize(
        "frames,times,indices",
        [
            (frames.float(), times, (0, 1)),
            (frames[..., :2], times, (0, 1)),
            (frames[:0], times[:0], ()),
            (frames, times.float(), (0, 1)),
            (frames, times[:1], (0, 1)),
            (frames, times.flip(0), (0, 1)),
            (frames, times, (0,)),
        ],
    )
    def test_fields_that_do_not_belong_together_are_refused_by_name(self, frames, times, indices):
        with pytest.raises(ValueError, match=r"kitchen\.mp4"):
            Clip(frames, times, "kitchen.mp4", indices)
