"""Names of the heads' submodules, ours and those of the published checkpoints."""

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
    "depth_head.norm": "dpt_head.norm",
    "depth_head.projects": "dpt_head.projects",
    "depth_head.resizes": "dpt_head.resize_layers",
    **{f"depth_head.laterals.{stage}": f"dpt_head.scratch.layer{stage + 1}_rn" for stage in range(4)},
    **{
        f"depth_head.fusions.{stage}.{ours}": f"dpt_head.scratch.refinenet{stage + 1}.{published}"
        for stage in range(4)
        for ours, published in (
            ("lateral_unit", "resConfUnit1"),
            ("output_unit", "resConfUnit2"),
            ("projection", "out_conv"),
        )
    },
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
