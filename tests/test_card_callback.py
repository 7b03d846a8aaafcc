import re
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from peft import get_peft_model
from transformers import TrainerCallback

from geovr_hf import (
    GeometryTargets,
    GeoVRConfig,
    GeoVRForConditionalGeneration,
    GeoVRTrainer,
    GeoVRTrainingArguments,
)
from geovr_hf.checkpoints import export_qwen3_vl
from geovr_hf.hub_cards import CardEvaluation, GeoVRCardCallback, GeoVRExportCardData, GeoVRModelCardData
from geovr_hf.hub_cards.card_callback import trained_parameters
from geovr_hf.teachers.catalogue import find_published
from geovr_hf.teachers.layout import teacher_layout
from geovr_hf.teachers.loading import teacher_spec
from geovr_hf.tiny import make_tiny_config, make_tiny_model, make_tiny_processor
from geovr_hf.trainers.adapter_files import save_adapted_config
from geovr_hf.trainers.peft import geovr_lora_config


def row(answer: str) -> dict:
    """A clip of two frames with poses and scale, and a question about it."""
    pose_enc = torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1, 1], [0.1, 0, 0, 0, 0, 0, 1, 1, 1]], dtype=torch.float32)
    clip = {
        "type": "video",
        "video": torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8),
        "timestamps": [0.0, 0.5],
    }
    return {
        "messages": [
            {"role": "user", "content": [clip, {"type": "text", "text": "How many chairs?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ],
        "geometry_targets": GeometryTargets(pose_enc=pose_enc, metric_scale=torch.tensor(2.0)),
        "question_type": "object_counting",
        "answer": answer,
    }


@pytest.fixture(scope="module")
def processor():
    return make_tiny_processor()


@pytest.fixture
def make_trainer(processor, tmp_path):
    def make(callback, peft=False, **arguments) -> GeoVRTrainer:
        config = make_tiny_config(processor, objectives=["camera", "scale"], num_layers=2, vision_depth=1)
        model = make_tiny_model(config, processor)
        args = GeoVRTrainingArguments(
            output_dir=str(tmp_path / "rooms"),
            max_steps=2,
            logging_steps=1,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=1,
            learning_rate=1e-3,
            camera_loss_weight=5.0,
            activation_checkpointing=False,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            eval_max_new_tokens=2,
            **arguments,
        )
        return GeoVRTrainer(
            model,
            args,
            processing_class=processor,
            train_dataset=[row("two"), row("three"), row("four")],
            eval_dataset=[row("five")],
            callbacks=[callback],
            peft_config=geovr_lora_config(model, r=2) if peft else None,
        )

    return make


def card(trainer) -> ModelCard:
    return ModelCard.load(f"{trainer.args.output_dir}/README.md")


def test_training_writes_a_card_with_what_was_run(make_trainer):
    trainer = make_trainer(GeoVRCardCallback())
    trainer.train()
    text = card(trainer).text
    for fact in (
        "# rooms",
        "| camera | each frame's translation, rotation and field of view, relative to the first frame | 5 |",
        "| scale | metres in one unit of the teacher | 1 |",
        "3 training examples",
        "| learning_rate | 0.001 |",
        "| lr_scheduler_type | cosine |",
        "| geometry_learning_rate | 0.0001 |",
        "| max_steps | 2 |",
        f"transformers {transformers.__version__}",
    ):
        assert fact in text
    steps = re.findall(r"^\| (\d+) \| [\d.]+ \| [\d.]+ \|", text, flags=re.MULTILINE)
    assert steps == ["1", "2"]
    header = next(line for line in text.splitlines() if line.startswith("| step"))
    assert {"lm_loss", "camera_loss", "scale_loss"} <= {*header.split()} and "depth_loss" not in header
    # Nobody told the data, the licence, the base model or any result.
    assert not {"license", "base_model", "datasets", "model-index"} & {*card(trainer).data.to_dict()}
    assert "## Evaluation" not in text and "num_train_epochs" not in text


def test_what_the_author_says_is_kept(make_trainer):
    facts = GeoVRModelCardData("me/flat", training_data="Our own flat.", hardware="a laptop", license="mit")
    trainer = make_trainer(GeoVRCardCallback(facts))
    trainer.train()
    written = card(trainer)
    assert "# flat" in written.text and "Our own flat." in written.text and "Hardware: a laptop" in written.text
    assert written.data.license == "mit"


def test_a_card_that_cannot_be_written_stops_the_run_before_it_starts(make_trainer):
    trainer = make_trainer(GeoVRCardCallback(GeoVRModelCardData("rooms", images={"/picture.png": "a room"})))
    with pytest.raises(ValueError, match="must lie in the card's folder"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_an_evaluation_after_training_enters_the_card_beside_the_one_before(make_trainer):
    trainer = make_trainer(
        GeoVRCardCallback(evaluation=CardEvaluation({}, dataset_name="Held-out flats", split="test"))
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    written = card(trainer)
    line = f"| camera_loss ↓ | {after['eval_camera_loss']:.4g} | {before['eval_camera_loss']:.4g} |"
    assert line in written.text
    assert "runtime" not in written.text
    results = {result.metric_type: result.metric_value for result in written.data.eval_results}
    assert results["camera_loss"] == pytest.approx(after["eval_camera_loss"])


def test_the_card_of_an_adapter_loads_it_onto_its_base_and_counts_what_it_trains(make_trainer):
    callback = GeoVRCardCallback(GeoVRModelCardData("me/rooms-lora", base_model="Qwen/Qwen3-VL-2B-Instruct"))
    trainer = make_trainer(callback, peft=True)
    trainer.train()
    trainer.save_model()
    callback.write(trainer.args.output_dir)  # PEFT has put its own there
    written = card(trainer)
    assert 'load_peft_model("me/rooms-lora", dtype="auto")' in written.text
    assert written.data.base_model_relation == "adapter"
    parts = trained_parameters(trainer.model)
    assert {"language_model", "camera_head", "scale_head", "geometry_tokens"} <= {*parts}
    assert parts["language_model"] < sum(
        parameter.numel() for name, parameter in trainer.model.named_parameters() if "language_model" in name
    )


def test_pictures_are_drawn_when_training_ends_and_shown_on_the_card(make_trainer):
    def draw(folder, model, log_history):
        assert {entry["step"] for entry in log_history if "loss" in entry} == {1, 2}
        (folder / "pictures").mkdir()
        (folder / "pictures" / "depth.png").write_bytes(b"")
        return {"pictures/depth.png": f"depth of a model with {model.config.text_config.num_hidden_layers} layers"}

    trainer = make_trainer(GeoVRCardCallback(draw=draw))
    trainer.train()
    assert "![depth of a model with 2 layers](pictures/depth.png)" in card(trainer).text


def test_a_picture_that_fails_costs_no_training(make_trainer, caplog):
    def draw(folder, model, log_history):
        raise RuntimeError("no ink")

    trainer = make_trainer(GeoVRCardCallback(draw=draw))
    trainer.train()
    assert trainer.state.global_step == 2 and "no ink" in caplog.text
    assert "![" not in card(trainer).text


class Measured(TrainerCallback):
    """Writes what CodeCarbon would, as a run ends."""

    def on_train_end(self, args, state, control, **kwargs):
        rows = "run_id,emissions,energy_consumed\n0,9,9\n1,0.5,1.25\n"
        (Path(args.output_dir) / "emissions.csv").write_text(rows)


def test_a_run_that_cannot_report_is_refused_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("geovr_hf.trainers.reporters.get_available_reporting_integrations", lambda: ["wandb"])
    GeoVRTrainingArguments(output_dir=str(tmp_path), report_to="wandb")
    with pytest.raises(ImportError, match="`report_to` names codecarbon, .*: pip install codecarbon"):
        GeoVRTrainingArguments(output_dir=str(tmp_path), report_to=["wandb", "codecarbon"])


def test_energy_is_what_codecarbon_measured_of_this_run(make_trainer):
    trainer = make_trainer(GeoVRCardCallback())
    trainer.callback_handler.callbacks.insert(0, Measured())  # as those of `report_to` come first
    trainer.train()
    written = card(trainer)
    assert "- Energy: 1.25 kWh, 0.5 kg of carbon dioxide" in written.text
    emissions = written.data.to_dict()["co2_eq_emissions"]
    assert (emissions["emissions"], emissions["source"]) == (500.0, "CodeCarbon")
    trainer = make_trainer(GeoVRCardCallback())  # the file of the run before is still there
    trainer.train()
    assert "Energy" not in card(trainer).text


class TestCode:
    """The code on each kind of card, executed as printed."""

    @pytest.fixture(autouse=True)
    def room(self, tmp_path, monkeypatch):
        av = pytest.importorskip("av")
        monkeypatch.chdir(tmp_path)
        with av.open("room.mp4", "w") as container:
            stream = container.add_stream("mpeg4", rate=4)
            stream.width = stream.height = 64
            for frame in torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8).numpy():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())

    @pytest.fixture
    def model(self, processor):
        return make_tiny_model(make_tiny_config(processor), processor)

    def execute(self, data) -> dict:
        text = str(data.render())
        code = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))
        names: dict = {}
        exec(compile(code, "README.md", "exec"), names)
        return names

    def test_of_a_model(self, model, processor, capsys):
        model.save_pretrained("rooms")
        processor.save_pretrained("rooms")
        weights = dict.fromkeys(["lm", *model.config.objectives], 1.0)
        names = self.execute(GeoVRModelCardData("rooms", objectives=weights, num_frames=4))
        assert names["geometry"].depth.shape[0] == 4
        assert "torch.Size([4, " in capsys.readouterr().out

    def test_of_an_adapter_on_plain_qwen3_vl_with_heads_for_another_teacher(self, model, processor):
        model.save_pretrained("rooms")
        processor.save_pretrained("rooms")
        export_qwen3_vl("rooms", "plain")
        # The heads of DA3-LARGE have the shapes of the default ones, and read other layers.
        entry = find_published("depth-anything/DA3-LARGE-1.1")
        layout = teacher_layout(teacher_spec(entry, entry.config()))
        config = GeoVRConfig.from_pretrained("plain", **layout)
        assert config.depth_state_indices != GeoVRConfig.from_pretrained("plain").depth_state_indices
        model = GeoVRForConditionalGeneration.from_pretrained("plain", config=config)
        weights = dict.fromkeys(["lm", *config.objectives], 1.0)
        adapted = get_peft_model(model, geovr_lora_config(model, r=2)).eval()
        adapted.save_pretrained("rooms-lora")
        save_adapted_config(adapted, "rooms-lora")
        processor.save_pretrained("rooms-lora")
        names = self.execute(GeoVRModelCardData("rooms-lora", is_adapter=True, objectives=weights, num_frames=4))
        assert type(names["model"]).__name__ == "PeftModel"
        expected = adapted.predict_geometry(**names["inputs"])[0]
        torch.testing.assert_close(names["geometry"].depth, expected.depth)

    def test_of_a_plain_export_which_reads_and_answers_as_the_source_does(self, model, processor):
        model.save_pretrained("rooms")
        processor.save_pretrained("rooms")
        export_qwen3_vl("rooms", "plain")
        names = self.execute(GeoVRExportCardData("plain", num_frames=4))
        ours = self.execute(GeoVRModelCardData("rooms", num_frames=4))
        for name in ("input_ids", "pixel_values_videos"):
            assert torch.equal(names["inputs"][name], ours["inputs"][name]), name
        assert torch.equal(names["answer"], ours["answer"])
