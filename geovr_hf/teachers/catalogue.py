"""The published networks: what each is, where its weights are, and on what terms."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from geovr_hf.hub_cards.licence import PUBLISHED_TERMS

from .images import IMAGE_RULES, ImageRule
from .networks import (
    DepthAnything3MetricModel,
    DepthAnything3Model,
    VGGTModel,
    VGGTOmegaModel,
)
from .networks.base import TeacherNetwork


@dataclass(frozen=True)
class PublishedNetwork:
    """A published network.

    Args:
        hub_id (`str`):
            Id on the Hub.
        network_class (`type[TeacherNetwork]`):
            Its class.
        licence (`str`):
            Licence of the weights, by the Hub's id where that has one.
        non_commercial (`bool`):
            Whether it forbids commercial use.
        gated (`bool`, *optional*, defaults to `False`):
            Whether the Hub asks to accept terms before it gives the file.
        image_rule ([`ImageRule`], *optional*):
            Size of its images; `None` for a metric network, which takes those of the teacher.
        filename (`str`, *optional*, defaults to `"model.safetensors"`):
            Name of the file.
        sizes (`Mapping[str, Any]`, *optional*):
            Fields of its configuration that are not the defaults.
        signature (`tuple[str, tuple[int, ...]]`):
            A tensor that no other network of the list has with this shape: tells what a file of unknown origin holds.
    """

    hub_id: str
    network_class: type[TeacherNetwork]
    licence: str
    non_commercial: bool
    signature: tuple[str, tuple[int, ...]]
    image_rule: ImageRule | None = None
    gated: bool = False
    filename: str = "model.safetensors"
    sizes: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """The id without its owner, in lower case."""
        return self.hub_id.split("/")[-1].lower()

    @property
    def is_metric(self) -> bool:
        """Whether it measures metric depth and nothing else."""
        return self.network_class is DepthAnything3MetricModel

    def config(self) -> PreTrainedConfig:
        """Its configuration."""
        return self.network_class.config_class(**(self.sizes or {}))


def _vggt(hub_id: str, **file: Any) -> PublishedNetwork:
    signature = ("aggregator.global_blocks.23.norm1.weight", (1024,))
    terms = PUBLISHED_TERMS[hub_id]
    return PublishedNetwork(hub_id, VGGTModel, *terms, signature, IMAGE_RULES["vggt"], **file)


def _da3(hub_id: str, hidden_size: int, **sizes: Any) -> PublishedNetwork:
    return PublishedNetwork(
        hub_id,
        DepthAnything3Model,
        *PUBLISHED_TERMS[hub_id],
        image_rule=IMAGE_RULES["da3"],
        sizes={"hidden_size": hidden_size, **sizes},
        signature=("model.backbone.pretrained.camera_token", (1, 2, hidden_size)),
    )


_GIANT = {
    "num_hidden_layers": 40,
    "num_attention_heads": 24,
    "gated_mlp": True,
    "dense_layers": (19, 27, 33, 39),
    "alternation_start": 13,
}
_LARGE = {"num_hidden_layers": 24, "num_attention_heads": 16}
_TWELVE = {"num_hidden_layers": 12, "dense_layers": (5, 7, 9, 11), "alternation_start": 4}
_BASE = _TWELVE | {
    "num_attention_heads": 12,
    "dense_hidden_sizes": (96, 192, 384, 768),
    "dense_fusion_size": 128,
}
_SMALL = _TWELVE | {
    "num_attention_heads": 6,
    "dense_hidden_sizes": (48, 96, 192, 384),
    "dense_fusion_size": 64,
}

# The first of several with one signature stands for a file of unknown origin.
CATALOGUE = (
    _vggt("facebook/VGGT-1B"),
    _vggt(
        "facebook/VGGT-1B-Commercial",
        gated=True,
        filename="vggt_1B_commercial.pt",
    ),
    PublishedNetwork(
        "facebook/VGGT-Omega",
        VGGTOmegaModel,
        *PUBLISHED_TERMS["facebook/VGGT-Omega"],
        gated=True,
        image_rule=IMAGE_RULES["vggt_omega"],
        filename="vggt_omega_1b_512.pt",
        signature=("aggregator.inter_frame_blocks.23.norm1.weight", (1024,)),
    ),
    _da3("depth-anything/DA3-GIANT-1.1", 1536, **_GIANT),
    _da3("depth-anything/DA3-GIANT", 1536, **_GIANT),
    _da3("depth-anything/DA3-LARGE-1.1", 1024, **_LARGE),
    _da3("depth-anything/DA3-LARGE", 1024, **_LARGE),
    _da3("depth-anything/DA3-BASE", 768, **_BASE),
    _da3("depth-anything/DA3-SMALL", 384, **_SMALL),
    PublishedNetwork(
        "depth-anything/DA3METRIC-LARGE",
        DepthAnything3MetricModel,
        *PUBLISHED_TERMS["depth-anything/DA3METRIC-LARGE"],
        signature=("model.head.scratch.sky_output_conv2.0.weight", (32, 128, 3, 3)),
    ),
)


def find_published(name: str | Path) -> PublishedNetwork | None:
    """Look a network up by its Hub id, or by the part behind the owner, in any case.

    Args:
        name (`str` or `Path`): The name.

    Returns:
        [`PublishedNetwork`] or `None`.
    """
    wanted = str(name).lower()
    return next((entry for entry in CATALOGUE if wanted in (entry.hub_id.lower(), entry.name)), None)


def identify(shapes: Mapping[str, tuple[int, ...]], source: str | Path) -> PublishedNetwork:
    """Tell what a file holds.

    Args:
        shapes (`Mapping[str, tuple[int, ...]]`): Its tensors' shapes by name.
        source (`str` or `Path`): What errors call the file.

    Returns:
        [`PublishedNetwork`]: The network whose signature it has; of several the one that calls its file so, else the
        first.

    Raises:
        ValueError: It has none.
    """
    found = [entry for entry in CATALOGUE if shapes.get(entry.signature[0]) == entry.signature[1]]
    if found:
        named = (entry for entry in found if entry.filename == Path(source).name)
        return next(named, found[0])
    known = ", ".join(entry.hub_id for entry in CATALOGUE)
    raise ValueError(
        f"{source} does not hold the weights of a network that is known here ({known}). It has {len(shapes)} tensors, "
        f"the first: {', '.join(list(shapes)[:3])}."
    )
