"""`geovr export`: a plain Qwen3-VL checkpoint, for those who do not know us."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from checkpoint_support import all_weights, change_weights, edit_json, save_checkpoint, weight_files
from forked_client import Client
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from tiny import question, random_frames, tiny_inputs, tiny_model, tiny_processor
from transformers import AutoTokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from geovr_hf import GeoVRForConditionalGeneration
from geovr_hf.checkpoints import export_qwen3_vl
from geovr_hf.cli import main
from geovr_hf.hub_cards import CardTeacher, EvaluationRecord, GeoVRModelCardData
from geovr_hf.trainers import geovr_lora_config


# Opens an export by transformers alone, and writes what it answers and how it reads a prompt.
_PROGRAM = """
import sys
sys.modules["geovr_hf"] = None  # whoever imports it gets an ImportError
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

folder, out = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder)
processor = AutoProcessor.from_pretrained(folder)
assert (type(model).__module__ + type(processor).__module__).count("transformers.models.qwen3_vl") == 2
results = {}
with torch.no_grad():
    for kind in ("text", "image", "video"):
        results[kind] = model(**load_file(f"{out}/{kind}.safetensors")).logits
frames = load_file(f"{out}/frames.safetensors")["frames"]
prompt = processor.apply_chat_template(
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many <|camera|> are there?"}]}],
    tokenize=False, add_generation_prompt=True,
)
results["ids"] = processor(text=[prompt], images=[frames[0].numpy()], return_tensors="pt")["input_ids"]
save_file(results, f"{out}/results.safetensors")
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    output = tmp_path_factory.mktemp("exported") / "plain"
    export_qwen3_vl(checkpoint, output)
    return output


@pytest.fixture(scope="module")
def known_to_vllm():
    return json.loads((Path(__file__).parent / "fixtures" / "vllm_qwen3_vl.json").read_text())


def test_transformers_alone_gives_the_same_logits(exported, tmp_path):
    picture = random_frames(1, seed=5)[0].numpy()
    cases = {
        "text": tiny_inputs([[], []], geometry_tokens=False),
        "image": tiny_inputs([[], []], geometry_tokens=False, images=[[picture], []]),
        "video": tiny_inputs([[random_frames(4)], [random_frames(2, 96, 64)]], geometry_tokens=False),
    }
    for kind, inputs in cases.items():
        save_file(inputs, tmp_path / f"{kind}.safetensors")
    save_file({"frames": random_frames(1)}, tmp_path / "frames.safetensors")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = Client(_PROGRAM, exported, tmp_path, environment=environment, folder=tmp_path)
    complaints = process.communicate()[1]
    assert process.returncode == 0, complaints
    results = load_file(tmp_path / "results.safetensors")
    model = tiny_model()
    with torch.no_grad():
        for kind, inputs in cases.items():
            assert torch.equal(results[kind], model(**inputs).logits), kind
    # What we call a geometry token is ordinary text to the plain tokenizer; nothing else is read differently.
    ours = tiny_processor()(
        text=[question(0, "How many <|camera|> are there?", num_images=1)],
        images=[random_frames(1)[0].numpy()],
        return_tensors="pt",
    )["input_ids"][0].tolist()
    place = ours.index(tiny_processor().geometry_token_ids[1])
    letters = AutoTokenizer.from_pretrained(exported).encode("<|camera|>")
    assert len(letters) > 1
    assert results["ids"][0].tolist() == ours[:place] + letters + ours[place + 1 :]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_names_shapes_dtypes_values_and_files_are_kept(tmp_path, tied, known_to_vllm):
    model = tiny_model(objectives=["camera", "depth"]).to(torch.bfloat16)
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 1)
    model.model.visual.merger.norm.float()
    source = save_checkpoint(tmp_path / "source", model, max_shard_size="200KB")
    report = export_qwen3_vl(source, tmp_path / "plain")

    before, after = all_weights(source), all_weights(tmp_path / "plain")
    assert {*report.kept} == {*after} and {*report.kept} | {*report.removed} == {*before}
    assert all(after[name].dtype == before[name].dtype and torch.equal(after[name], before[name]) for name in after)
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16, torch.float32}
    with torch.device("meta"):
        native = Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_pretrained(tmp_path / "plain"))
    wanted = {
        name: tensor.shape for name, tensor in native.state_dict().items() if tied is False or name[:7] != "lm_head"
    }
    assert {name: tensor.shape for name, tensor in after.items()} == wanted

    backbone = [kept for names in weight_files(source).values() if (kept := {*names} & {*after})]
    assert [{*names} for names in weight_files(tmp_path / "plain").values()] == backbone and len(backbone) > 3
    index = json.loads((tmp_path / "plain" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in after.values()) == report.num_bytes
    assert {name: {*index["weight_map"]} and file for name, file in index["weight_map"].items()} == {
        name: file for file, names in weight_files(tmp_path / "plain").items() for name in names
    }
    check_vllm(known_to_vllm, {*after}, tied)


def check_vllm(known: dict, names: set[str], tied: bool):
    """Every tensor has a place in vLLM's model, and every place gets its tensor."""
    found = set()
    for name in names:
        prefix = next(prefix for prefix in known["prefixes"] if name.startswith(prefix))
        place = known["prefixes"][prefix] + name.removeprefix(prefix)
        for part, stack in known["stacked"].items():
            place = place.replace(part, stack)
        found.add(re.sub(r"\.\d+\.", ".*.", place))
    assert found == {*known["parameters"]} - ({*known["shared_when_tied"]} if tied else set())


def test_configuration_and_tokenizer_do_not_mention_us_and_serve_older_readers(exported, checkpoint):
    traces = re.compile(r"geovr|auto_map|<\|camera|<\|scale|camera_token|teacher", re.IGNORECASE)
    for path in exported.iterdir():
        if path.suffix in (".json", ".jinja") and path.name != "geovr_card.json":
            assert not traces.search(path.read_text()), path
    assert not list(exported.glob("*.py"))
    config = json.loads((exported / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("qwen3_vl", ["Qwen3VLForConditionalGeneration"])
    text, ours = config["text_config"], json.loads((checkpoint / "config.json").read_text())["text_config"]
    assert {**text["rope_scaling"], "rope_theta": text["rope_theta"]} == ours["rope_parameters"]
    assert text["tie_word_embeddings"] is config["tie_word_embeddings"] is True
    loaded = Qwen3VLConfig.from_pretrained(exported).text_config
    assert loaded.rope_parameters == ours["rope_parameters"]
    # transformers 4 takes a list of extra tokens by its old name only, and each processor from its own file.
    tokenizer = json.loads((exported / "tokenizer_config.json").read_text())
    assert "extra_special_tokens" not in tokenizer and "<|im_end|>" in tokenizer["additional_special_tokens"]
    nested = json.loads((exported / "processor_config.json").read_text())
    for name, file in (("image_processor", "preprocessor_config"), ("video_processor", "video_preprocessor_config")):
        assert json.loads((exported / f"{file}.json").read_text()) == nested[name]
    plain, full = AutoTokenizer.from_pretrained(exported), tiny_processor().tokenizer
    assert plain.get_vocab() == {token: i for token, i in full.get_vocab().items() if i < len(plain)}
    assert len(full) - len(plain) == 3 and plain.all_special_ids == [i for i in full.all_special_ids if i < len(plain)]


def test_tokens_added_after_ours_keep_their_ids(tmp_path, capsys):
    source = save_checkpoint(tmp_path / "source")
    later = AutoTokenizer.from_pretrained(source)
    later.add_tokens(["<|later|>"])
    later.save_pretrained(source)
    assert main(["export", str(source), str(tmp_path / "plain")]) == 0
    assert "<|scale|>: tokens were added after them" in capsys.readouterr().err
    assert AutoTokenizer.from_pretrained(tmp_path / "plain").get_vocab() == later.get_vocab()


def test_an_adapter_is_merged_first(tmp_path):
    from peft import PeftModel, get_peft_model

    base = save_checkpoint(tmp_path / "base")
    adapted = get_peft_model(
        GeoVRForConditionalGeneration.from_pretrained(base), geovr_lora_config(tiny_model(), r=4, lora_alpha=8)
    ).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    assert isinstance(adapted, PeftModel)
    adapted.save_pretrained(tmp_path / "adapter")
    report = export_qwen3_vl(tmp_path / "adapter", tmp_path / "plain")
    assert report.merged_adapter and {path.name for path in tmp_path.iterdir()} == {"base", "adapter", "plain"}
    inputs = tiny_inputs([[random_frames(2)]], geometry_tokens=False)
    plain = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path / "plain").eval()
    with torch.no_grad():
        expected, base_says = adapted(**inputs).logits, tiny_model()(**inputs).logits
        torch.testing.assert_close(plain(**inputs).logits, expected, rtol=1e-4, atol=1e-4)
    assert (expected - base_says).abs().max() > 0.01

    edit_json(tmp_path / "adapter" / "adapter_config.json", lambda c: c.update(base_model_name_or_path="no/such"))
    with pytest.raises(ValueError, match=r"belongs to 'no/such', which cannot be opened"):
        export_qwen3_vl(tmp_path / "adapter", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_the_card_keeps_the_terms_and_results_of_the_source_s(tmp_path):
    source = save_checkpoint(tmp_path / "source", tiny_model(teacher="facebook/VGGT-Omega"))
    export_qwen3_vl(source, tmp_path / "uncarded")
    card = ModelCard.load(tmp_path / "uncarded" / "README.md")
    assert "# uncarded" in card.text and "Not for commercial use" in card.text
    assert card.data.license_name == "fair-noncommercial-research-license"

    record = EvaluationRecord("VSI-Bench", "nyu-visionx/VSI-Bench", "geovr", "accuracy", 0.5, frames=32)
    teacher = CardTeacher("synthetic", "apache-2.0", False)
    GeoVRModelCardData("me/rooms", base_model="Qwen/Qwen3-VL-2B-Instruct", teacher=teacher, results=[record]).save(
        source
    )
    export_qwen3_vl(source, tmp_path / "bound")  # by the teacher of its configuration all the same
    assert ModelCard.load(tmp_path / "bound" / "README.md").data.license == "other"
    edit_json(source / "config.json", lambda config: config.pop("teacher"))
    export_qwen3_vl(source, tmp_path / "carded")
    card = ModelCard.load(tmp_path / "carded" / "README.md")
    assert card.data.base_model == "Qwen/Qwen3-VL-2B-Instruct" and card.data.license is None
    assert card.data.eval_results[0].metric_args == {"protocol": "geovr", "frames": 32}
    assert "Not for commercial use" not in card.text and str(tmp_path) not in card.content

    # An author's own words go before what was recorded; they cannot claim more than a teacher allows.
    readme = (source / "README.md").read_text()
    (source / "README.md").write_text(readme.replace("---\n", "---\nlicense: mit\n", 1))
    export_qwen3_vl(source, tmp_path / "licensed")
    assert ModelCard.load(tmp_path / "licensed" / "README.md").data.license == "mit"
    edit_json(source / "config.json", lambda config: config.update(teacher="facebook/VGGT-Omega"))
    with pytest.raises(ValueError, match="claims more than the teacher 'facebook/VGGT-Omega' allows"):
        export_qwen3_vl(source, tmp_path / "refused")


def test_the_command_says_what_it_left_out(checkpoint, tmp_path, capsys):
    assert main(["export", str(checkpoint), str(tmp_path / "plain"), "--to", "qwen3_vl"]) == 0
    printed = capsys.readouterr().out
    removed = len(all_weights(checkpoint)) - len(all_weights(tmp_path / "plain"))
    assert f"Left out {removed} tensors" in printed and f"to {tmp_path / 'plain'}" in printed


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda folder: change_weights(folder, lambda w: w.update(stray=torch.ones(2))), r"1 unknown: stray"),
        (
            lambda folder: change_weights(folder, lambda w: w.pop("model.language_model.norm.weight")),
            r"1 missing: model\.language_model\.norm\.weight",
        ),
        (
            lambda folder: change_weights(folder, lambda w: w.update({"lm_head.weight": torch.ones(384, 64)})),
            r"lm_head\.weight is not its model\.language_model\.embed_tokens\.weight",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), r"must hold its weights as model\.safetensors"),
        (lambda folder: (folder / "config.json").unlink(), r"holds no config\.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"has no processor"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(
                (folder / "model.safetensors").read_bytes()[:-100]
            ),
            r"damaged",
        ),
    ],
    ids=["stray tensor", "lost tensor", "head not tied", "no weights", "no configuration", "no tokenizer", "cut off"],
)
def test_what_is_not_whole_is_refused_and_leaves_nothing(tmp_path, break_it, message):
    source = save_checkpoint(tmp_path / "source")
    break_it(source)
    with pytest.raises(ValueError, match=message):
        export_qwen3_vl(source, tmp_path / "plain")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_plain_checkpoint_is_told_so_and_a_full_folder_is_left_alone(exported, checkpoint, tmp_path):
    with pytest.raises(ValueError, match="is plain Qwen3-VL already"):
        export_qwen3_vl(exported, tmp_path / "again")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        export_qwen3_vl(checkpoint, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
