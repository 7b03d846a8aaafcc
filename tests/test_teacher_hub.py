"""Weights come from the Hub by the name of their network, in a process of its own."""

import json
import shutil

from hub_server import HubServer
from teacher_fixtures import tiny_config, tiny_weights

from geovr_hf import load_teacher


UPLOAD = """
import sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo(sys.argv[1])
api.upload_file(repo_id=sys.argv[1], path_or_fileobj=sys.argv[2], path_in_repo="model.safetensors")
"""
LOAD = """
import json, sys
sys.path.insert(0, sys.argv[1])
from teacher_fixtures import tiny_config
from huggingface_hub import HfApi
from geovr_hf import load_teacher
options = {"config": tiny_config("da3"), "metric_config": tiny_config("da3_metric")}
teacher = load_teacher("da3-base", metric="depth-anything/DA3METRIC-LARGE", **options)
revisions = [teacher.spec.revision, teacher.metric.revision]
assert revisions == [HfApi().model_info(part.name).sha for part in (teacher.spec, teacher.metric)], revisions
print(json.dumps([teacher.fingerprint, teacher.spec.name, teacher.metric.name]))
"""


def test_the_hub_s_files_are_those_on_disk(tmp_path, project_root):
    with HubServer(tmp_path / "hub") as hub:
        for repo_id, name in (("depth-anything/DA3-BASE", "da3"), ("depth-anything/DA3METRIC-LARGE", "da3_metric")):
            shutil.copy(tiny_weights(name), tmp_path / f"{name}.safetensors")
            hub.run(UPLOAD, repo_id, tmp_path / f"{name}.safetensors", home=tmp_path / "there")
        printed = hub.run(LOAD, project_root / "tests", home=tmp_path / "here")
    fingerprint, name, metric = json.loads(printed.strip().splitlines()[-1])
    assert (name, metric) == ("depth-anything/DA3-BASE", "depth-anything/DA3METRIC-LARGE")
    # The Hub's cache names files by their digest; a file on disk is read for it.
    on_disk = load_teacher(
        "permissive",
        weights=tiny_weights("da3"),
        config=tiny_config("da3"),
        metric_weights=tiny_weights("da3_metric"),
        metric_config=tiny_config("da3_metric"),
    )
    assert on_disk.fingerprint == fingerprint
    assert on_disk.spec.licence == on_disk.metric.licence == "apache-2.0"
    assert not on_disk.spec.non_commercial
    assert on_disk.spec.revision is on_disk.metric.revision is None
