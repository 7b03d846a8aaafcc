"""Loading network teachers by name."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.utils import logging
from transformers.utils.hub import extract_commit_hash

from .catalogue import CATALOGUE, PublishedNetwork, find_published, identify
from .metric_network import DepthAnything3Metric, MetricDepth
from .network_teacher import NetworkTeacher, Poses
from .networks.acceleration import accelerate_network
from .networks.base import TeacherNetwork
from .networks.loading import load_published
from .networks.weight_files import WeightFile, find_weights, weights_digest
from .teacher import TeacherSpec


logger = logging.get_logger(__name__)

# What those who may not use non-commercial weights can use: all of it is Apache-2.0.
PERMISSIVE = "permissive"
PERMISSIVE_TEACHER = "depth-anything/DA3-BASE"
PERMISSIVE_METRIC = "depth-anything/DA3METRIC-LARGE"

# Entries of a configuration that no output depends on.
_NO_SIZES = ("transformers_version", "dtype", "architectures")


def load_network_teacher(
    name: str | Path,
    metric: str | Path | MetricDepth | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = "auto",
    poses: Poses = "canonical",
    frames_chunk_size: int | None = None,
    compile: bool = False,
    attn_implementation: str | None = None,
    weights: str | Path | None = None,
    revision: str | None = None,
    config: PreTrainedConfig | None = None,
    metric_weights: str | Path | None = None,
    metric_revision: str | None = None,
    metric_config: PreTrainedConfig | None = None,
) -> NetworkTeacher:
    r"""Load a network teacher. See [`~geovr_hf.teachers.load_teacher`] for the arguments."""
    if str(name).lower() == PERMISSIVE:
        name, metric = PERMISSIVE_TEACHER, PERMISSIVE_METRIC if metric is None else metric
    if frames_chunk_size is not None and frames_chunk_size < 1:
        raise ValueError(f"`frames_chunk_size` must be at least 1, or None for all frames, got {frames_chunk_size}.")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options = {
        "device": device,
        "dtype": resolve_dtype(dtype, device),
        "attn_implementation": attn_implementation,
    }
    loaded = load_network(*_identify(name, weights, config), revision, **options)
    networks = [loaded.network]
    if metric is not None and not isinstance(metric, MetricDepth):
        found = load_network(
            *_identify(metric, metric_weights, metric_config, is_metric=True), metric_revision, **options
        )
        networks.append(found.network)
        metric = DepthAnything3Metric(
            found.network,
            found.entry.hub_id,
            found.entry.licence,
            found.entry.non_commercial,
            found.fingerprint(),
            found.revision,
        )
    for network in networks:
        network.frames_chunk_size = frames_chunk_size
        accelerate_network(network, fuse=attn_implementation is None, compile=compile)
    return NetworkTeacher(
        loaded.network,
        replace(teacher_spec(loaded.entry, loaded.network.config), revision=loaded.revision),
        loaded.fingerprint(poses=poses, metric=None if metric is None else metric.fingerprint),
        metric,
        poses,
    )


@dataclass(frozen=True)
class LoadedNetwork:
    """A network with what is known of it.

    Args:
        entry ([`PublishedNetwork`]): What it is.
        network ([`TeacherNetwork`]): The network.
        digest (`str`): SHA-256 of its file.
        revision (`str`, *optional*): Commit of that file on the Hub, if it came from there.
    """

    entry: PublishedNetwork
    network: TeacherNetwork
    digest: str
    revision: str | None = None

    def fingerprint(self, **facts: str | None) -> str:
        """Name, licence, and a hash of all that the output depends on: weights, sizes, precision and `facts`."""
        sizes = {k: v for k, v in self.network.config.to_diff_dict().items() if k not in _NO_SIZES}
        depends = [self.digest, sizes, repr(self.entry.image_rule), str(self.network.matrix_dtype), facts]
        digest = hashlib.sha256(json.dumps(depends, sort_keys=True, default=str).encode()).hexdigest()
        return f"{self.entry.name}_{self.entry.licence}_{digest[:16]}"


def load_network(
    entry: PublishedNetwork,
    place: str | Path,
    config: PreTrainedConfig | None = None,
    revision: str | None = None,
    **options: Any,
) -> LoadedNetwork:
    """Load one network and warn once if its weights are non-commercial.

    Args:
        entry ([`PublishedNetwork`]): What it is.
        place (`str` or `Path`): Where its weights are, see [`find_weights`].
        config (`PreTrainedConfig`, *optional*): Its sizes. Without, `place` is what `save_pretrained` wrote.
        revision (`str`, *optional*): Revision on the Hub.
        options: Those of [`load_published`].

    Returns:
        [`LoadedNetwork`]: The network and what is known of it.

    Raises:
        ValueError: The weights cannot be had or do not fit.
    """
    path = find_weights(place, entry.filename, revision)
    if entry.non_commercial:
        logger.warning_once(
            f"{entry.hub_id} may not be used commercially ({entry.licence}), nor what is trained on its output. "
            "`load_teacher('permissive')` may: DA3-BASE with DA3METRIC-LARGE, both Apache-2.0."
        )
    if config is None:
        saved = {name: value for name, value in options.items() if name != "device"}
        network = entry.network_class.from_pretrained(path.parent, **saved).to(options["device"])
        network = network.eval().requires_grad_(False)
    else:
        network = load_published(entry.network_class, config, path, **options)
    return LoadedNetwork(entry, network, weights_digest(path), extract_commit_hash(path.as_posix(), None))


def _identify(
    name: str | Path, weights: str | Path | None, config: PreTrainedConfig | None, is_metric: bool = False
) -> tuple[PublishedNetwork, str | Path, PreTrainedConfig | None]:
    """What network is meant, where its weights are, and of which size it is; no size if it was saved with its own."""
    entry = find_published(name)
    place = weights or (name if entry is None else entry.hub_id)
    if entry is None and not Path(name).exists():
        raise ValueError(
            f"Unknown {'metric network' if is_metric else 'teacher'} {str(name)!r}: it is neither a path nor one "
            f"of {', '.join(e.hub_id for e in CATALOGUE if e.is_metric == is_metric)}"
            + ("." if is_metric else ", 'permissive', 'rgbd', 'synthetic'.")
        )
    saved_as = None if config is not None else _saved_type(Path(place))
    model_type = saved_as if config is None else config.model_type
    if entry is None and model_type is not None:
        # Of that kind, not that network: it goes by its own name, on the terms of the kind.
        entry = next(entry for entry in CATALOGUE if entry.network_class.config_class.model_type == model_type)
        entry = replace(entry, hub_id=Path(name).name)
    elif entry is None:
        published = [entry.filename for entry in CATALOGUE if (Path(name) / entry.filename).is_file()]
        place = find_weights(name, next(iter(published), "model.safetensors"))
        entry = identify(WeightFile(place).shapes, place)
    elif saved_as not in (None, entry.network_class.config_class.model_type):
        raise ValueError(f"{place} holds a network of type {saved_as!r}, which {entry.hub_id} is not.")
    if entry.is_metric != is_metric:
        is_what = "measures metric depth alone" if entry.is_metric else "is no metric depth network"
        give, instead = ("metric", "name") if entry.is_metric else ("name", "metric")
        raise ValueError(f"{entry.hub_id} {is_what}: give it as `{give}`, not as `{instead}`.")
    return entry, place, None if saved_as is not None else config or entry.config()


def _saved_type(folder: Path) -> str | None:
    """The type of the network that `save_pretrained` wrote to a folder; `None` for any other place."""
    path = folder / "config.json"
    model_type = json.loads(path.read_text(encoding="utf-8")).get("model_type") if path.is_file() else None
    return model_type if model_type in {e.network_class.config_class.model_type for e in CATALOGUE} else None


def resolve_dtype(dtype: torch.dtype | str, device: torch.device) -> torch.dtype:
    """`"auto"` is bfloat16 on a GPU that computes in it and float32 elsewhere; other names are torch's."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    dtype = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"`dtype` must be 'auto', 'float32' or 'bfloat16', got {dtype}.")
    return dtype


def teacher_spec(entry: PublishedNetwork, config: PreTrainedConfig) -> TeacherSpec:
    """Layout and terms of a published network of the given sizes."""
    return TeacherSpec(
        name=entry.hub_id,
        num_layers=config.num_hidden_layers,
        alignment_layers=tuple(config.alignment_layers),
        depth_layers=tuple(config.dense_layers),
        hidden_size=config.hidden_size,
        patch_size=config.patch_size,
        pool_size=entry.image_rule.multiple // config.patch_size,
        image_rule=entry.image_rule,
        licence=entry.licence,
        non_commercial=entry.non_commercial,
        gated=entry.gated,
    )
