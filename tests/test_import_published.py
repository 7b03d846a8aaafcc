"""`geovr import`: checkpoints of the published implementation, by the key names that the parity fixtures hold."""

import json

import pytest
import torch
from hub_server import HubServer
from parity import load_facts, load_tensors
from safetensors.torch import save_file
from test_parity_e2e import make_config
from transformers import Qwen2Tokenizer, Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

from geovr_hf import GeoVRConfig, GeoVRForConditionalGeneration, GeoVRProcessor
from geovr_hf.checkpoints import import_published
from geovr_hf.checkpoints.plain_files import plain_config
from geovr_hf.checkpoints.published_layout import PUBLISHED_TEACHERS, published_config
from geovr_hf.cli import main
from geovr_hf.conversion import convert_published_weights
from geovr_hf.teachers.catalogue import find_published
from geovr_hf.teachers.layout import teacher_layout
from geovr_hf.teachers.loading import teacher_spec
from geovr_hf.tiny import make_tiny_config, make_tiny_processor


TEACHERS = {
    "geometry_encoder.aggregator.norm.weight": torch.ones(4),
    "metric_encoder.model.head.weight": torch.ones(2, 3),
}
LAYOUT = ("teacher_num_layers", "teacher_depth_layers", "teacher_alignment_layers", "teacher_patch_size")


def published_processor(case: dict) -> Qwen3VLProcessor:
    """A processor without geometry tokens whose special tokens have the fixture's ids."""
    ids = {
        "<|vision_start|>": case["token_ids"]["vision_start_token_id"],
        "<|image_pad|>": case["token_ids"]["image_token_id"],
        "<|video_pad|>": case["token_ids"]["video_token_id"],
        "<|vision_end|>": case["token_ids"]["vision_end_token_id"],
    }
    special = {case["token_ids"]["pad"]: "<|endoftext|>"} | {i: token for token, i in ids.items()}
    vocab = {special.get(i, f"word{i}"): i for i in range(case["text_config"]["vocab_size"] - 3)}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], unk_token=None, additional_special_tokens=list(ids))
    return Qwen3VLProcessor(
        Qwen2VLImageProcessor(), tokenizer, Qwen3VLVideoProcessor(), chat_template="{{ messages }}"
    )


def save_published(folder, weights: dict[str, torch.Tensor] | None = None, shards: int = 3):
    """The fixture as the published implementation saves a checkpoint: in shards, teachers along."""
    case = load_facts("geovr_e2e_tiny")
    weights = load_tensors("geovr_e2e_tiny_weights") | TEACHERS if weights is None else weights
    folder.mkdir(parents=True)
    published_processor(case).save_pretrained(folder)
    config = plain_config(make_config(case)).to_diff_dict() | {"geometry_flags": ["camera"], "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(weights)
    files = {f"model-{i + 1:05}-of-{shards:05}.safetensors": names[i::shards] for i in range(shards)}
    for file, inside in files.items():
        save_file({name: weights[name].contiguous() for name in inside}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, inside in files.items() for name in inside}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def layout_options() -> dict:
    """What no weight of the fixture shows: the layers of its tiny teacher."""
    config = make_config(load_facts("geovr_e2e_tiny"))
    return {name: getattr(config, name) for name in (*LAYOUT, "teacher_pool_size")} | {"teacher": None}


def differing_fields(one: dict, other: dict) -> set[str]:
    """Fields in which two configurations differ, but for what loading and saving leave on them."""
    traces = {"auto_map", "dtype", "_name_or_path", "transformers_version"}
    one, other = (
        {name: {**part, "dtype": None} if isinstance(part, dict) else part for name, part in config.items()}
        for config in (one, other)
    )
    return {name for name in {*one, *other} - traces if one.get(name) != other.get(name)}


def test_parity_every_key_arrives_under_our_name(tmp_path):
    source = save_published(tmp_path / "published")
    report = import_published(source, tmp_path / "ours", config=layout_options())

    weights = load_tensors("geovr_e2e_tiny_weights")
    model, info = GeoVRForConditionalGeneration.from_pretrained(
        tmp_path / "ours", output_loading_info=True, local_files_only=True
    )
    assert not any(info.values())
    for name, value in convert_published_weights(weights).items():
        assert torch.equal(model.state_dict()[name], value), name
    expected = make_config(load_facts("geovr_e2e_tiny"))
    training = {name for name in vars(expected) if name.endswith("_loss_weight")}  # is in no checkpoint
    assert differing_fields(model.config.to_dict(), expected.to_dict()) <= training | {"architectures", "teacher"}
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) == 3
    assert GeoVRProcessor.from_pretrained(tmp_path / "ours").geometry_token_ids == model.config.geometry_token_ids

    became = {tensor.published: (tensor.action, tensor.name) for tensor in report.tensors}
    assert became.keys() == weights.keys() | TEACHERS.keys()
    assert {name for name, (action, _) in became.items() if action == "left out"} == TEACHERS.keys()
    assert became["model.scale_token.weight"] == ("joined", "model.geometry_tokens.weight")
    assert became["dpt_head.scratch.layer1_rn.weight"] == ("renamed", "depth_head.laterals.0.weight")
    assert became["model.visual.pos_embed.weight"] == ("kept", "model.visual.pos_embed.weight")
    assert {name for _, name in became.values() if name} == {*convert_published_weights(weights)}
    written = json.loads((tmp_path / "ours" / "import_report.json").read_text())
    assert {tensor["published"]: (tensor["action"], tensor["name"]) for tensor in written["tensors"]} == became
    assert written["source"] == "published" and written["ignored_fields"] == ["geometry_flags"]


def test_an_import_has_the_files_of_a_saved_checkpoint(tmp_path):
    import_published(save_published(tmp_path / "published", shards=1), tmp_path / "ours", config=layout_options())
    model = GeoVRForConditionalGeneration.from_pretrained(tmp_path / "ours")
    model.save_pretrained(tmp_path / "saved")
    GeoVRProcessor.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "saved")
    ours, saved = ({path.name for path in (tmp_path / name).iterdir()} for name in ("ours", "saved"))
    assert ours - {"import_report.json", "README.md", "geovr_card.json"} == saved - {"generation_config.json"}
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("ours", "saved")]
    assert not differing_fields(*configs)


def test_it_comes_from_a_subfolder_on_the_hub_by_the_command(tmp_path):
    save_published(tmp_path / "repository" / "tiny")
    save_published(tmp_path / "repository" / "other")
    upload = (
        "import sys; from huggingface_hub import HfApi; HfApi().create_repo('me/published', private=True); "
        "HfApi().upload_folder(repo_id='me/published', folder_path=sys.argv[1])"
    )
    command = "import sys; from geovr_hf.cli import main; sys.exit(main(sys.argv[1:]))"
    options = [f"{name}={json.dumps(value)}" for name, value in layout_options().items()]
    arguments = ["import", "me/published", tmp_path / "ours", "--subfolder", "tiny", "--list", "--config", *options]
    with HubServer(tmp_path / "hub") as hub:
        hub.run(upload, tmp_path / "repository", home=tmp_path / "there")
        printed = hub.run(command, *arguments, home=tmp_path / "here")
        fetched = hub.finished("GET", "/resolve/")
    count = len(load_tensors("geovr_e2e_tiny_weights")) + len(TEACHERS)
    assert f"{count} tensors: " in printed and f"{len(TEACHERS)} left out" in printed
    assert "camera_head.fc_t.weight" in printed and "-> camera_head.translation.weight" in printed
    assert fetched and not [path for path in fetched if "/other/" in path]
    assert json.loads((tmp_path / "ours" / "import_report.json").read_text())["source"] == "me/published/tiny"
    GeoVRForConditionalGeneration.from_pretrained(tmp_path / "ours")


@pytest.mark.parametrize("name", PUBLISHED_TEACHERS)
def test_the_teacher_is_told_by_the_sizes_of_the_heads(tmp_path, name):
    entry = find_published(name)
    layout = teacher_layout(teacher_spec(entry, entry.config()))
    sizes = {"camera_hidden_size": 1536, "scale_hidden_size": 512, "depth_hidden_sizes": [256, 512, 1024, 1024]}
    config = make_tiny_config(make_tiny_processor(), **layout, **sizes)
    plain_config(config).save_pretrained(tmp_path)
    with torch.device("meta"):
        model = GeoVRForConditionalGeneration(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found, _ = published_config(tmp_path, shapes)
    assert {field: getattr(found, field) for field in layout} == layout
    assert {field: getattr(found, field) for field in sizes} == sizes
    assert (found.teacher, found.depth_fusion_size) == (name, config.depth_fusion_size)
    assert [*found.objectives] == [*GeoVRConfig().objectives]
    # A layout of one's own does not make the teacher another.
    assert published_config(tmp_path, shapes, teacher=name, config=layout)[0].teacher == name
    # A checkpoint without some heads has no such objectives.
    cameras = {name: shape for name, shape in shapes.items() if not name.startswith(("depth_head", "scale_head"))}
    assert published_config(tmp_path, cameras, teacher=name)[0].objectives == ["camera", "alignment"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w.update(stray=torch.ones(1)), r"1 unknown: stray"),
        (lambda w: w.pop("model.language_model.norm.weight"), r"1 missing: model\.language_model\.norm\.weight"),
        (lambda w: w.pop("camera_head.fc_t.bias"), r"1 missing: camera_head\.translation\.bias"),
        (lambda w: w.pop("model.scale_token.weight"), r"has `model\.camera_token\.weight` but not"),
        (lambda w: w.update({"camera_head.fc_t.weight": torch.ones(4, 4)}), r"1 of another shape: camera_head"),
        (lambda w: [w.pop(name) for name in [*w] if "head" in name], r"has no geometric heads: it is plain Qwen3-VL"),
    ],
    ids=["stray", "backbone", "head", "token table", "shape", "plain"],
)
def test_nothing_but_a_whole_checkpoint_is_accepted(tmp_path, change, message):
    weights = dict(load_tensors("geovr_e2e_tiny_weights"))
    change(weights)
    source = save_published(tmp_path / "published", weights)
    with pytest.raises(ValueError, match=message):
        import_published(source, tmp_path / "ours", config=layout_options())
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_what_cannot_be_told_is_asked_for(tmp_path, capsys):
    source = save_published(tmp_path / "published")
    with pytest.raises(ValueError, match=r"fit 0 of facebook/VGGT-1B.*Name the teacher"):
        import_published(source, tmp_path / "ours")
    with pytest.raises(ValueError, match=r"Unknown teacher 'nobody'"):
        import_published(source, tmp_path / "ours", teacher="nobody")
    with pytest.raises(ValueError, match=r"holds no config\.json\. Its subfolders published have one"):
        import_published(tmp_path, tmp_path / "ours")
    (source / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"has no processor of this model: its `image_token_id`"):
        import_published(source, tmp_path / "ours", config=layout_options())
    assert main(["import", str(source), str(tmp_path / "ours"), "--config", "teacher"]) == 2
    assert "--config takes FIELD=VALUE, got 'teacher'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["published"]
