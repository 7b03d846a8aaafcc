"""Weights of the published GeoVR implementation, brought to ours."""

from collections.abc import Iterable, Mapping

import torch

from geovr_hf.conversion_names import from_published_name


# Teachers lie in the published checkpoints as submodules. A student needs none of them.
_TEACHER_PREFIXES = ("geometry_encoder.", "metric_encoder.")
_GEOMETRY_TOKENS = ("model.camera_token.weight", "model.scale_token.weight")


def published_sources(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    r"""Where each weight of a [`GeoVRForConditionalGeneration`] comes from.

    Backbone names are the same in both. Heads are renamed; the camera tokens (first frame, other frames) and the scale
    token become the three rows of one embedding; teachers that were saved along are left out.

    Args:
        names (`Iterable[str]`): Published names.

    Returns:
        `dict[str, tuple[str, ...]]`: By our name, the published ones; the rows of several are joined in this order.

    Raises:
        ValueError: One of the two geometry-token tables is there without the other.
    """
    names = list(names)
    present = [name for name in _GEOMETRY_TOKENS if name in names]
    if len(present) == 1:
        missing = next(name for name in _GEOMETRY_TOKENS if name not in names)
        raise ValueError(f"The checkpoint has `{present[0]}` but not `{missing}`: it is incomplete.")
    sources = {
        from_published_name(name): (name,)
        for name in names
        if name not in _GEOMETRY_TOKENS and not name.startswith(_TEACHER_PREFIXES)
    }
    if present:
        sources["model.geometry_tokens.weight"] = _GEOMETRY_TOKENS
    return sources


def convert_published_weights(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    r"""Rename the weights of a published checkpoint for [`GeoVRForConditionalGeneration`].

    Args:
        weights (`Mapping[str, torch.Tensor]`): Weights under their published names.

    Returns:
        `dict[str, torch.Tensor]`: The same weights under our names, to be loaded strictly.

    Raises:
        ValueError: As of [`published_sources`].
    """
    return {name: join_rows(weights, sources) for name, sources in published_sources(weights).items()}


def join_rows(weights: Mapping[str, torch.Tensor], names: tuple[str, ...]) -> torch.Tensor:
    """One weight as it is, several joined along their rows."""
    return weights[names[0]] if len(names) == 1 else torch.cat([weights[name] for name in names])
