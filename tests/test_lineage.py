"""Who taught a checkpoint is not forgotten, whichever way it goes from one to the next and onto the Hub."""

from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from peft import get_peft_model
from torch.utils.data import ConcatDataset, Subset
from training_support import row, targets, tiny_model, tiny_processor, video
from training_support import trainer as make_trainer

from geovr_hf import GeoVRConfig, GeoVRForConditionalGeneration
from geovr_hf.checkpoints import export_qwen3_vl
from geovr_hf.checkpoints.cards import pushed_card
from geovr_hf.data import VideoDataset
from geovr_hf.hub_cards import CardTeacher, GeoVRCardCallback, GeoVRModelCardData, read_card_facts
from geovr_hf.hub_cards.card_callback import base_model
from geovr_hf.hub_cards.stubs import is_stub
from geovr_hf.trainers import geovr_lora_config
from geovr_hf.trainers.adapter_files import hub_id
from geovr_hf.trainers.carded import data_teachers, record_teachers


VGGT = "facebook/VGGT-1B"
OWN = SimpleNamespace(name="lab/own", licence="research-only", non_commercial=True)


class Teacher:
    """Sets targets on the terms of VGGT, in metres of a network that only research may use."""

    spec = SimpleNamespace(name=VGGT, licence="cc-by-nc-4.0", non_commercial=True)
    metric = SimpleNamespace(name="lab/ruler", licence="research-only", non_commercial=True)

    def targets(self, clip):
        return targets(len(clip))


def save_checkpoint(folder, model=None):
    (tiny_model() if model is None else model).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def train(folder, model, callback=None, **options):
    """A step of training on a clip that comes with targets of nobody's, or with a teacher's."""
    clip_targets = None if "teacher" in options else targets(2)
    rows = [row("4", video(2), clip_targets=clip_targets)] * 2
    trainer = make_trainer(folder, model, rows, callbacks=[callback] if callback else None, max_steps=1, **options)
    trainer.train()
    trainer.save_model()
    tiny_processor().save_pretrained(folder)
    return trainer


def push(folder, tmp_path, licence=None, base_model=None) -> ModelCard:
    """The card that `geovr push` would upload."""
    (tmp_path / "pushed").mkdir(exist_ok=True)
    return ModelCard(pushed_card(folder, "me/x", licence, base_model, tmp_path / "pushed")["README.md"].decode())


def assert_bound(folder, tmp_path, licence="cc-by-nc-4.0"):
    with pytest.raises(ValueError, match="`license='apache-2.0'` claims more than the teacher"):
        push(folder, tmp_path, "apache-2.0")
    assert push(folder, tmp_path).data.license == licence


@pytest.fixture
def base(tmp_path):
    """A checkpoint without a card, which VGGT taught as its configuration says."""
    return save_checkpoint(tmp_path / "base", tiny_model(teacher=VGGT))


@pytest.mark.parametrize("callback", [None, GeoVRCardCallback], ids=["no card", "card"])
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "adapter"])
def test_a_model_trained_on_is_bound_by_who_taught_its_base(base, tmp_path, lora, callback):
    model = GeoVRForConditionalGeneration.from_pretrained(base)
    options = {"peft_config": geovr_lora_config(model, r=2)} if lora else {}
    train(tmp_path / "run", model, callback and callback(), **options)
    assert_bound(tmp_path / "run", tmp_path)
    assert "Not for commercial use" in push(tmp_path / "run", tmp_path).text


def test_a_teacher_that_only_the_base_s_card_knows_binds_too(tmp_path):
    base = save_checkpoint(tmp_path / "base")
    GeoVRModelCardData("base", teacher=OWN, other_teachers=[CardTeacher("lab/earlier")]).save(base)
    train(tmp_path / "run", GeoVRForConditionalGeneration.from_pretrained(base), GeoVRCardCallback())
    assert_bound(tmp_path / "run", tmp_path, "other")
    text = (tmp_path / "run/README.md").read_text()
    assert "| lab/own | further targets | research-only | not allowed |" in text and "lab/earlier" in text
    # An adapter has no card of its own until it is pushed.
    adapted = get_peft_model(GeoVRForConditionalGeneration.from_pretrained(base), geovr_lora_config(tiny_model(), r=2))
    adapted.save_pretrained(tmp_path / "adapter")
    assert_bound(tmp_path / "adapter", tmp_path, "other")


def test_a_base_exported_to_plain_qwen3_vl_is_still_remembered(base, tmp_path):
    export_qwen3_vl(base, tmp_path / "plain")
    heads = tiny_model().config.to_dict()
    heads = {name: heads[name] for name in heads if name.startswith(("teacher_", "depth_", "camera_", "scale_"))}
    config = GeoVRConfig.from_pretrained(tmp_path / "plain", **heads)
    model = GeoVRForConditionalGeneration.from_pretrained(tmp_path / "plain", config=config)
    train(tmp_path / "run", model, GeoVRCardCallback())
    assert_bound(tmp_path / "run", tmp_path)


def test_a_readme_of_one_s_own_keeps_to_the_rule(base, tmp_path):
    (base / "README.md").write_text("---\ntags: [x]\n---\n# Mine\n")
    assert_bound(base, tmp_path)
    assert "# Mine" in push(base, tmp_path).text
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Mine\n")
    with pytest.raises(ValueError, match="claims more than the teacher"):
        push(base, tmp_path)
    free = save_checkpoint(tmp_path / "free")
    (free / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Mine\n")
    assert push(free, tmp_path).data.license == "apache-2.0"


def test_the_trainer_s_teacher_and_metric_network_are_on_the_card_and_in_the_configuration(tmp_path):
    facts = GeoVRModelCardData("me/my-model", training_data="Videos of our own flat.", license="apache-2.0")
    with pytest.raises(ValueError, match="claims more than the teacher"):  # before the first step
        train(tmp_path / "run", tiny_model(), GeoVRCardCallback(facts), teacher=Teacher())
    train(tmp_path / "run", tiny_model(), GeoVRCardCallback(), teacher=Teacher())
    known, edited = read_card_facts(tmp_path / "run")
    assert (known.teacher.name, known.metric.name, known.other_teachers, edited) == (VGGT, "lab/ruler", [], False)
    assert GeoVRConfig.from_pretrained(tmp_path / "run").teacher == [VGGT, "lab/ruler"]

    train(tmp_path / "bare", tiny_model(teacher="synthetic"), teacher=Teacher())
    assert GeoVRConfig.from_pretrained(tmp_path / "bare").teacher == ["synthetic", VGGT, "lab/ruler"]
    assert_bound(tmp_path / "bare", tmp_path)
    # Language alone is learnt from no teacher.
    model = tiny_model(objectives=[])
    train(tmp_path / "words", model, teacher=Teacher())
    assert model.config.teacher is None


def test_teachers_whose_targets_come_with_the_data_are_found(tmp_path):
    (tmp_path / "media").mkdir()
    stored = VideoDataset([{"messages": []}], tmp_path / "media", num_frames=2, teacher=Teacher())
    joined = ConcatDataset([Subset(stored, [0]), VideoDataset([], tmp_path / "media", num_frames=2)])
    (found,) = data_teachers(joined)
    assert found is stored.decoder.teacher and data_teachers([row("4")]) == data_teachers(None) == []


def test_without_a_teacher_nothing_is_claimed(tmp_path):
    train(tmp_path / "run", tiny_model(), GeoVRCardCallback())
    assert "## Teachers" not in (tmp_path / "run/README.md").read_text()
    assert push(tmp_path / "run", tmp_path, "apache-2.0").data.license == "apache-2.0"
    config = GeoVRConfig()
    record_teachers(config, [])
    assert config.teacher is None


class TestStubs:
    """Cards that a library left are no cards."""

    def test_peft_s(self, tmp_path):
        model = tiny_model()
        trainer = train(tmp_path / "run", model, peft_config=geovr_lora_config(model, r=2))
        assert "[More Information Needed]" in (tmp_path / "run/README.md").read_text()
        card = push(tmp_path / "run", tmp_path, base_model="me/base")
        assert "load_peft_model" in card.text and "[More Information Needed]" not in card.text
        trainer.model.save_pretrained(tmp_path / "run")  # which adds to what is there
        assert is_stub(ModelCard.load(tmp_path / "run/README.md"))
        words = (tmp_path / "run/README.md").read_text().replace("# Model Card for Model ID", "# My rooms")
        (tmp_path / "run/README.md").write_text(words)
        assert "# My rooms" in push(tmp_path / "run", tmp_path).text

    def test_transformers(self, tmp_path):
        trainer = train(tmp_path / "run", tiny_model())
        trainer.create_model_card()
        assert is_stub(ModelCard.load(tmp_path / "run/README.md"))

    def test_trl_s(self):
        from trl.trainer.utils import generate_model_card

        names = ("base_model", "dataset_name", "wandb_url", "trackio_url", "comet_url")
        card = generate_model_card(
            **dict.fromkeys(names), model_name="x", hub_model_id="me/x", tags=[], trainer_name="GRPO"
        )
        assert is_stub(ModelCard(str(card)))


class TestBase:
    """A folder of this machine is no base that a card may name."""

    def test_what_can_be_an_id(self, tmp_path):
        assert hub_id(None) is None
        none = ["", "tiny", str(tmp_path), "./runs/base", "a/b/c", "me/flat..1", "me/flat--1", "me/flat.git", "é/flat"]
        for name in ["Qwen/Qwen3-VL-2B-Instruct", "me/_flat", *none]:
            # The run's card and the push of its adapter, whose rooms share no code, say the same.
            named = SimpleNamespace(config=SimpleNamespace(_name_or_path=name))
            assert hub_id(name) == base_model(named) == (None if name in none else name)

    def test_a_card_names_no_folder(self, base, tmp_path):
        model = GeoVRForConditionalGeneration.from_pretrained(base)
        train(tmp_path / "run", model, GeoVRCardCallback(), peft_config=geovr_lora_config(model, r=2))
        for card in (ModelCard.load(tmp_path / "run/README.md"), push(tmp_path / "run", tmp_path)):
            assert card.data.base_model is None and str(base) not in str(card)
        written = "---\nbase_model: " + str(base) + "\n---\n# Mine\n"
        (tmp_path / "run/README.md").write_text(written)
        assert push(tmp_path / "run", tmp_path).data.base_model is None
        assert push(tmp_path / "run", tmp_path, base_model="me/base").data.base_model == "me/base"

    def test_the_trainer_pushes_no_adapter_of_a_folder(self, base, tmp_path):
        model = GeoVRForConditionalGeneration.from_pretrained(base)
        options = {"peft_config": geovr_lora_config(model, r=2)}
        trainer = make_trainer(tmp_path / "run", model, **options)
        with pytest.raises(ValueError, match=r"nobody else could load it.*`geovr push`"):
            trainer.push_to_hub()
        model = GeoVRForConditionalGeneration.from_pretrained(base)
        with pytest.raises(ValueError, match="nobody else could load it"):  # before it trains
            make_trainer(tmp_path / "run", model, push_to_hub=True, **options)


def test_two_teachers_survive_saving(tmp_path):
    model = tiny_model(teacher=[VGGT, "lab/own"])
    save_checkpoint(tmp_path / "saved", model)
    loaded = GeoVRForConditionalGeneration.from_pretrained(tmp_path / "saved")
    assert loaded.config.teacher == [VGGT, "lab/own"]
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
