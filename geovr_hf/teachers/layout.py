"""A teacher's layout, as the configuration of its student states it."""

from typing import Any

from .teacher import TeacherSpec


def teacher_layout(spec: TeacherSpec | None) -> dict[str, Any]:
    """The fields of [`GeoVRConfig`] that describe a teacher; none without one."""
    if spec is None:
        return {}
    layout = {
        "teacher": spec.name,
        "teacher_patch_size": spec.patch_size,
        "teacher_pool_size": spec.pool_size,
        "teacher_depth_layers": list(spec.depth_layers),
        # A ground truth without features has no layers; the depth head still reads four states, evenly spread.
        "teacher_num_layers": spec.num_layers or len(spec.depth_layers),
    }
    if spec.alignment_layers:
        layout |= {"teacher_hidden_size": spec.hidden_size, "teacher_alignment_layers": list(spec.alignment_layers)}
    else:
        layout["teacher_alignment_layers"] = list(spec.depth_layers)
    return layout
