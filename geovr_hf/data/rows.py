"""Conversational rows: from rows as stored, which name files, to decoded rows, which hold frames.

A stored row has TRL's conversational form, `messages` or `prompt` and `completion`, with the path of a clip or picture
in its content part:

    {"messages": [{"role": "user", "content": [{"type": "video", "video": "scannet/scene9999_00.mp4"},
                                               {"type": "text", "text": "How many chairs are in the room?"}]},
                  {"role": "assistant", "content": [{"type": "text", "text": "4"}]}],
     "id": "17", "question_type": "object_counting", "answer": "4", "options": None}

Content may also be a plain string, and parts may be bare placeholders `{"type": "video"}` filled in order from a
column `videos` (`images` for pictures). A decoded row is the same with uint8 frames and their timestamps in place of
the path, and `geometry_targets` if a teacher looked at the clips: what `GeoVRDataCollator` takes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from PIL import Image

from geovr_hf.data.clip import Clip, UnreadableClipError
from geovr_hf.data.images import read_image
from geovr_hf.data.sampling import FrameSampling
from geovr_hf.data.video import read_sampled_clip
from geovr_hf.modeling.processing_geovr import chat_words


if TYPE_CHECKING:
    from geovr_hf.teachers import ImageRule

PASSED_THROUGH = ("id", "question_type", "answer", "options")
ROLES = ("system", "user", "assistant")


def name_row(position: int, row: Mapping[str, Any]) -> str:
    """What errors call the row at a position: that, and its id if it has one."""
    return f"row {position}" if row.get("id") is None else f"row {position} (id {row['id']!r})"


def resolve_media(path: str, media_root: str | Path, row_name: str) -> Path:
    """Resolve a path found in a row, which must stay inside the media root.

    Rows come from strangers: a row that could name any file would let a downloaded dataset read the whole disk.

    Args:
        path (`str`): Path relative to `media_root`, as the row has it.
        media_root (`str` or `Path`): Folder that holds the media of the dataset.
        row_name (`str`): What errors call the row.

    Returns:
        `Path`: Absolute, symbolic links resolved. It need not exist.

    Raises:
        ValueError: The path is absolute, has a `..`, or leaves the root through a symbolic link.
    """
    if not isinstance(path, str) or not path:
        raise ValueError(f"{row_name}: a media path must be a non-empty string, got {path!r}.")
    if PurePath(path).is_absolute() or ".." in PurePath(path).parts:
        raise ValueError(
            f"{row_name}: the media path {path!r} must be relative to the media root and without '..'. "
            "Put the media under one folder and name that folder as `media_root`."
        )
    root = Path(media_root).resolve()
    resolved = (root / path).resolve()
    if not resolved.is_relative_to(root):
        raise ValueError(
            f"{row_name}: the media path {path!r} leaves the media root {root} through a symbolic link to {resolved}. "
            "Use the folder that really holds the media as `media_root`."
        )
    return resolved


def normalize_row(row: Mapping[str, Any], row_name: str) -> dict[str, Any]:
    """Check a stored row and bring it to one form.

    Args:
        row (`Mapping`): A stored row. Keys with `None`, with which Arrow fills structures, count as absent.
        row_name (`str`): What errors call the row.

    Returns:
        `dict`: `messages`, or `prompt` and `completion`, with content as lists of parts and every placeholder filled;
        and `id`, `question_type`, `answer`, `options` where present.

    Raises:
        ValueError: The row is no conversation, has a part of unknown kind, or media and placeholders differ in number.
    """
    conversations = {key: row[key] for key in ("messages", "prompt", "completion") if row.get(key) is not None}
    if set(conversations) not in ({"messages"}, {"prompt"}, {"prompt", "completion"}):
        raise ValueError(
            f"{row_name}: a row has `messages`, or `prompt` and `completion`; this one has the columns {sorted(row)}."
        )
    media = {kind: iter(row.get(f"{kind}s") or ()) for kind in ("video", "image")}
    normalized: dict[str, Any] = {
        key: [_normalize_message(message, media, f"{row_name}, {key}[{index}]") for index, message in enumerate(turns)]
        for key, turns in conversations.items()
    }
    for kind, rest in media.items():
        if unused := list(rest):
            raise ValueError(f"{row_name}: {len(unused)} of `{kind}s` have no place in the conversation: {unused}.")
    return normalized | {key: row[key] for key in PASSED_THROUGH if row.get(key) is not None}


def _normalize_message(message: Mapping[str, Any], media: dict[str, Iterator], place: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        raise ValueError(f"{place}: a message is a dict with a `role` of {ROLES}, got {message!r}.")
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise ValueError(f"{place}: `content` must be a string or a list of parts, got {content!r}.")
    return {"role": message["role"], "content": [_normalize_part(part, media, place) for part in content]}


def _normalize_part(part: Mapping[str, Any], media: dict[str, Iterator], place: str) -> dict[str, Any]:
    part = {key: value for key, value in part.items() if value is not None}
    kind = part.get("type")
    if kind not in ("text", "image", "video") or not part.keys() <= {"type", kind}:
        raise ValueError(
            f'{place}: a part is {{"type": kind, kind: value}} with kind "text", "image" or "video", got {part}.'
        )
    if kind not in part and kind in media:
        part[kind] = next(media[kind], None)
    if part.get(kind) is None:
        raise ValueError(f"{place}: the {kind} part has no value, and the column `{kind}s` has none left for it.")
    return part


def iterate_parts(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The content parts of a normalized row in reading order."""
    for key in ("messages", "prompt", "completion"):
        for message in row.get(key, ()):
            yield from message["content"]


def row_media(row: Mapping[str, Any], row_name: str) -> tuple[str, ...] | None:
    """What names the clips and pictures of a stored row: rows with equal media are about the same. `None` without."""
    parts = [part for part in iterate_parts(normalize_row(row, row_name)) if part["type"] != "text"]
    return tuple(str(part[part["type"]]) for part in parts) or None


def row_words(row: Mapping[str, Any], row_name: str) -> str:
    """All words of a stored row, in turns as ChatML writes them."""
    row = normalize_row(row, row_name)
    return chat_words([message for key in ("messages", "prompt", "completion") for message in row.get(key, ())])


@dataclass(frozen=True)
class RowDecoder:
    """Turns stored rows into decoded rows.

    Clips and pictures of the row decoded last stay in memory, with their targets: rows about the same, one after the
    other, decode them once and share them. Do not write into them.

    Args:
        media_root (`str` or `Path`):
            Folder under which all media of the rows lie.
        sampling ([`FrameSampling`]):
            Frames per clip.
        teacher (*optional*):
            Object whose `targets(clip)` gives the `GeometryTargets` of a clip.
        image_rate (`float`, *optional*, defaults to 1.0):
            Images per second of clips that are folders of images.
        image_rule ([`ImageRule`], *optional*):
            How large a teacher wants its images. A clip that it could not be shown is an unreadable one.
    """

    media_root: str | Path
    sampling: FrameSampling
    teacher: Any = None
    image_rate: float = 1.0
    image_rule: "ImageRule | None" = None
    _last: dict[tuple[str, Path], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def decode(self, row: Mapping[str, Any], row_name: str) -> dict[str, Any]:
        """Decode one row.

        Args:
            row (`Mapping`): A stored row.
            row_name (`str`): What errors call the row.

        Returns:
            `dict`: The decoded row; with a teacher it has `geometry_targets`, one entry per clip in reading order.

        Raises:
            UnreadableClipError: A clip or picture cannot be read.
            ValueError: The row is malformed, or a path in it leaves the media root.
        """
        row = normalize_row(row, row_name)
        targets, media = [], {}
        for part in iterate_parts(row):
            if part["type"] == "image" and not isinstance(part["image"], Image.Image):
                part["image"] = self._read(read_image, part, row_name, media)
            elif part["type"] == "video":
                content, clip_targets = self._read(self._clip_and_targets, part, row_name, media)
                part.update(content)
                if self.teacher is not None:
                    targets.append(clip_targets)
        if self.teacher is not None:
            row["geometry_targets"] = targets
        self._last.clear()
        self._last.update(media)
        return row

    def read_clip(self, path: Path) -> Clip:
        """Read the clip at a resolved path with this decoder's sampling."""
        clip = read_sampled_clip(path, self.sampling, self.image_rate)
        if self.image_rule is not None:
            from geovr_hf.teachers.images import teacher_image_size  # the networks come with it

            try:
                teacher_image_size(clip.image_size, self.image_rule)
            except ValueError as error:
                raise UnreadableClipError(f"{path}: {error}") from error
        return clip

    def _clip_and_targets(self, path: Path) -> tuple[dict[str, Any], Any]:
        """A clip as content part, and its targets."""
        clip = self.read_clip(path)
        return clip.content(), None if self.teacher is None else self.teacher.targets(clip)

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes decode for themselves.
        return {**self.__dict__, "_last": {}}

    def _read(self, read, part: Mapping[str, Any], row_name: str, media: dict[tuple[str, Path], Any]) -> Any:
        """What a part of a row names, read by `read`, unless this row or the last one has it."""
        try:
            path = resolve_media(part[part["type"]], self.media_root, row_name)
            key = (part["type"], path)
            if key not in media:
                media[key] = self._last[key] if key in self._last else read(path)
            return media[key]
        except UnreadableClipError as error:
            raise UnreadableClipError(f"{row_name}: {error}") from error
