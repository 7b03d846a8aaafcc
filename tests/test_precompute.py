# ruff: noqa: F811  (fixtures come from precompute_support)
"""`geovr precompute`: every clip once, whatever happens meanwhile, and what cannot be read is named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clip_files import write_video
from precompute_support import OPTIONS, media, rows_file, run, teacher  # noqa: F401
from targets_support import PixelTeacher, spec

import geovr_hf.targets.precompute as engine
import geovr_hf.teachers
from geovr_hf.cli import main
from geovr_hf.data import VideoDataset, read_clip
from geovr_hf.targets import TargetFolder
from geovr_hf.teachers import ImageRule, NetworkTeacher, VGGTConfig, VGGTModel


pytest.importorskip("av")


class TestComputing:
    def test_targets_of_a_folder_are_those_that_the_teacher_computes(self, media, tmp_path, teacher, capsys):
        assert run(tmp_path / "out", "--data", media, *OPTIONS, "--features", "float32", "--depth", "float32") == 0
        folder = TargetFolder(tmp_path / "out")
        assert sorted(record.source for record in folder) == [
            "5.mp4", "6.mp4", "scenes/clip0", "scenes/clip1", "scenes/clip2",
        ]  # fmt: skip
        for path in [media / "5.mp4", media / "scenes/clip1"]:
            made = read_clip(path, num_frames=3)
            expected = PixelTeacher().targets(made)
            assert torch.equal(folder.targets(made).depth, expected.depth)
        assert "5 clips computed, 0 there already, 0 unreadable" in capsys.readouterr().out

    def test_workers_and_threads_change_nothing(self, media, tmp_path, teacher):
        run(tmp_path / "one", "--data", media, *OPTIONS)
        run(tmp_path / "other", "--data", media, *OPTIONS[:-1], "2")
        one, other = TargetFolder(tmp_path / "one"), TargetFolder(tmp_path / "other")
        assert [record.checksum for record in one] == [record.checksum for record in other]
        assert other.verify() == []

    def test_questions_on_one_clip_share_its_targets(self, media, tmp_path, teacher):
        rows = rows_file(tmp_path / "rows.jsonl", ["5.mp4", "6.mp4", "5.mp4", "scenes/clip0", "5.mp4"])
        words = ["--data", rows, "--format", "rows", "--media-root", media]
        assert run(tmp_path / "out", *words, *OPTIONS) == 0
        assert teacher.calls == 3 and len(TargetFolder(tmp_path / "out")) == 3

    def test_copies_of_a_video_share_its_targets(self, media, tmp_path, teacher, capsys):
        (media / "copy.mp4").write_bytes((media / "5.mp4").read_bytes())
        assert run(tmp_path / "out", "--data", media, *OPTIONS) == 0
        assert teacher.calls == 5
        assert "5 clips computed, 1 there already" in capsys.readouterr().out

    def test_the_index_is_a_table_that_datasets_reads(self, media, tmp_path, teacher):
        datasets = pytest.importorskip("datasets")
        out = tmp_path / "out"
        run(out, "--data", media, *OPTIONS)
        cache = str(tmp_path / "cache")
        table = datasets.load_dataset(str(out), split="train", cache_dir=cache)
        same = datasets.load_dataset("parquet", data_files=str(out / "index.parquet"), split="train", cache_dir=cache)
        assert table.to_list() == same.to_list() and len(table) == 5
        by_source = {row["source"]: row for row in table}
        row, path = by_source["5.mp4"], out / by_source["5.mp4"]["file"]
        assert path.stat().st_size == row["num_bytes"] and path.stem == row["key"]
        assert row["frame_indices"] == [0, 2, 4] and (row["height"], row["width"]) == (32, 64)

    def test_the_manifest_says_what_the_folder_is(self, media, tmp_path, teacher):
        run(tmp_path / "out", "--data", media, *OPTIONS, "--preset", "8bit")
        manifest = json.loads((tmp_path / "out/manifest.json").read_text())
        assert manifest["teacher"]["name"] == "stand-in" and manifest["fingerprint"] == "pixels-1"
        assert manifest["licence"] == "apache-2.0"
        assert manifest["format"] == {
            "features": "int8", "depth": "float16", "confidence": "uint4", "depth_scale": 1.0,
        }  # fmt: skip
        assert manifest["sampling"] == {"num_frames": 3, "image_rate": 1.0}
        files = list((tmp_path / "out").glob("clips/*/*.safetensors"))
        assert manifest["contents"]["clips"] == 5
        assert manifest["contents"]["bytes"] == sum(path.stat().st_size for path in files)
        assert manifest["contents"]["depth_sizes"] == [[56, 28]]

    def test_a_recipe_gives_clips_sampling_and_teacher(self, media, tmp_path, teacher, capsys):
        rows = rows_file(tmp_path / "rows.jsonl", ["5.mp4", "6.mp4"])
        held_out = rows_file(tmp_path / "held_out.jsonl", ["scenes/clip0"])
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(
            f"output: run\nmodel: {{base: tiny}}\nteacher: {{name: pixels}}\ndata:\n  num_frames: 2\n  sources:\n"
            f"  - {{format: rows, path: {rows}, eval_path: {held_out}, media_root: {media}}}\n"
            "  - {format: rooms, num_rooms: 3}\n"
        )
        assert run(tmp_path / "out", "--data", recipe, "--workers", "0") == 0
        folder = TargetFolder(tmp_path / "out")
        assert sorted(record.source for record in folder) == ["5.mp4", "6.mp4", "scenes/clip0"]
        assert {len(record.frame_indices) for record in folder} == {2}
        words = ["--data", recipe, "--workers", "0", "--data.sources.0.limit", "1"]
        assert run(tmp_path / "less", *words, "--fps", "1", "--min-frames", "1") == 0
        assert TargetFolder(tmp_path / "less").manifest.sampling["fps"] == 1
        assert len(TargetFolder(tmp_path / "less")) == 2
        (tmp_path / "held_out.jsonl").unlink()
        assert run(tmp_path / "out", "--data", recipe, "--workers", "0") == 2
        assert f"`eval_path`: no such file: {held_out}" in capsys.readouterr().err

    def test_targets_are_found_again_in_training(self, media, tmp_path, teacher):
        names = ["5.mp4", "scenes/clip0", "5.mp4"]
        path = rows_file(tmp_path / "rows.jsonl", names)
        run(tmp_path / "out", "--data", path, "--format", "rows", "--media-root", media, *OPTIONS)
        rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
        dataset = VideoDataset(rows, media, num_frames=3, teacher=TargetFolder(tmp_path / "out"))
        for row, name in zip(dataset, names, strict=True):
            expected = PixelTeacher().targets(read_clip(media / name, num_frames=3))
            torch.testing.assert_close(row["geometry_targets"][0].depth.float(), expected.depth, rtol=1e-3, atol=0)


def test_a_network_sees_the_same_pictures_as_without_precomputing(media, tmp_path, monkeypatch):
    """Its pictures are resized in the workers. That must not change a bit."""
    torch.manual_seed(0)
    config = VGGTConfig(
        vision_config={"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56},
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        camera_num_layers=1,
        camera_num_heads=2,
        dense_layers=(0, 0, 1, 1),
        dense_hidden_sizes=(8, 8, 8, 8),
        dense_fusion_size=8,
        alignment_layers=(0, 1),
    )
    network = VGGTModel(config).eval()
    tiny = NetworkTeacher(network, spec(layers=2, channels=32, rule=ImageRule(84, 28)), "tiny-vggt")
    monkeypatch.setattr(geovr_hf.teachers, "load_teacher", lambda name, metric=None, **options: tiny)
    exact = ["--features", "float32", "--depth", "float32", "--confidence", "float32"]
    assert run(tmp_path / "out", "--data", media, *OPTIONS, *exact) == 0
    folder = TargetFolder(tmp_path / "out")
    for path in (media / "5.mp4", media / "scenes/clip0"):
        clip = read_clip(path, num_frames=3)
        expected, stored = tiny.targets(clip), folder.targets(clip)
        assert torch.equal(stored.depth, expected.depth) and torch.equal(stored.pose_enc, expected.pose_enc)


def test_one_video_is_data_enough(media, tmp_path, teacher, capsys):
    assert run(tmp_path / "out", "--data", media / "5.mp4", *OPTIONS) == 0
    (record,) = TargetFolder(tmp_path / "out")
    assert record.source == "5.mp4"
    assert "1 clips computed" in capsys.readouterr().out


class TestStartingAgain:
    def test_a_copy_that_another_process_computed_meanwhile_is_not_computed_again(
        self, media, tmp_path, teacher, monkeypatch, capsys
    ):
        run(tmp_path / "out", "--data", media, *OPTIONS)
        monkeypatch.setattr(engine, "_present", lambda writer: set())  # as it was when this process began
        capsys.readouterr()
        run(tmp_path / "out", "--data", media, *OPTIONS)
        assert "0 clips computed, 5 there already" in capsys.readouterr().out

    def test_what_a_killed_process_left_of_a_manifest_is_in_nobodys_way(self, media, tmp_path, teacher):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / ".manifest.json.elsewhere.17.tmp").write_text("{")
        assert run(tmp_path / "out", "--data", media, *OPTIONS) == 0
        assert len(TargetFolder(tmp_path / "out")) == 5

    def test_images_have_the_rate_that_is_told(self, media, tmp_path, teacher, capsys):
        words = [
            "--data",
            media / "scenes",
            "--teacher",
            "pixels",
            "--fps",
            "1",
            "--min-frames",
            "1",
            "--workers",
            "0",
        ]
        assert run(tmp_path / "fast", *words, "--image-rate", "2") == 0
        assert run(tmp_path / "slow", *words) == 0
        counts = [{len(one.frame_indices) for one in TargetFolder(tmp_path / name)} for name in ("fast", "slow")]
        assert max(counts[0]) < min(counts[1])
        assert run(tmp_path / "fast", *words, "--image-rate", "0") == 2
        assert "--image-rate must be positive" in capsys.readouterr().err

    def test_nothing_is_computed_or_decoded_twice(self, media, tmp_path, teacher, monkeypatch, capsys):
        out = tmp_path / "out"
        run(out, "--data", media, *OPTIONS)
        before = {path: path.stat().st_mtime_ns for path in TargetFolder(out).files()}
        monkeypatch.setattr(engine, "read_sampled_clip", lambda *_: pytest.fail("a clip was decoded again"))
        assert run(out, "--data", media, *OPTIONS) == 0
        assert teacher.calls == 5
        assert {path: path.stat().st_mtime_ns for path in TargetFolder(out).files()} == before
        assert "0 clips computed, 5 there already" in capsys.readouterr().out

    def test_a_video_that_changed_is_computed_again(self, media, tmp_path, teacher):
        out = tmp_path / "out"
        run(out, "--data", media, *OPTIONS)
        write_video(media / "5.mp4", num_frames=7)
        run(out, "--data", media, *OPTIONS)
        assert teacher.calls == 6 and len(TargetFolder(out)) == 6

    def test_a_damaged_file_is_computed_again(self, media, tmp_path, teacher):
        out = tmp_path / "out"
        run(out, "--data", media, *OPTIONS)
        path = TargetFolder(out).files()[2]
        content = path.read_bytes()
        path.write_bytes(content[:-5])
        assert run(out, "--data", media, *OPTIONS) == 0
        assert teacher.calls == 6 and TargetFolder(out).verify() == []
        assert path.read_bytes()[-50:] == content[-50:]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--teacher", "pixels", "--num-frames", "2"], "its frame sampling is num_frames 3"),
            (["--teacher", "pixels", "--num-frames", "3", "--preset", "8bit"], "its format is"),
        ],
    )
    def test_other_options_need_another_folder(self, media, tmp_path, teacher, words, message, capsys):
        run(tmp_path / "out", "--data", media, *OPTIONS)
        assert run(tmp_path / "out", "--data", media, *words) == 2
        error = capsys.readouterr().err
        assert message in error and "Write to another folder" in error
        teacher.fingerprint = "pixels-2"
        assert run(tmp_path / "out", "--data", media, *OPTIONS) == 2
        assert "its teacher is pixels-1, not pixels-2" in capsys.readouterr().err


# The real command with a small teacher, in a process that kills itself at a chosen moment. As a server it has imported
# everything and forks off each run, which so costs no import.
PROGRAM = """
import json, os, signal, sys, traceback
import geovr_hf.teachers
import geovr_hf.targets.files as files
from targets_support import PixelTeacher
from geovr_hf.cli import main

seen = 0

def die_at(name):
    global seen
    if name == moment:
        seen += 1
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)

class Teacher(PixelTeacher):
    def targets(self, clip):
        die_at("computing")
        with open(os.environ["COMPUTED"] + os.environ.get("RANK", "0"), "a") as log:
            log.write(f"{clip.source}\\n")
        return super().targets(clip)

save, replace = files.save_file, os.replace

def half_saved(tensors, path, metadata):
    save(tensors, path, metadata)
    if moment == "writing" and seen == count - 1:
        os.truncate(path, os.path.getsize(path) // 2)
    die_at("writing")

def replaced(source, target):
    die_at("before renaming" if str(target).endswith(".safetensors") else "before finishing")
    replace(source, target)
    die_at("after renaming" if str(target).endswith(".safetensors") else "after finishing")

files.save_file, os.replace = half_saved, replaced
geovr_hf.teachers.load_teacher = lambda name, metric=None, **options: Teacher()

def serve():
    global moment, count
    for line in sys.stdin:
        moment, count, folder, words = json.loads(line)
        process = os.fork()
        if not process:
            os.environ["COMPUTED"] = folder + "/computed"
            for descriptor, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(os.open(folder + "/" + name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
            code = 1
            try:
                code = main(words)
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)

if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        moment, count = "never", 1
        sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory, project_root):
    """The program as a server, its file and its environment."""
    program = tmp_path_factory.mktemp("program") / "program.py"
    program.write_text(PROGRAM)
    paths = os.pathsep.join([str(project_root), str(project_root / "tests")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(program), "serve"], env=environment, **pipes) as process:
        yield process, program, environment
        process.stdin.close()


@pytest.fixture
def command(tmp_path, server):
    """Run the command in a process of its own; returns its exit code, and appends to a log what was computed."""
    process, program, environment = server

    def command(*words, moment="never", count=1, launcher=()):
        words = ["precompute", *map(str, words)]
        if launcher:
            line = [sys.executable, *launcher, str(program), *words]
            environment["COMPUTED"] = str(tmp_path / "computed")
            return subprocess.run(line, env=environment, capture_output=True, text=True)
        process.stdin.write(json.dumps([moment, count, str(tmp_path), words]) + "\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        output = [(tmp_path / name).read_text() for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(words, code, *output)

    return command


def computed(tmp_path):
    return sorted(clip for path in tmp_path.glob("computed[01]") for clip in path.read_text().split())


@pytest.mark.slow
class TestKilled:
    @pytest.mark.parametrize(
        ("moment", "count"),
        [
            ("before finishing", 1),  # the manifest
            ("computing", 3),
            ("writing", 2),
            ("before renaming", 2),
            ("after renaming", 2),
            ("before finishing", 3),  # the index
        ],
    )
    def test_a_killed_run_is_continued_with_nothing_lost_or_done_twice(self, media, tmp_path, command, moment, count):
        out = tmp_path / "out"
        words = ["--data", media, "--out", out, "--teacher", "pixels", "--num-frames", "3", "--workers", "1"]
        assert command(*words, moment=moment, count=count).returncode == -9
        finished = {path: path.read_bytes() for path in out.glob("clips/*/*.safetensors")}
        if finished:
            assert TargetFolder(out).verify() == []  # what is there is whole
        before = computed(tmp_path)

        done = command(*words)
        assert done.returncode == 0, done.stderr
        folder = TargetFolder(out)
        assert len(folder) == 5 and folder.verify() == []
        assert all(path.read_bytes() == content for path, content in finished.items())
        again = computed(tmp_path)
        assert len(again) - len(before) == 5 - len(finished)  # all that was missing, and nothing else
        assert not list(out.rglob("*.tmp"))
        assert json.loads((out / "manifest.json").read_text())["contents"]["clips"] == 5


@pytest.mark.slow
def test_processes_share_the_clips_and_agree_with_one(media, tmp_path, command):
    (media / "broken.mp4").write_bytes(b"no video")
    words = ["--data", media, "--teacher", "pixels", "--num-frames", "3", "--workers", "1"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]  # accelerate's: one on a CPU
    done = command(*words, "--out", tmp_path / "two", launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert computed(tmp_path) == sorted(str(path) for path in [*media.glob("[56].mp4"), *(media / "scenes").iterdir()])
    assert (tmp_path / "computed0").exists() and (tmp_path / "computed1").exists()
    assert "5 clips computed, 0 there already, 1 unreadable" in done.stdout
    assert command(*words, "--out", tmp_path / "one").returncode == 0
    one, two = TargetFolder(tmp_path / "one"), TargetFolder(tmp_path / "two")
    assert [record.checksum for record in one] == [record.checksum for record in two]
    assert json.loads((tmp_path / "two/unreadable.json").read_text())[0]["source"] == "broken.mp4"
    # One process finishes what two began, and the other way round.
    for path in two.files()[:2]:
        path.unlink()
    done = command(*words, "--out", tmp_path / "two", launcher=launcher)
    assert "2 clips computed, 3 there already" in done.stdout, done.stderr
    assert "0 clips computed, 5 there already" in command(*words, "--out", tmp_path / "two").stdout


class TestVerifying:
    def test_a_sound_folder_is_told_so(self, media, tmp_path, teacher, capsys):
        run(tmp_path / "out", "--data", media, *OPTIONS)
        assert run(tmp_path / "out", "--verify") == 0
        assert "5 files of stand-in" in capsys.readouterr().out

    def test_every_bad_file_is_named_and_the_exit_code_says_so(self, media, tmp_path, teacher, capsys):
        out = tmp_path / "out"
        run(out, "--data", media, *OPTIONS)
        cut, altered, *_ = TargetFolder(out).files()
        cut.write_bytes(cut.read_bytes()[:-1])
        content = bytearray(altered.read_bytes())
        content[-7] ^= 4
        altered.write_bytes(content)
        assert run(out, "--verify") == 2
        error = capsys.readouterr().err
        assert "2 files of 5 are bad or missing" in error
        assert f"{cut} is truncated" in error and f"{altered} was altered" in error

    def test_files_that_the_index_lists_are_missed(self, media, tmp_path, teacher, capsys):
        pytest.importorskip("pyarrow")
        out = tmp_path / "out"
        run(out, "--data", media, *OPTIONS)
        lost = TargetFolder(out).files()[2]
        lost.unlink()
        assert run(out, "--verify") == 2
        assert f"{lost} is missing, though index.parquet lists it" in capsys.readouterr().err
        run(out, "--data", media, *OPTIONS)
        assert run(out, "--verify") == 0
        (out / "index.parquet").write_bytes(b"no table")
        assert run(out, "--verify") == 2
        assert "index.parquet is damaged" in capsys.readouterr().err


class TestMistakes:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], "--data is missing"),
            (["--data", "nowhere", "--teacher", "pixels"], "No recipe 'nowhere': it is neither a file nor one of"),
            (["--data", "MEDIA"], "--teacher is missing"),
            (["--data", "MEDIA", "--teacher", "rgbd"], "--teacher rgbd is a ground truth"),
            (["--data", "MEDIA", "--teacher", "pixels", "--features", "int2"], "`features` must be stored as one of"),
            (["--data", "MEDIA", "--teacher", "pixels", "--fps", "2", "--num-frames", "2"], "not both"),
            (["--data", "MEDIA", "--teacher", "pixels", "--pixels", "2"], "unrecognized arguments: --pixels 2"),
            (["--data", "MEDIA", "--format", "rows", "--teacher", "pixels"], "belong to a file of rows"),
            (["--data", "ROWS", "--teacher", "pixels"], "say its --format (vsi_590k, vlm_3r, vsi_bench, rows)"),
            (["--data", "demo", "--teacher", "pixels"], "sources (rooms) bring their own targets"),
            (["--data", "EMPTY", "--teacher", "pixels"], "no video file"),
            (["--verify"], "is no folder of targets"),
        ],
    )
    def test_a_mistake_is_named_before_any_work(self, media, tmp_path, teacher, words, message, capsys):
        (tmp_path / "empty").mkdir()
        places = {"MEDIA": str(media), "EMPTY": str(tmp_path / "empty")}
        places["ROWS"] = rows_file(tmp_path / "rows.jsonl", ["5.mp4"])
        assert run(tmp_path / "out", *[places.get(word, word) for word in words]) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
        assert not (tmp_path / "out").exists()

    def test_without_pyav_videos_are_refused_before_the_teacher_is_loaded(self, media, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "av", None)
        monkeypatch.setattr(geovr_hf.teachers, "load_teacher", lambda *_, **__: pytest.fail("it was loaded"))
        assert run(tmp_path / "out", "--data", media, *OPTIONS) == 2
        assert 'pip install "geovr_hf[video]"' in capsys.readouterr().err

    def test_a_folder_is_needed(self, media, capsys):
        assert main(["precompute", "--data", str(media), "--teacher", "pixels"]) == 2
        assert "--out is missing" in capsys.readouterr().err
