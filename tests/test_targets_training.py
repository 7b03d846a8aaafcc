"""Stored targets in training: the same losses as from the teacher itself, in half precision too, in any company."""

import json
from dataclasses import replace

import pytest
import torch
from targets_support import PixelTeacher, image_folder
from teacher_fixtures import tiny_network
from training_support import row, targets, tiny_model, tiny_processor, trainer, video

from geovr_hf import GeoVRDataCollator
from geovr_hf.cli import main
from geovr_hf.commands.build_data import build_data
from geovr_hf.data import FrameSampling, StreamingVideoDataset, UnreadableClipError, VideoDataset, read_clip
from geovr_hf.recipe import DataSection, RowsSource, TeacherSection
from geovr_hf.targets import Manifest, TargetFolder, TargetFormat, TargetWriter
from geovr_hf.targets.index import write_unreadable
from geovr_hf.teachers import ImageRule
from geovr_hf.trainers.geovr_trainer import LOSS_ITEMS
from geovr_hf.trainers.metrics import geometry_errors


def teacher(**options):
    """A teacher of the tiny model's layout."""
    return PixelTeacher(channels=32, patch_size=16, **options)


def losses(model, rows):
    with torch.no_grad():
        output = model(**GeoVRDataCollator(tiny_processor())(rows))
    return {name: output[name] for name in LOSS_ITEMS if output.get(name) is not None}


class TestHalfPrecision:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("loss_type", ["regression", "silog"])
    def test_losses_are_those_of_widened_targets(self, dtype, loss_type):
        model = tiny_model().eval()
        model.config.depth_loss_type = loss_type
        half = targets(2).to(dtype)
        narrow = losses(model, [row("4", video(2), clip_targets=half)])
        wide = losses(model, [row("4", video(2), clip_targets=half.to(torch.float32))])
        assert set(narrow) >= {"camera_loss", "depth_loss", "scale_loss", "alignment_loss"}
        assert narrow == wide

    def test_features_that_are_not_pooled_are_averaged_in_full_precision(self):
        model = tiny_model().eval()
        half = targets(2).to(torch.bfloat16)
        assert not half.features_pooled
        wide = replace(half, features=[value.float() for value in half.features])
        narrow = losses(model, [row("4", video(2), clip_targets=half)])["alignment_loss"]
        assert narrow == losses(model, [row("4", video(2), clip_targets=wide)])["alignment_loss"]

    def test_metrics_are_those_of_widened_targets(self):
        half = replace(targets(2), depth=targets(2).depth * 300, metric_scale=torch.tensor(999.0)).to(torch.float16)
        predictions = {"pose_enc": torch.rand(2, 9), "depth": torch.rand(half.depth.shape) * 300}
        predictions["metric_scale"] = torch.tensor(800.0)
        narrow = geometry_errors(half, **predictions)
        wide = geometry_errors(half.to(torch.float32), **predictions)
        assert narrow == wide and all(torch.isfinite(error) for error in narrow.values())
        assert "depth_abs_rel_metric" in narrow


class TestMixedSources:
    """A teacher's targets, ground truth without features, a clip with nothing but its scale, and one with nothing."""

    WITH = {"camera": (0, 1, 4), "depth": (0, 1, 4), "scale": (0, 1, 2, 4), "alignment": (0, 4)}

    @pytest.fixture
    def rows(self):
        looked_at = [
            row(answer, video(2, seed=seed), clip_targets=teacher().targets(video(2, seed=seed)["video"]))
            for answer, seed in (("4", 1), ("Three chairs and a lamp.", 5))
        ]
        return [
            looked_at[0],
            row("B", video(3, seed=2), clip_targets=targets(3, seed=2, without=("features",))),
            row(
                "door",
                video(2, seed=3),
                clip_targets=targets(2, seed=3, without=("features", "pose_enc", "depth", "depth_confidence")),
            ),
            row("sofa", video(1, seed=4)),
            looked_at[1],
        ]

    def alone(self, rows):
        model = tiny_model().eval()
        return [losses(model, [single]) for single in rows]

    def expected(self, rows):
        """Means over the clips that have a target, from rows that were looked at one by one."""
        alone = self.alone(rows)
        means = {}
        for name, item in LOSS_ITEMS.items():
            if item in self.WITH:
                means[name] = sum(float(alone[clip][name]) for clip in self.WITH[item]) / len(self.WITH[item])
                assert all((name in alone[clip]) == (clip in self.WITH[item]) for clip in range(5))
        return means

    def test_each_objective_averages_over_the_clips_that_have_it(self, rows):
        together = losses(tiny_model().eval(), rows)
        for name, mean in self.expected(rows).items():
            assert float(together[name]) == pytest.approx(mean, rel=1e-5), name

    @pytest.mark.parametrize("at_once", [1, 2, 3, 5])
    def test_splitting_the_batch_does_not_change_the_means(self, rows, tmp_path, at_once):
        run = trainer(
            tmp_path,
            rows=rows,
            max_steps=1,
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=-(-5 // at_once),
        )
        run.train()
        logged = run.state.log_history[0]
        for name, mean in self.expected(rows).items():
            assert logged[name] == pytest.approx(mean, rel=1e-4), name


@pytest.fixture
def media(tmp_path):
    for number in range(3):
        image_folder(tmp_path / "media" / f"clip{number}", num_images=2 + number, seed=number)
    return tmp_path / "media"


def stored_rows(media):
    return [
        {
            "messages": [
                {"role": "user", "content": [{"type": "video", "video": name}, {"type": "text", "text": "How many?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": answer}]},
            ]
        }
        for name, answer in (("clip0", "4"), ("clip1", "Three chairs."), ("clip2", "B"), ("clip0", "sofa"))
    ]


QUESTION = [{"role": "user", "content": [{"type": "video"}]}, {"role": "assistant", "content": "4"}]


def store(media, out, made_by, target_format):
    writer = TargetWriter(out, Manifest.of(made_by, FrameSampling(num_frames=3), target_format))
    for path in sorted(media.iterdir()):
        clip = read_clip(path, num_frames=3)
        writer.write(clip, made_by.targets(clip))
    return TargetFolder(out)


class TestFolderInTraining:
    """Three steps with targets from a folder, and with the teacher beside the model."""

    def train(self, tmp_path, media, name, folder=None, **options):
        dataset = VideoDataset(stored_rows(media), media, num_frames=3, teacher=folder)
        run = trainer(tmp_path / name, rows=dataset, max_steps=3, **options)
        run.train()
        logs = [
            {loss: log[loss] for loss in LOSS_ITEMS if loss in log} for log in run.state.log_history if "loss" in log
        ]
        return logs, {name: parameter.detach() for name, parameter in run.model.named_parameters()}

    def test_losses_are_the_same_either_way(self, tmp_path, media):
        folder = store(media, tmp_path / "targets", teacher(), TargetFormat("float32", "float32", "float32"))
        online, online_model = self.train(tmp_path, media, "online", teacher=teacher())
        stored, stored_model = self.train(tmp_path, media, "stored", folder=folder)
        assert len(stored) == 3 and stored == online and "alignment_loss" in stored[0]
        for name, parameter in online_model.items():
            assert torch.equal(parameter, stored_model[name]), name

    @pytest.mark.parametrize(("preset", "limit"), [("full", 2e-3), ("8bit", 1e-2)])
    def test_workers_and_smaller_formats_hardly_change_them(self, tmp_path, media, preset, limit):
        folder = store(media, tmp_path / "targets", teacher(), TargetFormat.preset(preset))
        online, _ = self.train(tmp_path, media, "online", teacher=teacher())
        stored, _ = self.train(tmp_path, media, "stored", folder=folder, dataloader_num_workers=2)
        for mine, theirs in zip(stored, online, strict=True):
            assert mine == pytest.approx(theirs, rel=limit)

    def test_the_teacher_leaves_no_trace_in_the_checkpoint(self, tmp_path, media):
        folder = store(media, tmp_path / "targets", teacher(), TargetFormat())
        run = trainer(
            tmp_path / "run",
            rows=VideoDataset(stored_rows(media), media, num_frames=3, teacher=folder),
            save_strategy="steps",
            save_steps=2,
        )
        run.train()
        saved = {path.name for path in (tmp_path / "run/checkpoint-2").iterdir()}
        assert not [name for name in saved if "target" in name and not name.endswith("_geovr.py")]
        assert set(dict(run.model.named_modules())) == set(dict(tiny_model().named_modules()))


class TestLeftOut:
    """A clip that `geovr precompute` listed as unreadable. Its message and the data sets' options lead on."""

    @pytest.fixture
    def targets(self, tmp_path, media):
        folder = store(media, tmp_path / "targets", PixelTeacher(), TargetFormat())
        image_folder(media / "strip", num_images=2, size=(640, 16))
        write_unreadable(folder.path, {"strip": "strip: too elongated.", "clip0": "clip0: cannot decode."})
        return folder.path

    def rows(self, media):
        return [*stored_rows(media), {**stored_rows(media)[0], "videos": ["strip"], "messages": QUESTION}]

    def test_the_error_says_why_and_what_helps(self, media, targets):
        dataset = VideoDataset(self.rows(media), media, num_frames=3, teacher=TargetFolder(targets))
        assert dataset[0]["geometry_targets"][0] is not None  # listed once, and computed since
        with pytest.raises(ValueError, match=r"row 4: .*unreadable.json .*: too elongated.*on_bad_sample: skip.*none"):
            dataset[4]

    def test_skip_leaves_it_out_and_without_targets_it_stays(self, media, targets):
        options = {"media_root": media, "num_frames": 3, "on_bad_sample": "skip"}
        dataset = VideoDataset(self.rows(media), teacher=TargetFolder(targets), **options)
        assert [skipped.row for skipped in dataset.skipped] == [4] and "too elongated" in dataset.skipped[0].reason
        stream = StreamingVideoDataset(self.rows(media), teacher=TargetFolder(targets), **options)
        assert len(list(stream)) == 4 and [skipped.row for skipped in stream.skipped] == [4]
        dataset = VideoDataset(self.rows(media), teacher=TargetFolder(targets, missing="none"), **options)
        assert dataset[4]["geometry_targets"] == [None]

    @pytest.mark.parametrize("kind", [VideoDataset, StreamingVideoDataset])
    def test_a_clip_that_the_trainers_teacher_could_not_be_shown_is_skipped_too(self, kind, media, targets):
        options = {"num_frames": 3, "on_bad_sample": "skip", "image_rule": ImageRule(504, 28)}
        dataset = kind(self.rows(media), media, **options)
        assert len(list(dataset)) == 4
        assert "640 x 16 pixels is too elongated" in dataset.skipped[0].reason
        with pytest.raises(UnreadableClipError, match="row 4: .*too elongated"):
            list(kind(self.rows(media), media, **options | {"on_bad_sample": "raise"}))

    def test_so_it_is_by_a_recipe(self, media, targets, tmp_path):
        tiny_network("vggt", point_head=False).save_pretrained(tmp_path / "vggt")
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, self.rows(media))))
        source = RowsSource(format="rows", path=str(tmp_path / "rows.jsonl"), media_root=str(media))
        data = DataSection(sources=[source], num_frames=3, on_bad_sample="skip")
        opened = build_data(data, TeacherSection(name=str(tmp_path / "vggt")))
        assert [skipped.row for skipped in opened.train.skipped] == [4]


class TestRecipes:
    RECIPE = """
output: {output}
model:
  base: tiny
  config: {{objectives: [camera, depth, scale, alignment]}}
  tiny: {{hidden_size: 32, num_layers: 4}}
data:
  num_frames: {num_frames}
  sources:
    - {{format: rows, path: {rows}, media_root: {media}}}
    - {{format: rooms, num_rooms: 2, questions_per_room: 2, image_size: [64, 32]}}
teacher: {{targets: {targets}}}
training: {{max_steps: 2, per_device_train_batch_size: 3, use_cpu: true, report_to: none, disable_tqdm: true}}
"""

    def write(self, tmp_path, media, num_frames=3):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in stored_rows(media)))
        path = tmp_path / "recipe.yaml"
        values = {
            "output": tmp_path / "run",
            "rows": tmp_path / "rows.jsonl",
            "media": media,
            "num_frames": num_frames,
        }
        path.write_text(self.RECIPE.format(targets=tmp_path / "targets", **values))
        return str(path)

    def test_a_recipe_trains_on_a_folder_mixed_with_rooms(self, tmp_path, media):
        pytest.importorskip("embreex")
        store(media, tmp_path / "targets", PixelTeacher(channels=32), TargetFormat())
        assert main(["train", self.write(tmp_path, media)]) == 0
        card = (tmp_path / "run/README.md").read_text()
        assert "stand-in" in card

    def test_another_sampling_than_the_folders_is_refused_before_anything_is_loaded(self, tmp_path, media, capsys):
        store(media, tmp_path / "targets", PixelTeacher(channels=32), TargetFormat())
        assert main(["train", self.write(tmp_path, media, num_frames=4)]) == 2
        error = capsys.readouterr().err
        assert "is of clips sampled by num_frames 3" in error and "`data` samples by num_frames 4" in error
