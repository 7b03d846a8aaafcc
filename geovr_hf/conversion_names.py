"""Names of the heads' submodules, ours and those of the published checkpoints."""


def decoder_names(ours: str, published: str) -> dict[str, str]:
    """Names of a [`~geovr_hf.modeling.dense_decoder_geovr.DenseDecoder`]'s submodules.

    Args:
        ours (`str`): Our name of the decoder.
        published (`str`): Its published name.

    Returns:
        `dict[str, str]`: Published prefix by our prefix.
    """
    fusion = {"lateral_unit": "resConfUnit1", "output_unit": "resConfUnit2", "projection": "out_conv"}
    return {
        f"{ours}.norm": f"{published}.norm",
        f"{ours}.projects": f"{published}.projects",
        f"{ours}.resizes": f"{published}.resize_layers",
        **{f"{ours}.laterals.{stage}": f"{published}.scratch.layer{stage + 1}_rn" for stage in range(4)},
        **{
            f"{ours}.fusions.{stage}.{name}": f"{published}.scratch.refinenet{stage + 1}.{theirs}"
            for stage in range(4)
            for name, theirs in fusion.items()
        },
    }


# Our prefix -> published prefix. What follows a prefix (`.weight`, `.conv1.bias`, ...) is the same in both.
PUBLISHED_HEAD_NAMES = {
    "camera_head.norm": "camera_head.backbone.0",
    "camera_head.fc1": "camera_head.backbone.1",
    "camera_head.fc2": "camera_head.backbone.3",
    "camera_head.translation": "camera_head.fc_t",
    "camera_head.rotation": "camera_head.fc_qvec",
    "camera_head.field_of_view": "camera_head.fc_fov.0",
    "scale_head.norm": "scale_head.backbone.0",
    "scale_head.fc1": "scale_head.backbone.1",
    "scale_head.fc2": "scale_head.backbone.3",
    "alignment_heads": "distill_head_list",
    **decoder_names("depth_head", "dpt_head"),
    "depth_head.projection": "dpt_head.proj",
}

_OUR_HEAD_NAMES = {published: ours for ours, published in PUBLISHED_HEAD_NAMES.items()}


def to_published_name(name: str) -> str:
    """Published name of a head's parameter; other names are returned as they are.

    Args:
        name (`str`): Name of a parameter of [`GeoVRForConditionalGeneration`].

    Returns:
        `str`: Its name in the published checkpoints.
    """
    return _replace_prefix(name, PUBLISHED_HEAD_NAMES)


def from_published_name(name: str) -> str:
    """Our name of a head's parameter; other names are returned as they are.

    Args:
        name (`str`): Name of a parameter in a published checkpoint.

    Returns:
        `str`: Its name in [`GeoVRForConditionalGeneration`].
    """
    return _replace_prefix(name, _OUR_HEAD_NAMES)


def _replace_prefix(name: str, prefixes: dict[str, str]) -> str:
    # No prefix is one of another up to a dot, so at most one matches.
    for prefix, replacement in prefixes.items():
        if name.startswith(f"{prefix}."):
            return replacement + name.removeprefix(prefix)
    return name
