"""The scorers as metrics of the `evaluate` library: found on disk, and pushed to the Hub as Spaces.

Each folder of `metrics/` is one metric: the module that `evaluate.load` runs, and the card of its Space.
"""

import tempfile
from pathlib import Path
from shutil import copy
from typing import TYPE_CHECKING

from huggingface_hub import HfApi


# Evaluating geometry must not cost the seconds that these two take to load.
if TYPE_CHECKING:
    import evaluate

METRICS_FOLDER = Path(__file__).with_name("metrics")
METRICS = (
    "vsi_bench",
    "depth_error",
    "relative_pose",
    "trajectory_error",
    "metric_scale",
    "feature_cosine",
    "multi_view_consistency",
)
_REQUIREMENTS = "geovr_hf\nevaluate\n"
_APP = '''\
"""Try the metric: its arguments as JSON in, its result as JSON out."""

import json

import evaluate
import gradio
from {name} import EXAMPLE, __doc__ as description


metric = evaluate.load("{repo_id}")


def compute(arguments):
    return json.dumps(metric.compute(**json.loads(arguments)), indent=2)


gradio.Interface(
    compute,
    gradio.Code(json.dumps(EXAMPLE, indent=2), language="json", label="arguments of compute"),
    gradio.Code(language="json", label="result"),
    title="{name}",
    description=description,
).launch()
'''


def metric_path(name: str) -> str:
    """Folder of a metric, for `evaluate.load`.

    Args:
        name (`str`): One of `METRICS`.

    Returns:
        `str`: The folder.

    Raises:
        ValueError: There is no such metric.

    Examples:
        >>> metric = evaluate.load(metric_path("metric_scale"))
        >>> metric.compute(predictions=[2.0], references=[1.0])["factor"]
        2.0
    """
    if name not in METRICS:
        raise ValueError(f"Metrics are {', '.join(METRICS)}; got {name!r}.")
    return str(METRICS_FOLDER / name)


def push_metric(name: str, namespace: str, *, private: bool | None = None, token: str | None = None) -> str:
    """Push a metric to the Hub as a Space, from where `evaluate.load("namespace/name")` takes it.

    Args:
        name (`str`): One of `METRICS`.
        namespace (`str`): Account or organisation that owns the Space.
        private (`bool`, *optional*): Whether a new Space is private. By default what the account's settings say.
        token (`str`, *optional*): Token of the Hub; by default the stored one.

    Returns:
        `str`: Address of the Space.

    Raises:
        ValueError: There is no such metric.
        OSError: The Hub refused, or the connection broke.
    """
    source, repo_id = Path(metric_path(name)), f"{namespace}/{name}"
    api = HfApi(token=token)
    address = api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for file in (f"{name}.py", "README.md"):
            copy(source / file, folder)
        Path(folder, "app.py").write_text(_APP.format(name=name, repo_id=repo_id))
        Path(folder, "requirements.txt").write_text(_REQUIREMENTS)
        api.upload_folder(repo_id=repo_id, repo_type="space", folder_path=folder, commit_message=f"Metric {name}")
    return str(address)


def metric_info(description: str, inputs: str, source: str, features: dict) -> "evaluate.MetricInfo":
    """What `evaluate` wants to know of a metric.

    Args:
        description (`str`): What it measures, the docstring of its module.
        inputs (`str`): What `compute` takes and returns.
        source (`str`): Where the definition comes from.
        features (`dict`): Types of `predictions` and `references`.

    Returns:
        `evaluate.MetricInfo`
    """
    import datasets
    import evaluate

    return evaluate.MetricInfo(
        description=description, citation=source, inputs_description=inputs, features=datasets.Features(features)
    )


def nested(depth: int, dtype: str = "float32"):
    """The type of lists within lists of numbers, `depth` levels deep."""
    import datasets

    feature = datasets.Value(dtype)
    for _ in range(depth):
        feature = datasets.Sequence(feature)
    return feature
