"""The scorers as `evaluate` metrics: from their folders, and from a Hub on this machine after a push."""

import json
import runpy
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
import yaml
from hub_server import HubServer

from geovr_hf.evaluation import METRICS, depth_metrics, metric_path, push_metric
from geovr_hf.evaluation.metric_spaces import METRICS_FOLDER


EXPECTED = {
    "vsi_bench": lambda result: result["macro"]["value"] == 0.8 and result["protocol"] == "lmms-eval",
    "depth_error": lambda result: result["abs_rel"] == 0 and result["num_clips"] == 1,
    "relative_pose": lambda result: 5 < result["direction_error_deg"] < 6 and result["auc_5"] == 0,
    "trajectory_error": lambda result: result["rmse"] < 1e-9 and result["alignment"] == "sim3",
    "metric_scale": lambda result: result["factor"] == pytest.approx(2) and result["log_bias"] == 0,
    "feature_cosine": lambda result: result["layers"] == [pytest.approx((0.5**0.5 + 1) / 2)],
    "multi_view_consistency": lambda result: result["consistent"] == 1,
}


def example(name):
    return runpy.run_path(f"{metric_path(name)}/{name}.py")["EXAMPLE"]


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_loads_from_its_folder_and_computes_its_example(name):
    result = evaluate.load(metric_path(name)).compute(**example(name))
    assert EXPECTED[name](result), result
    json.dumps(result)


@pytest.mark.parametrize("name", METRICS)
def test_a_card_tells_the_hub_what_it_is_and_its_code_runs(name, capsys):
    text = Path(metric_path(name), "README.md").read_text()
    front, _, body = text.removeprefix("---\n").partition("\n---\n")
    facts = yaml.safe_load(front)
    assert facts["sdk"] == "gradio" and {"evaluate", "metric"} <= {*facts["tags"]}
    exec(body.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out.startswith("{")


def test_every_folder_is_a_metric():
    assert {path.name for path in METRICS_FOLDER.iterdir() if path.name != "__pycache__"} == {*METRICS}
    with pytest.raises(ValueError, match="got 'bleu'"):
        push_metric("bleu", "me")


def test_arrays_are_taken_and_added_in_batches():
    rng = np.random.default_rng(0)
    clips = rng.uniform(1, 5, (2, 2, 3, 6, 8)).astype(np.float32)
    metric = evaluate.load(metric_path("depth_error"))
    for ours, true in zip(*clips, strict=True):
        metric.add_batch(predictions=[ours], references=[true])
    result = metric.compute(alignment="scale-and-shift")
    pairs = [map(torch.tensor, pair) for pair in zip(*clips, strict=True)]
    alone = [depth_metrics(*pair, alignment="scale-and-shift").rmse for pair in pairs]
    assert result["rmse"] == pytest.approx(sum(alone) / 2)


PUSH_AND_LOAD = """
import evaluate
from geovr_hf.evaluation import push_metric
push_metric("metric_scale", "me")
print(evaluate.load("me/metric_scale").compute(predictions=[4.0], references=[1.0])["factor"])
"""


def test_a_pushed_metric_is_a_space_from_which_evaluate_loads_it(tmp_path):
    with HubServer(tmp_path / "hub") as hub:
        assert float(hub.run(PUSH_AND_LOAD, home=tmp_path / "home")) == pytest.approx(4)
        files = hub.files("me/metric_scale", kind="spaces")
    assert {*files} == {"README.md", "app.py", "metric_scale.py", "requirements.txt"}
    compile(files["app.py"], "app.py", "exec")
