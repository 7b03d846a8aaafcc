"""Published files are loaded as they are, strictly, or not at all."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from parity import load_facts
from safetensors.torch import load_file, save_file
from teacher_fixtures import NETWORKS, tiny_config, tiny_network, tiny_weights
from transformers.utils import logging

from geovr_hf import load_teacher
from geovr_hf.teachers import CATALOGUE
from geovr_hf.teachers.catalogue import find_published, identify
from geovr_hf.teachers.loading import _identify
from geovr_hf.teachers.networks.loading import check_tensors, empty_network, load_published, published_sources
from geovr_hf.teachers.networks.weight_files import WeightFile, find_weights, weights_digest


FULL = {
    "vggt": "facebook/VGGT-1B",
    "vggt_omega": "facebook/VGGT-Omega",
    "da3": "depth-anything/DA3-GIANT-1.1",
    "da3_metric": "depth-anything/DA3METRIC-LARGE",
}


def full_shapes(name: str) -> dict[str, tuple[int, ...]]:
    return {key: tuple(shape) for key, shape, _ in load_facts(f"{name}_full_keys")["keys"]}


def full_file(name: str, shapes: dict | None = None) -> SimpleNamespace:
    return SimpleNamespace(path=name, shapes=full_shapes(name) if shapes is None else shapes)


@pytest.mark.parametrize("name", FULL)
def test_parity_full_size_networks_need_what_the_published_files_hold(name):
    network = empty_network(NETWORKS[name][0], find_published(FULL[name]).config())
    check_tensors(network, published_sources(network), full_file(name))


@pytest.mark.parametrize(
    ("name", "options"), [("vggt", {"point_head": True}), ("da3", {"ray_head": True, "camera_encoder": True})]
)
def test_parity_parts_that_are_built_on_request_are_in_the_files_too(name, options):
    entry = find_published(FULL[name])
    network = empty_network(NETWORKS[name][0], entry.network_class.config_class(**(entry.sizes or {}), **options))
    check_tensors(network, published_sources(network), full_file(name))


@pytest.mark.parametrize("name", FULL)
def test_parity_files_are_told_apart_by_what_they_hold(name):
    assert identify(full_shapes(name), name).hub_id == FULL[name]


@pytest.mark.parametrize("name", FULL)
def test_parity_nothing_is_built_that_geovr_does_not_need(name):
    unneeded = tuple(load_facts(f"{name}_full_keys")["geovr_does_not_need"])
    network = empty_network(NETWORKS[name][0], find_published(FULL[name]).config())
    used = {published for published, _ in published_sources(network).values()}
    built = {key for key in used if key.startswith(tuple(prefix for prefix in unneeded if "*" not in prefix))}
    assert not built - {"aggregator.patch_embed.mask_token"}  # transformers' DINOv2 has a place for it


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.hub_id)
def test_every_network_of_the_catalogue_can_be_built(entry):
    network = empty_network(entry.network_class, entry.config())
    shapes = {
        published: (*((3 * t.shape[0],) if part is not None else t.shape[:1]), *t.shape[1:])
        for (published, part), t in zip(
            published_sources(network).values(), network.state_dict().values(), strict=True
        )
    }
    assert identify(shapes, "file").network_class is entry.network_class
    assert identify(shapes, "file").config().to_dict() == entry.config().to_dict()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_damaged_file_loads_nothing_and_the_error_lists_what_is_wrong(name, tmp_path):
    tensors = load_file(tiny_weights(name))
    lost = next(key for key in tensors if "norm1.weight" in key)
    misshapen = next(key for key in tensors if key.endswith("mlp.fc1.bias") or key.endswith("mlp.w12.bias"))
    del tensors[lost]
    tensors[misshapen] = tensors[misshapen][:-1].clone()
    tensors["something.else"] = torch.zeros(2)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError) as caught:
        load_published(NETWORKS[name][0], tiny_config(name), tmp_path / "model.safetensors")
    for problem in ("1 missing", lost, "1 of another shape", misshapen, "1 unknown", "something.else"):
        assert problem in str(caught.value)


def test_a_pickled_state_dict_loads_as_safetensors_does(tmp_path):
    torch.save(load_file(tiny_weights("vggt_omega")), tmp_path / "omega.pt")
    ours = load_published(NETWORKS["vggt_omega"][0], tiny_config("vggt_omega"), tmp_path / "omega.pt")
    for name, tensor in tiny_network("vggt_omega").state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name])


class Payload:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_pickle_that_holds_code_is_refused(tmp_path, capsys):
    torch.save({"weight": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(Exception, match="weights_only"):
        WeightFile(tmp_path / "evil.pt")
    assert "this must not run" not in capsys.readouterr().out


def test_a_wrapped_state_dict_is_refused(tmp_path):
    torch.save({"model": {"weight": torch.zeros(1)}}, tmp_path / "wrapped.pt")
    with pytest.raises(ValueError, match="no flat state dict"):
        WeightFile(tmp_path / "wrapped.pt")


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(tiny_weights("vggt").read_bytes()[:10_000])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        WeightFile(path)


@pytest.mark.parametrize("kept", [0, 0.5, None])
def test_a_damaged_pickle_is_named(tmp_path, kept):
    path = tmp_path / "vggt_omega_1b_512.pt"
    torch.save({"weight": torch.zeros(1000)}, path)
    content = path.read_bytes()
    path.write_bytes(b"e" * 100 if kept is None else content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=r"vggt_omega_1b_512\.pt is damaged"):
        WeightFile(path)


def test_a_published_file_is_found_in_its_folder_by_any_of_the_published_names(tmp_path):
    for name, tensor, hub_id in (
        ("vggt_omega_1b_512.pt", "aggregator.inter_frame_blocks.23.norm1.weight", "VGGT-Omega"),
        ("vggt_1B_commercial.pt", "aggregator.global_blocks.23.norm1.weight", "VGGT-1B-Commercial"),
    ):
        (tmp_path / name).mkdir()
        torch.save({tensor: torch.zeros(1024)}, tmp_path / name / name)
        entry, place, _ = _identify(tmp_path / name, None, None)
        assert entry.hub_id == f"facebook/{hub_id}" and place == tmp_path / name / name


def test_a_saved_network_of_another_kind_is_refused(tmp_path):
    tiny_network("da3").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a network of type 'geovr_teacher_da3', which facebook/VGGT-1B is not"):
        load_teacher("facebook/VGGT-1B", weights=tmp_path)


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_of_no_frames_is_refused(chunk):
    with pytest.raises(ValueError, match="`frames_chunk_size` must be at least 1"):
        load_teacher(tiny_weights("da3"), config=tiny_config("da3"), frames_chunk_size=chunk)


def test_a_sharded_folder_is_one_file(tmp_path):
    import json

    tensors = load_file(tiny_weights("da3_metric"))
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, tmp_path / shard)
    index = {"weight_map": {key: shard for shard, keys in shards.items() for key in keys}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    path = find_weights(tmp_path, "model.safetensors")
    ours = load_published(NETWORKS["da3_metric"][0], tiny_config("da3_metric"), path)
    assert all(torch.equal(t, ours.state_dict()[n]) for n, t in tiny_network("da3_metric").state_dict().items())
    before = weights_digest(path)
    save_file({key: tensors[key] + 1 for key in shards["b.safetensors"]}, tmp_path / "b.safetensors")
    assert weights_digest(path) != before


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_saved_and_loaded_as_transformers_models(name, tmp_path):
    network = tiny_network(name)
    network.save_pretrained(tmp_path)
    again = type(network).from_pretrained(tmp_path)
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in network.state_dict().items())
    images = torch.rand(1, 2, 3, 3 * network.config.patch_size, 4 * network.config.patch_size)
    with torch.no_grad():
        assert torch.equal(network(images).depth, again.eval()(images).depth)


def test_published_names_do_not_pass_for_ours_and_leave_a_random_network(tmp_path):
    shutil.copy(tiny_weights("vggt"), tmp_path / "model.safetensors")
    tiny_config("vggt").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`load_teacher\(...\).network` loads them"):
        type(tiny_network("vggt")).from_pretrained(tmp_path)


@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision_rounds_matrices_alone(name, tmp_path):
    network = tiny_network(name, torch.bfloat16)
    kept = {key for key, tensor in network.state_dict().items() if tensor.dtype == torch.float32}
    rounded = set(network.state_dict()) - kept
    assert rounded and all(network.state_dict()[key].ndim > 1 for key in rounded)
    assert not [key for key in rounded if "norm" in key or key.startswith("camera_head.")]
    tiny_network(name).save_pretrained(tmp_path)
    again = type(network).from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {key for key, tensor in again.state_dict().items() if tensor.dtype == torch.float32} == kept


def test_eager_attention_is_sdpa(tmp_path):
    images = torch.rand(1, 3, 3, 28, 42)
    sdpa = tiny_network("vggt")
    eager = tiny_network("vggt")
    eager.set_attn_implementation("eager")
    assert eager.frame_blocks[0].attn.config._attn_implementation == "eager"
    with torch.no_grad():
        torch.testing.assert_close(eager(images).depth, sdpa(images).depth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "metric", "message"),
    [
        ("facebook/VGGT-2B", None, "Unknown teacher 'facebook/VGGT-2B'.*facebook/VGGT-1B"),
        (tiny_weights("vggt"), "no/such", "Unknown metric network 'no/such'.*DA3METRIC-LARGE"),
        ("depth-anything/DA3METRIC-LARGE", None, "measures metric depth alone: give it as `metric`"),
        (tiny_weights("vggt"), "depth-anything/DA3-BASE", "is no metric depth network: give it as `name`"),
        ("rgbd", "depth-anything/DA3METRIC-LARGE", "leave out `metric`"),
        ("rgbd", None, "name it, `load_teacher\\('rgbd', folder="),
    ],
)
def test_wrong_names_are_explained(name, metric, message):
    options = {} if name == "rgbd" else {"config": tiny_config("vggt", point_head=False)}
    with pytest.raises(ValueError, match=message):
        load_teacher(name, metric=metric, **options)


def test_weights_that_cannot_be_had_are_named():
    with pytest.raises(ValueError, match=r"Cannot get 'model.safetensors' of 'depth-anything/DA3-BASE'"):
        load_teacher("da3-base")


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no weights: looked for vggt_omega_1b_512.pt"):
        load_teacher("facebook/VGGT-Omega", weights=tmp_path)


def test_a_file_of_unknown_origin_is_named(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="does not hold the weights of a network that is known here"):
        load_teacher(tmp_path)


def test_non_commercial_weights_are_announced_once(caplog):
    logger = logging.get_logger("transformers")
    logger.addHandler(caplog.handler)
    logging.get_logger("geovr_hf").addHandler(caplog.handler)
    logger.warning_once.cache_clear()
    try:
        for _ in range(2):
            load_teacher(tiny_weights("vggt"), config=tiny_config("vggt", point_head=False))
    finally:
        logger.removeHandler(caplog.handler)
        logging.get_logger("geovr_hf").removeHandler(caplog.handler)
    # A record comes as often as there are handlers.
    records = {id(record): record.getMessage() for record in caplog.records}
    said = [message for message in records.values() if "may not be used commercially" in message]
    assert len(said) == 1
    assert "load_teacher('permissive')" in said.pop()


def test_terms_go_with_the_name():
    assert find_published("vggt-1b").non_commercial
    commercial = find_published("facebook/VGGT-1B-Commercial")
    assert commercial.gated and not commercial.non_commercial
    assert find_published("VGGT-Omega").gated
    assert {e.hub_id for e in CATALOGUE if e.licence == "apache-2.0"} == {
        "depth-anything/DA3-BASE",
        "depth-anything/DA3-SMALL",
        "depth-anything/DA3METRIC-LARGE",
    }
