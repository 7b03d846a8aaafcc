"""Weights of the published GeoVR implementation, brought to ours."""

from collections.abc import Mapping

import torch

from geovr_hf.conversion_names import from_published_name


# Teachers lie in the published checkpoints as submodules. A student needs none of them.
_TEACHER_PREFIXES = ("geometry_encoder.", "metric_encoder.")
_GEOMETRY_TOKENS = ("model.camera_token.weight", "model.scale_token.weight")


def convert_published_weights(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    r"""Rename the weights of a published checkpoint for [`GeoVRForConditionalGeneration`].

    Backbone names are the same in both. Heads are renamed; the camera tokens (first frame, other frames) and the scale
    token become the three rows of one embedding; teachers that were saved along are left out.

    Args:
        weights (`Mapping[str, torch.Tensor]`): Weights under their published names.

    Returns:
        `dict[str, torch.Tensor]`: The same weights under our names, to be loaded strictly.

    Raises:
        ValueError: One of the two geometry-token tables is there without the other.
    """
    present = [name for name in _GEOMETRY_TOKENS if name in weights]
    if len(present) == 1:
        missing = next(name for name in _GEOMETRY_TOKENS if name not in weights)
        raise ValueError(f"The checkpoint has `{present[0]}` but not `{missing}`: it is incomplete.")
    converted = {
        from_published_name(name): weight
        for name, weight in weights.items()
        if name not in _GEOMETRY_TOKENS and not name.startswith(_TEACHER_PREFIXES)
    }
    if present:
        converted["model.geometry_tokens.weight"] = torch.cat([weights[name] for name in _GEOMETRY_TOKENS])
    return converted
