"""The command as a user meets it: help, exit codes, one clear line for a mistake, files that are whole or absent."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from checkpoint_support import save_checkpoint
from huggingface_hub.errors import StrictDataclassClassValidationError
from peft import get_peft_model
from PIL import Image
from recording_files import write_noise_recording
from targets_support import PixelTeacher
from tiny import tiny_model, tiny_processor
from torch.utils.data import DataLoader, Dataset

from geovr_hf import GeoVRForConditionalGeneration
from geovr_hf.cli import main
from geovr_hf.commands.output_folder import staged_folder
from geovr_hf.commands.tables import format_table
from geovr_hf.commands.train import build_trainer, card_writer
from geovr_hf.data import FrameSampling, UnreadableClipError, read_clip
from geovr_hf.recipe import load_recipe
from geovr_hf.targets import Manifest, TargetFormat, TargetWriter
from geovr_hf.trainers import geovr_lora_config
from geovr_hf.trainers.adapter_files import save_adapted_config
from geovr_hf.visualization import read_depth_png


trimesh = pytest.importorskip("trimesh")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A folder of four frames, which needs no video codec."""
    folder = tmp_path_factory.mktemp("video")
    generator = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(generator.integers(0, 256, (64, 96, 3)).astype(np.uint8)).save(folder / f"{index}.png")
    return str(folder)


def last_line(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


class Unreadable(Dataset):
    """One row, whose file has no frames."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise OSError("end of file")
        except OSError as error:
            raise UnreadableClipError("row 0: no frames\nConvert it.") from error


class TestHelpAndErrors:
    @pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["demo", "--help"], ["ask", "--help"]])
    def test_help_exits_with_zero(self, words, capsys):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 0
        assert "usage: geovr" in capsys.readouterr().out

    @pytest.mark.parametrize("words", [[], ["paint"], ["ask", "model"], ["ask", "a", "b", "c", "--framez", "3"]])
    def test_wrong_usage_exits_with_two(self, words):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["train", "papier"], "No recipe 'papier'"),
            (["train", "paper", "--learning_rat", "1"], "Did you mean `training.learning_rate`?"),
            (["train", "rgbd", "--path", "nowhere"], "nowhere"),
            (["train", "rgbd", "--output", "nowhere", "--resume"], "Nothing to resume"),
            (["demo", "--seed", "-1"], "--seed must not be negative"),
            (["ask", "nowhere", "no-video.mp4", "Why?"], "No such video: no-video.mp4"),
            (["ask", "nowhere", "no-video.mp4", " "], "The question is empty"),
            (["reconstruct", "nowhere", "no.mp4", "--out", "o", "--max-depth", "-1"], "--max-depth must be positive"),
            (["ask", "nowhere", ".", "Why?", "--image-rate", "0"], "--image-rate must be positive, got 0.0"),
        ],
    )
    def test_a_mistake_is_one_line_and_exit_code_two(self, words, message, capsys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert main(words) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith(f"geovr {words[0]}: ") and "Traceback" not in error

    def test_of_an_error_in_a_worker_only_what_it_says_is_printed(self, monkeypatch, capsys):
        def run(arguments):
            next(iter(DataLoader(Unreadable(), batch_size=None, num_workers=1)))

        monkeypatch.setattr("geovr_hf.commands.ask.run", run)
        assert main(["ask", "model", "video", "Why?"]) == 2
        assert capsys.readouterr().err == "geovr ask: row 0: no frames\nConvert it.\n"
        with pytest.raises(ValueError, match="in DataLoader worker process 0"):
            main(["ask", "model", "video", "Why?", "--debug"])

    def test_a_configuration_that_contradicts_itself_is_a_mistake(self, monkeypatch, capsys):
        def run(arguments):
            raise StrictDataclassClassValidationError("validate_heads", ValueError("512 is no multiple of 3"))

        monkeypatch.setattr("geovr_hf.commands.ask.run", run)
        assert main(["ask", "model", "video", "Why?"]) == 2
        assert "512 is no multiple of 3" in capsys.readouterr().err

    @pytest.mark.parametrize("device", ["gpu0", "cuda:99"])
    def test_a_device_that_is_not_there_is_named_before_the_model_is_opened(self, device, video, capsys):
        assert main(["ask", "nowhere", video, "Why?", "--device", device]) == 2
        assert f"--device {device} cannot be used here: " in capsys.readouterr().err

    def test_debug_shows_the_traceback(self):
        with pytest.raises(ValueError, match="No recipe"):
            main(["train", "papier", "--debug"])

    def test_the_module_can_be_run_as_a_command(self, project_root):
        command = [sys.executable, "-m", "geovr_hf.cli", "ask", "nowhere", "no-video.mp4", "Why?"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=project_root)
        assert done.returncode == 2
        # Installed libraries may have had their say before: torchao 0.18 writes of torch 2.14 when it is imported.
        assert done.stderr.strip().splitlines()[-1] == "geovr ask: No such video: no-video.mp4"
        assert "Traceback" not in done.stderr


class TestAsk:
    def test_the_answer_is_printed(self, checkpoint, video, capsys):
        assert main(["ask", checkpoint, video, "How many chairs?", "--max-new-tokens", "4", "--frames", "2"]) == 0
        assert capsys.readouterr().out.endswith("\n")

    def test_json_tells_which_frames_were_seen(self, checkpoint, video, capsys):
        assert main(["ask", checkpoint, video, "How many?", "--max-new-tokens", "4", "--frames", "2", "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed["question"] == "How many?"
        assert printed["frame_seconds"] == [0.0, 3.0]

    def test_images_have_the_rate_that_is_told(self, checkpoint, video, capsys):
        words = ["ask", checkpoint, video, "How many?", "--max-new-tokens", "1", "--frames", "2", "--json"]
        assert main([*words, "--image-rate", "8"]) == 0
        assert json.loads(capsys.readouterr().out)["frame_seconds"] == [0.0, 0.375]

    def test_a_checkpoint_of_another_kind_is_refused(self, video, tmp_path, capsys):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_vl"}))
        assert main(["ask", str(tmp_path), video, "How many?"]) == 2
        assert "`qwen3_vl` checkpoint, not a GeoVR one" in last_line(capsys)


class TestReconstruct:
    def test_all_files_are_written_and_agree(self, checkpoint, video, tmp_path):
        out = tmp_path / "reconstruction"
        assert main(["reconstruct", checkpoint, video, "--out", str(out), "--frames", "4"]) == 0
        cameras = json.loads((out / "cameras.json").read_text())
        height, width = cameras["image_size"]["height"], cameras["image_size"]["width"]
        assert len(cameras["frames"]) == 4
        np.testing.assert_allclose(cameras["frames"][0]["cam_from_world"], np.eye(3, 4), atol=1e-5)

        cloud = trimesh.load(out / "points.ply")
        assert len(cloud.vertices) == 4 * height * width
        depth = read_depth_png(out / "depth/000000.png")
        assert depth.shape == (height, width)
        # The first camera is the world, so the z of the first frame's points is its depth.
        np.testing.assert_allclose(cloud.vertices[: height * width, 2].reshape(height, width), depth, atol=1e-3)
        with Image.open(out / "preview/000003.png") as preview:
            assert preview.size == (width, height)
        assert (out / "points.glb").stat().st_size > 0 and (out / "overview.png").stat().st_size > 0

    def test_no_point_within_the_depth_asked_for_is_named(self, checkpoint, video, tmp_path, capsys):
        out = tmp_path / "out"
        words = ["reconstruct", checkpoint, video, "--out", str(out), "--frames", "1", "--max-depth", "1e-9"]
        assert main(words) == 2
        assert "none is finite up to --max-depth 1e-09, the nearest is" in last_line(capsys)
        assert not out.exists()

    @pytest.mark.parametrize("module", ["matplotlib", "trimesh"])
    def test_a_missing_library_is_named_before_anything_is_read(self, module, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, module, None)
        assert main(["reconstruct", "nowhere", "no.mp4", "--out", str(tmp_path / "out")]) == 2
        assert 'pip install "geovr_hf[viz]"' in last_line(capsys)

    def test_results_are_not_mixed_into_a_folder_that_holds_something(self, checkpoint, video, tmp_path, capsys):
        (tmp_path / "notes.txt").write_text("mine")
        words = ["reconstruct", checkpoint, video, "--out", str(tmp_path), "--frames", "1"]
        assert main(words) == 2
        assert "is not empty" in last_line(capsys)
        assert main([*words, "--overwrite", "--max-points", "10"]) == 0
        assert (tmp_path / "notes.txt").read_text() == "mine"
        assert len(trimesh.load(tmp_path / "points.ply").vertices) == 10


def test_a_demo_without_matplotlib_stops_before_it_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("geovr_hf.commands.build_data.build_data", lambda *_: pytest.fail("it has begun"))
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 2
    assert 'pip install "geovr_hf[viz]"' in last_line(capsys)


class TestOutputFolder:
    def test_a_failure_leaves_nothing_behind(self, tmp_path):
        with pytest.raises(RuntimeError), staged_folder(tmp_path / "out") as folder:
            (folder / "half.txt").write_text("half")
            raise RuntimeError
        assert list(tmp_path.iterdir()) == []

    def test_files_are_replaced_and_others_kept(self, tmp_path):
        (tmp_path / "out").mkdir()
        for name in ("old.txt", "kept.txt"):
            (tmp_path / "out" / name).write_text("old")
        with staged_folder(tmp_path / "out", overwrite=True) as folder:
            (folder / "deep").mkdir()
            (folder / "deep/new.txt").write_text("new")
            (folder / "old.txt").write_text("new")
        contents = {str(file.relative_to(tmp_path / "out")): file.read_text() for file in tmp_path.rglob("*.txt")}
        assert contents == {"old.txt": "new", "kept.txt": "old", "deep/new.txt": "new"}


RGBD = ["--max_steps", "2", "--num_frames", "2", "--depth_tiles", "1,1", "--max_clip_pixels", "4096", "--hop", "2"]


NO_EVALUATION = ["--eval_fraction", "0", "--eval_strategy", "no", "--eval_on_start", "false"]


class TestTrain:
    """On a recording of four frames, made here."""

    @pytest.fixture
    def recording(self, tmp_path):
        return write_noise_recording(tmp_path / "recording")

    def test_a_run_is_trained_saved_and_measured_and_not_overwritten(self, recording, tmp_path, capsys):
        output = tmp_path / "run"
        words = ["train", "rgbd", "--path", recording, "--eval_fraction", "0.34", "--output", str(output), *RGBD]
        words += [
            "--eval_steps",
            "2",
            "--hidden_size",
            "32",
            "--vision_hidden_size",
            "16",
            "--use_cpu",
            "true",
        ]
        assert main([*words, "--check"]) == 0
        assert not (output / "config.json").exists()
        assert main(words) == 0
        metrics = json.loads((output / "metrics.json").read_text())
        assert metrics["start"]["eval_depth_abs_rel"] > 0 and metrics["end"]["eval_depth_abs_rel"] > 0
        card = (output / "README.md").read_text()
        assert "# run" in card and "as the model sees it, beside its target" in card
        for picture in ("depth", "camera_path"):
            assert f"](pictures/{picture}.png)" in card and (output / f"pictures/{picture}.png").exists()
        assert (output / "model.safetensors").exists() and (output / "tokenizer.json").exists()
        assert main(words) == 2
        assert "holds an earlier run" in last_line(capsys)

    def test_a_run_that_stopped_is_resumed(self, recording, tmp_path, capsys):
        words = [
            "train",
            "rgbd",
            "--path",
            recording,
            "--eval_fraction",
            "0",
            *RGBD,
            "--output",
            str(tmp_path / "run"),
        ]
        words += [
            "--eval_strategy",
            "no",
            "--eval_on_start",
            "false",
            "--hidden_size",
            "32",
            "--save_strategy",
            "steps",
        ]
        assert main([*words, "--save_steps", "1"]) == 0
        words[words.index("--max_steps") + 1] = "3"
        assert main([*words, "--resume"]) == 0
        state = json.loads((tmp_path / "run/trainer_state.json").read_text())
        assert state["global_step"] == 3

    def test_an_adapter_is_trained_on_a_checkpoint_and_loads_with_its_heads(self, recording, video, tmp_path, capsys):
        base = tmp_path / "base"
        tiny_model(objectives=["camera", "depth", "scale"], teacher_patch_size=14).save_pretrained(base)
        tiny_processor().save_pretrained(base)
        words = [
            "train",
            "rgbd",
            "--path",
            recording,
            "--eval_fraction",
            "0",
            *RGBD,
        ]
        trained = [*words, "--eval_strategy", "no", "--eval_on_start", "false", "--freeze_vision_tower", "true"]
        new = ["--model.base", str(base), "--model.tiny", "null", "--lora.r", "4", "--output", str(tmp_path / "run")]
        assert main([*trained, *new]) == 0
        assert (tmp_path / "run/adapter_config.json").exists()
        words = ["reconstruct", str(tmp_path / "run"), video, "--out", str(tmp_path / "3d"), "--frames", "2"]
        assert main(words) == 0
        adapted = json.loads((tmp_path / "3d/cameras.json").read_text())["metric_scale"]
        assert main(["reconstruct", str(base), video, "--out", str(tmp_path / "3d-base"), "--frames", "2"]) == 0
        assert adapted != json.loads((tmp_path / "3d-base/cameras.json").read_text())["metric_scale"]

        more = ["--model.base", str(tmp_path / "run"), "--model.tiny", "null", "--output", str(tmp_path / "more")]
        assert main([*trained, *more]) == 0
        assert json.loads((tmp_path / "more/adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
        assert main([*trained, *more]) == 2
        assert "holds an earlier run" in last_line(capsys)

    def test_objectives_without_targets_are_refused_before_training(self, recording, tmp_path, capsys):
        words = ["train", "rgbd", "--path", recording, "--eval_fraction", "0.34", *RGBD]
        words += ["--output", str(tmp_path / "run")]
        assert main([*words, "--objectives", "camera,depth,scale,alignment"]) == 2
        assert "sets targets for alignment" in last_line(capsys)
        assert not (tmp_path / "run").exists()


class TestTrainOnRows:
    """On two questions about a folder of four frames. The teacher that the recipe names does not exist."""

    @pytest.fixture
    def rows(self, video, tmp_path):
        def row(answer):
            content = [{"type": "video", "video": Path(video).name}, {"type": "text", "text": "How many chairs?"}]
            answer = [{"type": "text", "text": answer}]
            return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]}

        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row(answer)) + "\n" for answer in ("4", "None.")))
        return path

    @pytest.fixture
    def recipe(self, rows, video, tmp_path):
        source = {"format": "rows", "path": str(rows), "media_root": str(Path(video).parent)}
        tree = {
            "output": str(tmp_path / "run"),
            "model": {"base": "tiny"},
            "data": {"num_frames": 2, "sources": [source]},
            "teacher": {"targets": str(tmp_path / "nowhere")},
            "training": {"use_cpu": True, "report_to": "none", "disable_tqdm": True},
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
        return str(tmp_path / "recipe.yaml")

    def test_the_teacher_is_opened_if_there_is_something_to_learn_of_it(self, recipe, capsys):
        assert main(["train", recipe, "--check"]) == 2
        assert "nowhere" in last_line(capsys)

    @pytest.mark.parametrize("base", ["tiny", "checkpoint", "adapter"])
    def test_without_objectives_no_teacher_is_opened_or_named(self, recipe, tmp_path, capsys, base):
        words = ["--objectives", "[]"]
        if base != "tiny":  # their own configuration says so
            model = save_checkpoint(tmp_path / "checkpoint", tiny_model(objectives=[]))
            words = ["--model.base", str(tmp_path / base)]
        if base == "adapter":
            model = GeoVRForConditionalGeneration.from_pretrained(model)
            get_peft_model(model, geovr_lora_config(model, r=2)).save_pretrained(tmp_path / base)
            save_adapted_config(model, tmp_path / base)
            tiny_processor().save_pretrained(tmp_path / base)
        assert main(["train", recipe, *words, "--check"]) == 0
        printed = capsys.readouterr().out
        assert "teacher     not asked" in printed and "objectives  language\n" in printed
        assert card_writer(build_trainer(load_recipe(recipe, words))).data.teacher is None

    @pytest.mark.parametrize("base", ["tiny", "checkpoint"])
    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ("{depth_loss_type: sillog, objectives: []}", "`model.config`: `depth_loss_type` must be 'l1' or 'silog'"),
            ("{objectives: [dept]}", "`model.config`: `objectives` must be distinct names out of ('camera', "),
        ],
    )
    def test_a_wrong_value_of_the_configuration_is_refused(self, recipe, checkpoint, capsys, base, config, message):
        base = {"tiny": "tiny", "checkpoint": checkpoint}[base]
        words = ["--model.base", base, "--teacher", "null", "--model.config", config]
        assert main(["train", recipe, *words, "--check"]) == 2
        assert message in last_line(capsys)

    def targets(self, video, tmp_path, **layout):
        made_by, folder = PixelTeacher(channels=32, **layout), tmp_path / "targets"
        writer = TargetWriter(folder, Manifest.of(made_by, FrameSampling(num_frames=2), TargetFormat()))
        clip = read_clip(video, num_frames=2)
        writer.write(clip, made_by.targets(clip))
        return str(folder)

    def test_a_teacher_of_another_layout_than_the_checkpoints_is_named(self, recipe, video, tmp_path, capsys):
        base = save_checkpoint(tmp_path / "base", tiny_model(teacher="lab/first"))
        words = ["--model.base", str(base), "--teacher.targets", self.targets(video, tmp_path), "--check"]
        assert main(["train", recipe, *words]) == 2
        error = last_line(capsys)
        assert "the layout of another teacher, lab/first, than the recipe's, stand-in" in error
        assert "depth in tiles of 32 pixels, not 28; 4 layers of 32 channels, not 2 of 32." in error
        assert "set `model.config.objectives: [camera, scale]`" in error
        assert main(["train", recipe, *words, "--objectives", "[camera, scale]"]) == 0

    def test_a_teacher_of_the_checkpoints_layout_is_taken(self, recipe, video, tmp_path):
        layout = {"teacher_patch_size": 16, "teacher_num_layers": 2, "teacher_depth_layers": [0, 0, 1, 1]}
        model = tiny_model(teacher="lab/first", teacher_alignment_layers=[0, 1], **layout)
        words = ["--model.base", str(save_checkpoint(tmp_path / "base", model)), "--check"]
        assert main(["train", recipe, *words, "--teacher.targets", self.targets(video, tmp_path, patch_size=16)]) == 0

    @pytest.mark.parametrize("command", ["train", "grpo"])
    def test_check_looks_at_every_row_and_names_the_bad_ones(self, command, recipe, rows, capsys):
        good, other = rows.read_text().splitlines()
        name = json.loads(good)["messages"][0]["content"][0]["video"]
        bad = [other.replace(name, "gone.mp4"), other.replace("user", "usher"), other.replace(name, "../x")]
        rows.write_text("\n".join([good, *bad]))
        rewards = ["--rewards.answer", "1"] if command == "grpo" else []
        assert main([command, recipe, "--teacher", "null", "--objectives", "[]", "--check", *rewards]) == 2
        first, *named = capsys.readouterr().err.partition(f"geovr {command}: ")[2].splitlines()
        assert first == "3 rows are bad:" and len(named) == 3
        assert named[0].startswith("rows.jsonl, row 1: ") and named[0].endswith("gone.mp4: no such file.")
        assert "row 2, messages[0]: a message is a dict with a `role`" in named[1] and "row 3: the media" in named[2]

    def test_check_misses_targets(self, recipe, rows, video, tmp_path, capsys):
        words = ["train", recipe, "--teacher.targets", self.targets(video, tmp_path), "--check"]
        assert main(words) == 0
        shutil.copytree(video, Path(video).parent / "other")
        (Path(video).parent / "other/0.png").unlink()  # the first frame that is sampled
        lines = rows.read_text().splitlines()
        rows.write_text("\n".join([lines[0], lines[1].replace(Path(video).name, "other")]))
        assert main(words) == 2
        error = last_line(capsys)
        assert "rows.jsonl, row 1: " in error and "has no targets of" in error


def test_tables_align_numbers_and_mark_what_is_missing():
    table = format_table("metric", {"before": {"depth": 0.5}, "after": {"depth": 0.125}}, ["depth", "scale"])
    assert table.splitlines() == [
        "metric  before  after",
        "------  ------  -----",
        "depth    0.500  0.125",
        "scale        -      -",
    ]


def test_a_command_leaves_the_global_random_state_alone(checkpoint, video):
    torch.manual_seed(3)
    expected = torch.rand(1, generator=torch.Generator().manual_seed(3))
    main(["ask", checkpoint, video, "How many?", "--max-new-tokens", "2", "--frames", "1"])
    assert torch.rand(1) == expected
