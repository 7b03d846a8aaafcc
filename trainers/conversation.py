"""What a training row says: its messages, and the clips, images and targets that belong to them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from geovr_hf.modeling.targets_geovr import GeometryTargets


@dataclass
class Conversation:
    r"""One decoded row, taken apart.

    Args:
        name (`str`): What errors call the row.
        messages (`list[dict]`): The messages as the chat template wants them, media replaced by placeholders.
        videos (`list[torch.ByteTensor]` of shapes `(T, H, W, 3)`): Frames of each clip, in order of appearance.
        timestamps (`list[list[float]]`): Time of each frame in seconds.
        images (`list`): Images, in order of appearance.
        targets (`list[GeometryTargets | None]`): Targets of each clip.
        num_context_turns (`int`, *optional*, defaults to 0): Assistant turns of a `prompt`, before its `completion`.
        has_completion (`bool`, *optional*, defaults to `False`): Whether the row is a `prompt` and its `completion`.
        chat_template_kwargs (`dict`, *optional*): Further arguments of the chat template.
    """

    name: str
    messages: list[dict[str, Any]]
    videos: list[torch.Tensor] = field(default_factory=list)
    timestamps: list[list[float]] = field(default_factory=list)
    images: list[Any] = field(default_factory=list)
    targets: list[GeometryTargets | None] = field(default_factory=list)
    num_context_turns: int = 0
    has_completion: bool = False
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def num_assistant_turns(self) -> int:
        """Number of assistant messages."""
        return sum(message["role"] == "assistant" for message in self.messages)

    def words(self) -> str:
        """The text of all messages."""
        return "".join(part.get("text", "") for message in self.messages for part in message["content"])

    def question(self) -> list[dict[str, Any]]:
        """The messages before the last answer: what generation starts from."""
        messages = list(self.messages)
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        return messages

    def answer(self) -> str:
        """The text of the last message, if it is an answer; else nothing."""
        message = self.messages[-1]
        if message["role"] != "assistant":
            return ""
        return "".join(part.get("text", "") for part in message["content"])


def read_row(
    row: dict[str, Any], index: int = 0, needs_answer: bool = True, checked: set[int] | None = None
) -> Conversation:
    r"""Take a decoded row apart and check that its pieces belong together.

    Args:
        row (`dict`): A row with `messages`, or `prompt` and `completion` as in TRL, both lists of messages, or a
            `prompt` alone. Clips are content parts `{"type": "video", "video": uint8 (T, H, W, 3), "timestamps":
            [seconds, ...]}`, images `{"type": "image", "image": image}`. As in TRL, images may also lie in a column
            `images` (or one in `image`), and clips, as such parts, in `videos`: they fill bare placeholders in order,
            or stand before the first user's text if that is a string. `geometry_targets` holds the targets of the only
            clip, a list with one entry per clip, or nothing; `chat_template_kwargs` is for the chat template.
        index (`int`, *optional*, defaults to 0): Position in the batch, which names rows without an `id`.
        needs_answer (`bool`, *optional*, defaults to `True`): Refuse a `prompt` without a `completion`.
        checked (`set[int]`, *optional*): Identities of targets whose values were checked already, for rows that share
            them; those of this row are added.

    Returns:
        `Conversation`: The row's pieces.

    Raises:
        ValueError: There are no messages, a clip is not decoded or has no frames, targets are no `GeometryTargets`, or
            frames, timestamps, targets or columns of media do not match. The message names the row.
    """
    name = f"row {row['id']!r}" if row.get("id") is not None else f"row {index} of the batch"
    messages, num_context_turns = placed_messages(row, name, needs_answer)
    conversation = Conversation(
        name,
        messages=[],
        num_context_turns=num_context_turns,
        has_completion=not row.get("messages") and bool(row.get("completion")),
        chat_template_kwargs=row.get("chat_template_kwargs") or {},
    )
    for message in messages:
        parts = [_take_part(part, conversation) for part in message["content"]]
        conversation.messages.append({**message, "content": parts})
    conversation.targets = _targets(row.get("geometry_targets"), conversation, set() if checked is None else checked)
    return conversation


def _messages(row: dict[str, Any], name: str, needs_answer: bool) -> tuple[list[dict], int]:
    if row.get("messages"):
        return row["messages"], 0
    if row.get("prompt") and (row.get("completion") or not needs_answer):
        completion = row.get("completion") or []
        if isinstance(row["prompt"], str) or isinstance(completion, str):
            raise ValueError(
                f"{name}: `prompt` and `completion` must be lists of messages, got text. Wrap it: "
                '[{"role": "user", "content": ...}].'
            )
        context = sum(message["role"] == "assistant" for message in row["prompt"])
        return [*row["prompt"], *completion], context
    raise ValueError(
        f"{name} has neither `messages` nor `prompt` and `completion`; its columns are {sorted(row)}. Convert it to "
        "chat messages."
    )


def placed_messages(row: dict[str, Any], name: str, needs_answer: bool = True) -> tuple[list[dict], int]:
    """Messages with content as lists of parts, and what the row's columns of media hold in its place.

    Args:
        row (`dict`): A decoded row.
        name (`str`): What errors call it.
        needs_answer (`bool`, *optional*, defaults to `True`): Refuse a `prompt` without a `completion`.

    Returns:
        `tuple[list[dict], int]`: The messages, and how many of the assistant's turns are those of a `prompt`.

    Raises:
        ValueError: There are no messages, or columns of media do not match them.
    """
    messages, num_context_turns = _messages(row, name, needs_answer)
    images = [row["image"]] if row.get("image") is not None else row.get("images")
    videos = [] if row.get("videos") is None else list(row["videos"])
    for video in videos:
        if not isinstance(video, dict):
            raise ValueError(
                f"{name}: `videos` must hold content parts "
                f'{{"type": "video", "video": frames, "timestamps": [seconds, ...]}}, got {type(video).__name__}.'
            )
    images = [{"type": "image", "image": image} for image in ([] if images is None else images)]
    media = {"video": videos, "image": images}
    placed, unplaced = [], any(media.values())
    for message in messages:
        content = message["content"] or ""  # none where a turn only calls tools
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
            if unplaced and message["role"] == "user":
                content = [{"type": kind} for kind, parts in media.items() for _ in parts] + content
                unplaced = False
        else:
            unplaced = unplaced and not any(_is_placeholder(part) for part in content)
        placed.append({**message, "content": [_filled(part, media, name) for part in content]})
    for kind, rest in media.items():
        if rest:
            raise ValueError(f"{name}: {len(rest)} of `{kind}s` have no place among its messages. Add placeholders.")
    return placed, num_context_turns


def _is_placeholder(part: dict[str, Any]) -> bool:
    return part.get("type") in ("image", "video") and part.get(part["type"]) is None


def _filled(part: dict[str, Any], media: dict[str, list], name: str) -> dict[str, Any]:
    if not _is_placeholder(part):
        return part
    if not media[part["type"]]:
        raise ValueError(f"{name}: a placeholder {part} finds nothing left in the row's column `{part['type']}s`.")
    return media[part["type"]].pop(0)


def _take_part(part: dict[str, Any], conversation: Conversation) -> dict[str, Any]:
    """Move a part's media into the conversation and return what the chat template needs of it."""
    kind, name = part.get("type"), conversation.name
    if kind == "text":
        return {"type": "text", "text": part["text"]}
    if kind == "image":
        if not isinstance(part.get("image"), (Image.Image, np.ndarray, torch.Tensor)):
            raise ValueError(f"{name}: an image must be decoded (PIL, array or tensor), got {part.get('image')!r}.")
        conversation.images.append(part["image"])
        return {"type": "image"}
    if kind == "video":
        frames = _frames(part.get("video"), name)
        timestamps = part.get("timestamps")
        if timestamps is None or len(timestamps) != len(frames):
            raise ValueError(
                f"{name}: a clip of {len(frames)} frames needs as many `timestamps` in seconds, got "
                f"{None if timestamps is None else len(timestamps)}."
            )
        conversation.videos.append(frames)
        conversation.timestamps.append([float(seconds) for seconds in timestamps])
        return {"type": "video"}
    raise ValueError(f'{name}: a content part\'s "type" must be "text", "image" or "video", got {kind!r}.')


def _frames(video: Any, name: str) -> torch.Tensor:
    if isinstance(video, str):
        raise ValueError(
            f"{name}: a clip must be decoded frames, got the path {video!r}. Turn stored rows into decoded ones with "
            "`geovr_hf.data` first."
        )
    if not isinstance(video, (np.ndarray, torch.Tensor)):
        raise ValueError(f"{name}: a clip must be uint8 frames of shape (T, H, W, 3), got {type(video).__name__}.")
    frames = torch.as_tensor(video)
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(
            f"{name}: a clip must be uint8 frames of shape (T, H, W, 3), got {frames.dtype} of shape "
            f"{tuple(frames.shape)}."
        )
    if len(frames) == 0:
        raise ValueError(f"{name}: a clip has no frames. Drop the row, or sample at least one frame.")
    return frames


def _targets(targets: Any, conversation: Conversation, checked: set[int]) -> list[GeometryTargets | None]:
    name, videos = conversation.name, conversation.videos
    if targets is None:
        return [None] * len(videos)
    if not isinstance(targets, (list, tuple)):
        targets = [targets]
    if len(targets) != len(videos):
        raise ValueError(
            f"{name} has {len(targets)} `geometry_targets` for {len(videos)} clips. Give one per clip, in the order "
            "of the messages, and `None` for a clip without targets."
        )
    for clip, (target, frames) in enumerate(zip(targets, videos, strict=True)):
        if target is None:
            continue
        if not isinstance(target, GeometryTargets):
            raise ValueError(
                f"The targets of clip {clip} of {name} must be `GeometryTargets`, got {type(target).__name__}. Make "
                "them of stored fields by `GeometryTargets(**fields)`."
            )
        if id(target) not in checked:
            target.validate(f"clip {clip} of {name}")
            checked.add(id(target))
        check_frames(target, frames, f"clip {clip} of {name}")
    return list(targets)


def check_frames(targets: GeometryTargets, frames: torch.Tensor, name: str) -> None:
    """Check that targets are for as many frames as their clip, which `name` stands for in the error, has.

    Raises:
        ValueError: They are not.
    """
    if targets.num_frames not in (None, len(frames)):
        raise ValueError(
            f"The targets of {name} have {targets.num_frames} frames, but the clip has {len(frames)}. Compute them "
            "from the very frames that are sampled."
        )
