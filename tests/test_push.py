"""Checkpoints on the Hub: pushed by one process, loaded by another, with connections that break in between."""

import json
import os

import pytest
import torch
from checkpoint_support import edit_json, save_checkpoint, weight_files
from hub_server import HubServer
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from tiny import random_frames, tiny_inputs, tiny_model, tiny_processor

from geovr_hf.checkpoints import export_qwen3_vl, push_checkpoint
from geovr_hf.checkpoints.cards import add_results, pushed_card
from geovr_hf.hub_cards import EvaluationRecord, GeoVRModelCardData
from geovr_hf.trainers import geovr_lora_config
from geovr_hf.trainers.adapter_files import save_adapted_config


pytestmark = pytest.mark.slow

# Runs commands one after the other, for a process takes seconds to start; the last line tells their exit codes.
COMMANDS = """
import json, sys
from geovr_hf.cli import main
print(json.dumps([main(arguments) for arguments in json.loads(sys.argv[1])]))
"""
# Loads what was pushed without this package, and writes what it says.
LOAD = """
import sys
sys.modules["geovr_hf"] = None
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

out, repo, *revisions = sys.argv[1:]
results = {}
for revision in revisions:
    options = {"revision": revision, "trust_remote_code": True}
    model = AutoModelForImageTextToText.from_pretrained(repo, **options)
    processor = AutoProcessor.from_pretrained(repo, **options)
    assert type(processor).__name__ in ("GeoVRProcessor", "Qwen3VLProcessor")
    with torch.no_grad():
        results[revision] = model(**load_file(out + "/inputs.safetensors")).logits
save_file(results, out + "/outputs.safetensors")
"""


@pytest.fixture
def hub(tmp_path):
    with HubServer(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = save_checkpoint(tmp_path_factory.mktemp("made") / "rooms", max_shard_size="600KB")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "depth.png").write_bytes(b"a picture")
    GeoVRModelCardData("rooms", images={"pictures/depth.png": "Depth"}).save(folder)
    (folder / "trainer_state.json").write_text('{"best_model_checkpoint": "a path of this machine"}')
    (folder / "training_args.bin").write_bytes(b"a pickle")
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "model.safetensors").write_bytes(b"an earlier step")
    return folder


def push(hub, tmp_path, *commands) -> list[str]:
    """Push by commands in one fresh process, each given as folder, repository and options; return what it printed."""
    arguments = json.dumps([["push", *map(str, command)] for command in commands])
    *printed, codes = hub.run(COMMANDS, arguments, home=tmp_path / "home of the pusher").splitlines()
    assert json.loads(codes) == [0] * len(commands)
    return printed


def loaded_logits(hub, tmp_path, repo="me/rooms", *revisions):
    revisions = revisions or ("main",)
    save_file(tiny_inputs([[random_frames(2)]], geometry_tokens=False), tmp_path / "inputs.safetensors")
    hub.run(LOAD, tmp_path, repo, *revisions, home=tmp_path / "home of the user")
    found = load_file(tmp_path / "outputs.safetensors")
    return found[revisions[0]] if len(revisions) == 1 else [found[revision] for revision in revisions]


@torch.no_grad()
def own_logits(model=None):
    model = tiny_model() if model is None else model
    return model(**tiny_inputs([[random_frames(2)]], geometry_tokens=False)).logits


def uploads(hub) -> list[str]:
    return [path.split("/")[-1] for path in hub.finished("PUT", "/upload/")]


def test_a_private_branch_is_pushed_and_loaded_by_another_process(hub, checkpoint, tmp_path):
    command = [checkpoint, "me/rooms", "--private", "--revision", "v2", "--license", "apache-2.0"]
    hub.break_once("PUT", "/upload/", after=100_000)
    address, _ = push(hub, tmp_path, command, command)  # the second time sends and changes nothing
    assert address == f"{hub.endpoint}/me/rooms/tree/v2"
    assert len(uploads(hub)) == len(weight_files(checkpoint)) + 1  # and a picture
    assert len(hub.repository("me/rooms", "models").commits) == 2  # the Hub's own, and ours
    assert hub.repository("me/rooms", "models").private
    assert not hub.files("me/rooms", "models")  # main has nothing but what the Hub puts there
    hub.break_once("GET", "model-00002", after=100_000)
    assert torch.equal(loaded_logits(hub, tmp_path, "me/rooms", "v2"), own_logits())
    assert not hub.faults  # both broken connections were taken up again

    files = hub.files("me/rooms", "models", "v2")
    names = {path.name for path in checkpoint.iterdir()} - {"training_args.bin", "trainer_state.json", "checkpoint-1"}
    assert {*files} == names - {"pictures"} | {"pictures/depth.png"}
    kept = names - {"README.md", "geovr_card.json", "pictures"}
    assert all(files[name] == (checkpoint / name).read_bytes() for name in kept)
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "apache-2.0" and 'from_pretrained("me/rooms", dtype="auto")' in card.text
    assert 'from_pretrained("rooms", dtype="auto")' in (checkpoint / "README.md").read_text()


def test_a_push_that_is_killed_shows_nothing_and_is_continued(hub, checkpoint, tmp_path):
    started = []
    hub.break_once("POST", "/commit/", after=10, then=lambda: started[0].kill())
    arguments = json.dumps([["push", str(checkpoint), "me/rooms"]])
    started.append(hub.start(COMMANDS, arguments, home=tmp_path / "home of the killed"))
    started[0].communicate()
    assert started[0].returncode < 0 and not hub.files("me/rooms", "models")
    arrived = uploads(hub)
    assert len(arrived) > 2

    push(hub, tmp_path, [checkpoint, "me/rooms"])
    assert uploads(hub) == arrived  # nothing is sent twice
    files = hub.files("me/rooms", "models")
    assert all(files[path.name] == path.read_bytes() for path in checkpoint.glob("model*"))


def test_the_package_s_own_ways_push_what_another_process_loads(hub, tmp_path):
    program = """
import sys
sys.path.insert(0, sys.argv[1])
from tiny import tiny_model, tiny_processor
tiny_model().push_to_hub("me/own", private=True, max_shard_size="600KB")
tiny_processor().push_to_hub("me/own")
tiny_model(seed=1).push_to_hub("me/own", revision="other")
tiny_processor().push_to_hub("me/own", revision="other")
"""
    hub.run(program, os.path.dirname(__file__), home=tmp_path / "home of the pusher")
    assert hub.repository("me/own", "models").private and "modeling_geovr.py" in hub.files("me/own", "models")
    assert len([name for name in hub.files("me/own", "models") if name.endswith(".safetensors")]) > 2
    main, other = loaded_logits(hub, tmp_path, "me/own", "main", "other")
    assert torch.equal(main, own_logits()) and torch.equal(other, own_logits(tiny_model(seed=1)))


def test_the_trainer_pushes_the_model_and_the_card_of_its_run(hub, tmp_path):
    program = """
import sys
sys.path.insert(0, sys.argv[1])
from tiny import tiny_model, tiny_processor
from training_support import row, video
from geovr_hf import GeoVRTrainer, GeoVRTrainingArguments
from geovr_hf.hub_cards import GeoVRCardCallback

arguments = GeoVRTrainingArguments(
    sys.argv[2], max_steps=1, use_cpu=True, report_to="none", learning_rate=0.0, geometry_learning_rate=0.0,
    activation_checkpointing=False, hub_private_repo=True, disable_tqdm=True,
)
rows = [row("4", video(2))] * 2
trainer = GeoVRTrainer(
    tiny_model(), arguments, processing_class=tiny_processor(), train_dataset=rows, callbacks=[GeoVRCardCallback()]
)
trainer.train()
trainer.push_to_hub()
"""
    hub.run(program, os.path.dirname(__file__), tmp_path / "flat", home=tmp_path / "home of the pusher")
    assert hub.repository("me/flat", "models").private
    assert torch.equal(loaded_logits(hub, tmp_path, "me/flat"), own_logits())
    card = ModelCard(hub.files("me/flat", "models")["README.md"].decode())
    assert 'from_pretrained("me/flat", dtype="auto")' in card.text and "2 training examples" in card.text


def test_an_adapter_names_a_base_that_others_have(hub, tmp_path):
    from peft import get_peft_model

    base = save_checkpoint(tmp_path / "base")
    model = type(tiny_model()).from_pretrained(base)
    adapted = get_peft_model(model, geovr_lora_config(model, r=2))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    adapted.save_pretrained(tmp_path / "adapter")
    save_adapted_config(adapted, tmp_path / "adapter")
    tiny_processor().save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="nobody else could load it"):
        push_checkpoint(tmp_path / "adapter", "me/lora")

    push(hub, tmp_path, [base, "me/base"], [tmp_path / "adapter", "me/lora", "--base-model", "me/base"])
    files = hub.files("me/lora", "models")
    card = ModelCard(files["README.md"].decode())
    assert (card.data.base_model, card.data.library_name) == ("me/base", "peft")
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "me/base"
    program = """
import sys
import torch
from safetensors.torch import load_file, save_file
from geovr_hf.commands.checkpoints import load_checkpoint
model, processor = load_checkpoint("me/lora", "cpu")
with torch.no_grad():
    logits = model(**load_file(sys.argv[1] + "/inputs.safetensors")).logits
save_file({"logits": logits}, sys.argv[1] + "/out.safetensors")
"""
    save_file(tiny_inputs([[random_frames(2)]], geometry_tokens=False), tmp_path / "inputs.safetensors")
    hub.run(program, tmp_path, home=tmp_path / "home of the user")
    expected = own_logits(adapted.eval())
    torch.testing.assert_close(load_file(tmp_path / "out.safetensors")["logits"], expected, rtol=1e-3, atol=1e-3)


def test_a_plain_export_is_pushed_and_replaces_what_was_there(hub, checkpoint, tmp_path):
    export_qwen3_vl(save_checkpoint(tmp_path / "whole"), tmp_path / "plain")
    push(hub, tmp_path, [checkpoint, "me/rooms"], [tmp_path / "plain", "me/rooms"])
    files = hub.files("me/rooms", "models")
    # One file where there were shards: none of those may be left to be loaded.
    assert [name for name in files if name.endswith(".safetensors")] == ["model.safetensors"]
    assert "model.safetensors.index.json" not in files
    assert files["model.safetensors"] == (tmp_path / "plain" / "model.safetensors").read_bytes()
    assert "vllm serve me/rooms" in files["README.md"].decode()


def test_results_enter_the_card_and_an_edited_card_is_left_alone(hub, tmp_path):
    folder = save_checkpoint(tmp_path / "rooms")  # without a card, which is then made from the configuration
    record = EvaluationRecord("VSI-Bench", "nyu-visionx/VSI-Bench", "geovr", "accuracy", 0.5, frames=32)
    for value in (0.5, 0.625):
        (tmp_path / f"{value}.json").write_text(json.dumps([vars(record) | {"value": value}]))
    commands = [[folder, "me/rooms", "--results", tmp_path / f"{value}.json"] for value in (0.5, 0.625)]
    push(hub, tmp_path, *commands)
    card = ModelCard(hub.files("me/rooms", "models")["README.md"].decode())
    assert [result.metric_value for result in card.data.eval_results] == [0.625]
    assert "| camera |" in card.text

    (folder / "README.md").write_text((folder / "README.md").read_text() + "\nMy own words.\n")
    with pytest.raises(ValueError, match="edited by hand"):
        add_results(folder, [record])
    (tmp_path / "card").mkdir()
    assert b"My own words." in pushed_card(folder, "me/rooms", None, None, tmp_path / "card")["README.md"]


@pytest.mark.parametrize(
    "spoil, options, message",
    [
        (lambda folder: (folder / "config.json").unlink(), {}, "neither a model nor an adapter"),
        (lambda folder: (folder / sorted(weight_files(folder))[1]).unlink(), {}, "lacks model-00002"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), {}, "an adapter without adapter_model"),
        (
            lambda folder: edit_json(folder / "config.json", lambda c: c.update(teacher="facebook/VGGT-1B")),
            {"license": "mit"},
            "claims more than the teacher",
        ),
    ],
    ids=["no configuration", "a shard is missing", "an empty adapter", "a licence that the teacher does not allow"],
)
def test_what_may_not_be_pushed_is_refused_before_the_hub_is_asked(tmp_path, spoil, options, message):
    folder = save_checkpoint(tmp_path / "rooms", max_shard_size="600KB")
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        push_checkpoint(folder, "me/rooms", **options)
    with pytest.raises(ValueError, match="There is no folder"):
        push_checkpoint(tmp_path / "nowhere", "me/rooms")


def test_nothing_goes_where_the_wrong_people_may_read_it_or_without_its_pictures(hub, checkpoint, tmp_path):
    pictured = save_checkpoint(tmp_path / "pictured")
    GeoVRModelCardData("pictured", images={"gone.png": "gone"}).save(pictured)
    program = "from huggingface_hub import create_repo\ncreate_repo('me/rooms', private=False)\n" + COMMANDS
    arguments = [["push", str(checkpoint), "me/rooms", "--private"], ["push", str(pictured), "me/pictured"]]
    client = hub.start(program, json.dumps(arguments), home=tmp_path / "home")
    printed, complaints = client.communicate()
    assert json.loads(printed.splitlines()[-1]) == [2, 2]
    assert "me/rooms exists already, and is public" in complaints
    assert "shows gone.png, which is not there" in complaints
    assert not hub.files("me/rooms", "models") and ("models", "me/pictured") not in hub.repositories
