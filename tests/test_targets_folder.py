"""A folder of targets gives every clip its own targets, in any process, and says so when it cannot."""

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load, save_file
from targets_support import PixelTeacher, assert_same_targets, clip, image_folder
from torch.utils.data import DataLoader

from geovr_hf.data import FrameSampling, VideoDataset, read_clip
from geovr_hf.modeling.heads_geovr import pool_feature_grid
from geovr_hf.targets import (
    Manifest,
    MissingTargetsError,
    TargetFileError,
    TargetFolder,
    TargetFormat,
    TargetWriter,
    clip_key,
    content_digest,
    remove_leftovers,
)
from geovr_hf.teachers import Teacher
from geovr_hf.teachers.images import ImageRule


EXACT = TargetFormat("float32", "float32", "float32")
SAMPLING = FrameSampling(num_frames=3)


def writer(path, teacher=None, sampling=SAMPLING, target_format=EXACT):
    return TargetWriter(path, Manifest.of(teacher or PixelTeacher(), sampling, target_format))


@pytest.fixture
def media(tmp_path):
    for number in range(3):
        image_folder(tmp_path / "media" / f"clip{number}", seed=number)
    return tmp_path / "media"


@pytest.fixture
def folder(tmp_path, media):
    """Targets of three clips."""
    teacher, out = PixelTeacher(), tmp_path / "targets"
    for path in sorted(media.iterdir()):
        made = read_clip(path, num_frames=3)
        writer(out).write(made, teacher.targets(made), source=path.name)
    return out


class TestKeys:
    def key(self, **changes):
        values = {
            "content": "c" * 64,
            "frame_indices": (0, 2),
            "frame_size": (64, 32),
            "fingerprint": "vggt-1",
            "image_rule": ImageRule(504, 28),
        }
        return clip_key(**(values | changes))

    @pytest.mark.parametrize(
        "change",
        [
            {"content": "d" * 64},
            {"frame_indices": (2, 0)},
            {"frame_indices": (0, 3)},
            {"frame_size": (32, 64)},
            {"fingerprint": "vggt-2"},
            {"image_rule": ImageRule(512, 28)},
            {"image_rule": None},
        ],
    )
    def test_whatever_targets_depend_on_changes_the_key(self, change):
        assert self.key(**change) != self.key()

    def test_the_key_is_the_same_in_every_process_and_release(self):
        assert self.key() == "ffbfbc0e5069846e53e73e52dd203d62635472d2b86529c87651a56cbfac545c"
        assert self.key(frame_indices=torch.tensor([0, 2])) == self.key()

    def test_a_video_is_known_by_its_content_wherever_it_lies(self, tmp_path):
        paths = [tmp_path / "a.mp4", tmp_path / "moved" / "b.mp4", tmp_path / "c.mp4"]
        paths[1].parent.mkdir()
        for path, content in zip(paths, [b"film", b"film", b"other"], strict=True):
            path.write_bytes(content)
        one, same, other = (content_digest(clip(source=str(path))) for path in paths)
        assert one == same != other

    def test_a_video_that_changes_in_place_gets_another_digest(self, tmp_path):
        path = tmp_path / "a.mp4"
        path.write_bytes(b"film")
        before, stat = content_digest(clip(source=str(path))), path.stat()
        path.write_bytes(b"FILM")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # even if size and time say it is the same
        assert content_digest(clip(source=str(path))) != before

    def test_a_folder_is_known_by_its_sampled_images_in_their_order(self, tmp_path):
        source = image_folder(tmp_path / "clip", num_images=12)
        made = replace(clip(source=str(source)), frame_indices=(0, 2, 10))
        before = content_digest(made)
        shutil.copy(source / "5.png", source / "1.png")  # not sampled
        assert content_digest(made) == before
        assert content_digest(replace(made, frame_indices=(10, 2, 0))) != before
        shutil.copy(source / "5.png", source / "10.png")
        assert content_digest(made) != before

    def test_what_is_no_file_is_known_by_its_pixels(self):
        one, other = clip(source="rooms://1/2/3/4", seed=0), clip(source="rooms://1/2/3/4", seed=1)
        assert content_digest(one) != content_digest(other)
        assert content_digest(one) == content_digest(one.frames)
        assert content_digest(one.frames.transpose(1, 2)) != content_digest(one.frames)


class TestReading:
    def test_every_clip_gets_its_own_targets(self, folder, media):
        read = TargetFolder(folder)
        assert isinstance(read, Teacher) and len(read) == 3
        for path in media.iterdir():
            made = read_clip(path, num_frames=3)
            expected = PixelTeacher().targets(made)
            found = read.targets(made)
            assert found.features_pooled
            for name in ("pose_enc", "depth", "depth_confidence", "metric_scale"):
                assert torch.equal(getattr(found, name), getattr(expected, name))

    def test_moved_and_renamed_media_keep_their_targets(self, folder, media):
        before = TargetFolder(folder).targets(read_clip(media / "clip0", num_frames=3))
        (media / "clip0").rename(media / "kitchen")
        assert_same_targets(TargetFolder(folder).targets(read_clip(media / "kitchen", num_frames=3)), before)

    def test_the_manifest_restores_the_teacher(self, folder):
        read, teacher = TargetFolder(folder), PixelTeacher()
        assert read.spec == teacher.spec and read.fingerprint == teacher.fingerprint
        assert read.manifest.format == EXACT
        assert read.manifest.sampling == {"num_frames": 3, "image_rate": 1.0}
        assert json.loads((folder / "manifest.json").read_text())["licence"] == "apache-2.0"

    def test_records_say_where_targets_come_from(self, folder):
        records = list(TargetFolder(folder))
        assert sorted(record.source for record in records) == ["clip0", "clip1", "clip2"]
        assert {record.frame_indices for record in records} == {(0, 2, 3)}
        assert {record.timestamps for record in records} == {(0.0, 2.0, 3.0)}

    def test_a_clip_without_targets_is_an_error_that_names_it_and_the_cure(self, folder, media):
        with pytest.raises(MissingTargetsError) as error:
            TargetFolder(folder).targets(read_clip(media / "clip0", num_frames=2))
        for part in (str(media / "clip0"), "2 frames (0, 3)", "num_frames 3", "geovr precompute --data"):
            assert part in str(error.value)

    def test_targets_may_be_missing_if_that_is_wanted_and_it_is_counted(self, folder, media, caplog):
        read = TargetFolder(folder, missing="none")
        for _ in range(2):
            assert read.targets(read_clip(media / "clip0", num_frames=2)) is None
            assert read.targets(read_clip(media / "clip1", num_frames=2)) is None
        assert read.num_missing == 2
        assert sum("get no targets" in message for message in caplog.messages) == 1

    def test_bare_frames_are_sent_to_the_data_set(self, folder):
        with pytest.raises(MissingTargetsError, match=r"3 bare frames.*VideoDataset\(..., teacher=folder\)"):
            TargetFolder(folder).targets(torch.zeros(3, 64, 32, 3, dtype=torch.uint8))

    def test_bare_frames_can_be_stored_and_found(self, tmp_path):
        frames, teacher = clip().frames, PixelTeacher()
        writer(tmp_path / "targets").write(frames, teacher.targets(frames))
        assert_same_targets(TargetFolder(tmp_path / "targets").targets(frames), stored_like(teacher.targets(frames)))

    def test_a_folder_of_something_else_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"is no folder of targets: it has no manifest.json"):
            TargetFolder(tmp_path)

    @pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format_version": 7}'])
    def test_a_damaged_manifest_is_named(self, folder, text):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match=r"manifest.json cannot be read"):
            TargetFolder(folder)


def stored_like(targets):
    return replace(targets, features=[pool_feature_grid(f, 2) for f in targets.features], features_pooled=True)


def keep(rows):
    return rows


class TestWorkers:
    def rows(self, media):
        return [
            {"messages": [{"role": "user", "content": [{"type": "video", "video": path.name}]}], "id": path.name}
            for path in sorted(media.iterdir())
        ]

    @pytest.mark.parametrize("context", ["fork", "spawn"])
    def test_workers_of_a_loader_read_the_targets(self, folder, media, context):
        dataset = VideoDataset(self.rows(media), media, num_frames=3, teacher=TargetFolder(folder))
        loader = DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=keep, multiprocessing_context=context)
        rows = [row for batch in loader for row in batch]
        assert [row["id"] for row in rows] == ["clip0", "clip1", "clip2"]
        for row in rows:
            frames = row["messages"][0]["content"][0]["video"]
            assert_same_targets(row["geometry_targets"][0], stored_like(PixelTeacher().targets(frames)))

    def test_mapped_targets_travel_as_the_name_of_their_file(self, folder, media):
        targets = TargetFolder(folder).targets(read_clip(media / "clip0", num_frames=3))
        sent = ForkingPickler.dumps(targets)
        assert len(sent) < 1000
        assert_same_targets(pickle.loads(sent), targets, rtol=0, atol=0)

    @pytest.mark.parametrize("change", ["write", "replace", "move", "copy"])
    def test_changed_targets_travel_with_their_changes(self, folder, media, change):
        targets = TargetFolder(folder).targets(read_clip(media / "clip0", num_frames=3))
        if change == "write":
            targets.features[1].mul_(2)
        elif change == "replace":
            targets.depth = targets.depth + 1
        elif change == "move":
            targets = targets.to(torch.bfloat16)
        else:
            targets = replace(targets, features=None)
        assert_same_targets(pickle.loads(pickle.dumps(targets)), targets, rtol=0, atol=0)

    def test_a_folder_can_be_pickled_and_holds_no_open_file(self, folder, media):
        read = pickle.loads(pickle.dumps(TargetFolder(folder)))
        before = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
        for path in media.iterdir():
            read.targets(read_clip(path, num_frames=3))
        if before is not None:
            assert len(os.listdir("/proc/self/fd")) <= len(before)

    def test_a_fresh_process_without_optional_libraries_reads_and_writes(self, folder, media, project_root, tmp_path):
        code = f"""
import sys
sys.modules.update(dict.fromkeys(["datasets", "av", "pyarrow", "pandas"]))
sys.path.insert(0, {str(project_root / "tests")!r})
from targets_support import PixelTeacher
from geovr_hf.data import FrameSampling, read_clip
from geovr_hf.targets import Manifest, TargetFolder, TargetFormat, TargetWriter
clip = read_clip({str(media / "clip1")!r}, num_frames=3)
print(float(TargetFolder({str(folder)!r}).targets(clip).metric_scale))
manifest = Manifest.of(PixelTeacher(), FrameSampling(num_frames=3), TargetFormat.preset("8bit"))
TargetWriter("again", manifest).write(clip, PixelTeacher().targets(clip))
print(TargetFolder("again").verify())
"""
        environment = os.environ | {"PYTHONPATH": str(project_root)}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        expected = PixelTeacher().targets(read_clip(media / "clip1", num_frames=3)).metric_scale
        assert done.stdout.split() == [str(float(expected)), "[]"]


class TestDamage:
    def first(self, folder):
        return TargetFolder(folder).files()[0]

    def test_a_sound_folder_verifies(self, folder):
        assert TargetFolder(folder).verify() == []

    @pytest.mark.parametrize("kept", [0, 4, 100, -1])
    def test_a_truncated_file_is_found_when_read_and_when_verified(self, folder, media, kept):
        path = self.first(folder)
        key, content = path.stem, path.read_bytes()
        path.write_bytes(content[:kept])
        problems = TargetFolder(folder).verify()
        assert len(problems) == 1 and str(path) in problems[0] and "truncated" in problems[0]
        clips = [read_clip(source, num_frames=3) for source in media.iterdir()]
        mine = next(made for made in clips if TargetFolder(folder).key(made) == key)
        with pytest.raises(TargetFileError, match=r"Delete it and run `geovr precompute` again"):
            TargetFolder(folder).targets(mine)

    def test_every_altered_byte_is_found(self, folder):
        path = self.first(folder)
        content = path.read_bytes()
        length = 8 + int.from_bytes(content[:8], "little")
        stepped = [*range(0, length, 97), length, (length + len(content)) // 2, len(content) - 1]
        for position in stepped:
            altered = bytearray(content)
            altered[position] ^= 1
            path.write_bytes(altered)
            problems = TargetFolder(folder).verify()
            # Padding and the order of the header mean nothing; all that does is covered.
            if not problems:
                assert same_meaning(content, bytes(altered)), position
            else:
                assert len(problems) == 1 and str(path) in problems[0]
        path.write_bytes(content)
        assert TargetFolder(folder).verify() == []

    def test_damaged_offsets_are_a_damaged_header(self, folder):
        path = self.first(folder)
        content = path.read_bytes()
        place = content.index(b'"data_offsets":[') + len(b'"data_offsets":[')
        comma = content.index(b",", place)
        for altered in (content[:comma] + b"." + content[comma + 1 :], content[:place] + b"x" + content[place + 1 :]):
            path.write_bytes(altered)
            problems = TargetFolder(folder).verify()
            assert len(problems) == 1 and str(path) in problems[0] and "header is damaged" in problems[0]

    def test_swapped_files_are_found(self, folder, media):
        one, other, _ = TargetFolder(folder).files()
        contents = one.read_bytes(), other.read_bytes()
        other.write_bytes(contents[0])
        one.write_bytes(contents[1])
        problems = TargetFolder(folder).verify()
        assert len(problems) == 2 and all("is misplaced: it belongs to the clip" in problem for problem in problems)
        read = TargetFolder(folder)
        wrong = 0
        for source in media.iterdir():
            made = read_clip(source, num_frames=3)
            if read.key(made) in (one.stem, other.stem):
                with pytest.raises(TargetFileError, match="is misplaced"):
                    read.targets(made)
                wrong += 1
        assert wrong == 2

    def test_another_teachers_file_is_found(self, folder, tmp_path):
        made = clip()
        path = writer(tmp_path / "other", PixelTeacher("pixels-2")).write(made, PixelTeacher().targets(made))
        (folder / "clips" / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, folder / "clips" / path.parent.name / path.name)
        problems = TargetFolder(folder).verify()
        assert len(problems) == 1 and "holds targets of the teacher pixels-2, not of pixels-1" in problems[0]

    def test_a_foreign_file_is_found(self, folder):
        save_file({"weight": torch.ones(3)}, self.first(folder))
        assert "is not a file of GeoVR targets" in TargetFolder(folder).verify()[0]


def same_meaning(one, other):
    def header(content):
        return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])

    tensors, others = load(one), load(other)
    return header(one) == header(other) and all(torch.equal(tensors[name], others[name]) for name in tensors)


class TestWriting:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"teacher": PixelTeacher("pixels-2")}, "its teacher is pixels-1, not pixels-2"),
            ({"sampling": FrameSampling(fps=1.0)}, "its frame sampling is num_frames 3, .*, not fps 1, min_frames 4"),
            ({"target_format": TargetFormat()}, "its format is .*float32.*, not .*bfloat16"),
        ],
    )
    def test_targets_of_another_kind_are_not_mixed_in(self, folder, changes, message):
        with pytest.raises(ValueError, match=f"holds other targets: {message}.* Write to another folder"):
            writer(folder, **changes)

    def test_a_sampling_that_says_the_same_in_other_words_is_the_same(self, folder):
        writer(folder, sampling=FrameSampling(num_frames=3, min_frames=1, max_frames=8))

    def test_a_folder_with_other_things_in_it_is_refused(self, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(ValueError, match="is not empty, and no folder of targets"):
            writer(tmp_path)

    def test_targets_of_another_number_of_frames_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="elsewhere has 2 frames, its targets have 3"):
            writer(tmp_path / "new").write(clip(2), PixelTeacher().targets(clip(3)), source="elsewhere")

    def test_a_failure_leaves_no_file_behind(self, tmp_path):
        targets = PixelTeacher().targets(clip())
        targets.depth[0, 0, 0] = torch.nan
        with pytest.raises(ValueError, match="NaN"):
            writer(tmp_path / "new").write(clip(), targets)
        assert [path.name for path in (tmp_path / "new").rglob("*") if path.is_file()] == ["manifest.json"]

    def test_only_abandoned_temporary_files_are_removed(self, folder):
        place = TargetFolder(folder).files()[0].parent
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        host = socket.gethostname()
        names = {f"{host}.{ended.pid}": True, f"{host}.{os.getpid()}": False, "another-host.1": False}
        paths = {place / f".{'a' * 64}.safetensors.{name}.tmp": gone for name, gone in names.items()}
        old = place / f".{'b' * 64}.safetensors.another-host.1.tmp"
        for path in [*paths, old]:
            path.write_bytes(b"half")
        os.utime(old, (0, 0))
        assert set(remove_leftovers(folder)) == {old} | {path for path, gone in paths.items() if gone}
        assert len(TargetFolder(folder)) == 3 and TargetFolder(folder).verify() == []


class TestTerms:
    @staticmethod
    def manifest(teacher_is_free: bool, metric_is_free: bool) -> Manifest:
        teacher = PixelTeacher()
        licence = "apache-2.0" if teacher_is_free else "cc-by-nc-4.0"
        teacher.spec = replace(teacher.spec, licence=licence, non_commercial=not teacher_is_free)
        teacher.metric = SimpleNamespace(
            name="ruler",
            licence="apache-2.0" if metric_is_free else "research-only",
            non_commercial=not metric_is_free,
        )
        return Manifest.of(teacher, FrameSampling(num_frames=3), TargetFormat())

    @pytest.mark.parametrize(
        ("teacher_is_free", "metric_is_free", "licence"),
        [
            (True, True, "apache-2.0"),
            (False, True, "cc-by-nc-4.0"),
            (True, False, "research-only"),
            (False, False, "cc-by-nc-4.0"),
        ],
    )
    def test_a_folder_is_under_the_stricter_licence(self, tmp_path, teacher_is_free, metric_is_free, licence):
        manifest = self.manifest(teacher_is_free, metric_is_free)
        manifest.write(tmp_path)
        again = Manifest.read(tmp_path)
        assert again == manifest
        assert again.licence == licence
        assert (again.metric.name, again.metric.non_commercial) == ("ruler", not metric_is_free)
