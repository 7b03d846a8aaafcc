"""Teachers: sources of geometry targets."""

from typing import Any

from .teacher import Teacher, TeacherSpec


__all__ = ["Teacher", "TeacherSpec", "load_teacher"]


def load_teacher(name: str, metric: str | None = None, **options: Any) -> Teacher:
    r"""Load a teacher.

    Args:
        name (`str`):
            `"rgbd"` for recorded RGB-D folders, `"synthetic"` for rendered rooms.
        metric (`str`, *optional*):
            Second teacher that gives metric scale to a teacher that has none. Both ground truths are metric already.
        options:
            Arguments of [`~geovr_hf.teachers.rgbd.RecordedRGBDTeacher`] or
            [`~geovr_hf.teachers.synthetic.SyntheticRoomsTeacher`].

    Returns:
        `Teacher`: The teacher.

    Raises:
        ValueError: The name is unknown, or `metric` is given for a metric teacher.
    """
    if name not in ("rgbd", "synthetic"):
        raise ValueError(
            f"Unknown teacher {name!r}: 'rgbd' and 'synthetic' are available. Network teachers from the Hub, such as "
            "'facebook/VGGT-1B', are not part of this version yet."
        )
    if metric is not None:
        raise ValueError(f"The teacher {name!r} measures in metres itself: leave out `metric`, got {metric!r}.")
    # Imported here: each teacher may need an extra that the other does not.
    if name == "rgbd":
        from .rgbd import RecordedRGBDTeacher

        return RecordedRGBDTeacher(**options)
    from .synthetic import SyntheticRoomsTeacher

    return SyntheticRoomsTeacher(**options)
