"""The server that stands in for the Hub, driven by `huggingface_hub` in a process of its own."""

import hashlib
import random

import pytest
from hub_server import HubServer


PUSH = """
import sys
from huggingface_hub import HfApi
folder, kind = sys.argv[1:]
HfApi().create_repo("me/things", repo_type=kind, exist_ok=True)
HfApi().upload_folder(repo_id="me/things", repo_type=kind, folder_path=folder)
"""
PULL = """
import sys
from huggingface_hub import snapshot_download
snapshot_download("me/things", repo_type=sys.argv[2], local_dir=sys.argv[1])
"""


@pytest.fixture
def contents(tmp_path):
    generator = random.Random(0)
    contents = {"README.md": b"---\nlicense: mit\n---\n", "weights.safetensors": generator.randbytes(200_000)}
    contents |= {f"folder {index}/number.json": b"%d" % index for index in range(60)}
    for path, content in contents.items():
        (tmp_path / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / path).write_bytes(content)
    return contents


@pytest.mark.parametrize(("kind", "part_size"), [("model", None), ("dataset", 2**16)])
def test_what_is_pushed_is_pulled(tmp_path, contents, kind, part_size):
    with HubServer(tmp_path / "hub", part_size) as hub:
        hub.run(PUSH, tmp_path / "source", kind, home=tmp_path / "one home")
        hub.run(PULL, tmp_path / "target", kind, home=tmp_path / "other home")
        assert hub.files("me/things", kind + "s") == contents
    pulled = {path: (tmp_path / "target" / path).read_bytes() for path in contents}
    assert pulled == contents


@pytest.mark.parametrize("part_size", [None, 2**16])
def test_a_connection_that_breaks_is_healed_by_the_client(tmp_path, contents, part_size):
    sha256 = hashlib.sha256(contents["weights.safetensors"]).hexdigest()
    with HubServer(tmp_path / "hub", part_size) as hub:
        hub.break_once("PUT", sha256, after=50_000)
        hub.break_once("GET", "weights.safetensors", after=100_000)
        hub.run(PUSH, tmp_path / "source", "dataset", home=tmp_path / "home")
        hub.run(PULL, tmp_path / "target", "dataset", home=tmp_path / "home")
        broken = [exchange for exchange in hub.requests if exchange.status is None]
        assert [exchange.method for exchange in broken] == ["PUT", "GET"]
    assert (tmp_path / "target" / "weights.safetensors").read_bytes() == contents["weights.safetensors"]


def test_a_commit_names_only_files_that_arrived(tmp_path, contents):
    with HubServer(tmp_path / "hub") as hub:
        failing = """
import sys
from huggingface_hub import CommitOperationAdd, HfApi
HfApi().create_repo("me/things")
operation = CommitOperationAdd("weights.safetensors", sys.argv[1])
operation._is_uploaded, operation._upload_mode = True, "lfs"  # the first is not so
HfApi().create_commit("me/things", [operation], commit_message="nothing behind it")
"""
        client = hub.start(failing, tmp_path / "source" / "weights.safetensors", home=tmp_path / "home")
        assert "was not uploaded before it was committed" in client.communicate()[1]


def test_without_a_token_a_private_repository_is_not_there(tmp_path):
    look = """
from huggingface_hub import HfApi
print(HfApi().repo_exists("me/secret"), HfApi(token=False).repo_exists("me/secret"))
"""
    with HubServer(tmp_path / "hub") as hub:
        create = "from huggingface_hub import create_repo; create_repo('me/secret', private=True)"
        hub.run(create, home=tmp_path / "home")
        assert hub.run(look, home=tmp_path / "home").split() == ["True", "False"]
