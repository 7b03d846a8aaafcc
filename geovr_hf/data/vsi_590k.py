"""VSI-590K: 590,667 spatial questions on indoor video and pictures, training data of Cambrian-S and of GeoVR."""

from functools import partial
from pathlib import Path
from typing import Literal

from transformers.utils import logging

from geovr_hf.data.formats import (
    Record,
    Row,
    conversation_messages,
    find_files,
    identify,
    listed_options,
    load_rows,
    require,
)


logger = logging.get_logger(__name__)

Media = Literal["video", "image", "all"]

S3DIS_WARNING = (
    "VSI-590K's S3DIS clips are shuffled photographs, not videos: their timestamps mean nothing and no camera path "
    'runs through them. Leave them out with `exclude=("s3dis",)`.'
)


def load_vsi_590k(
    path: str | Path = "nyu-visionx/VSI-590K",
    *,
    media: Media = "video",
    exclude: tuple[str, ...] = (),
    streaming: bool = False,
):
    """Load VSI-590K as stored rows.

    Questions keep the dataset's own answer instruction ("Please answer the question using a single word or phrase.").
    Answers, numbers too, are strings; the unit is the one the question names. Media paths are relative to the folder
    into which the dataset's nine archives were unpacked: `scannet/…`, `scannetppv2/…`, `arkitscenes/…`, `adt/…`, ….

    Args:
        path (`str` or `Path`, *optional*, defaults to `"nyu-visionx/VSI-590K"`):
            `vsi_590k.jsonl`, the folder that holds it, or a dataset id on the Hub.
        media (`str`, *optional*, defaults to `"video"`):
            Rows to keep: `"video"` (374,148, what GeoVR trains on), `"image"` (216,519) or `"all"`.
        exclude (`tuple[str, ...]`, *optional*, defaults to `()`):
            Sources to leave out, by the first folder of the media path.
        streaming (`bool`, *optional*, defaults to `False`):
            Read records when they are asked for instead of preparing a table on disk.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: Columns `id, question_type, messages, answer, options`. Rows
        without an id are called by their line.

    Raises:
        ValueError: No such file, an unknown `media`, or a malformed line, which is named.
    """
    if media not in ("video", "image", "all"):
        raise ValueError(f'`media` must be "video", "image" or "all", got {media!r}.')
    files = find_files(path, "vsi_590k.jsonl", streaming=streaming)
    return load_rows(files, partial(_convert, media=media, exclude=tuple(exclude)), streaming=streaming)


def _convert(record: Record, place: str, *, media: Media, exclude: tuple[str, ...]) -> Row | None:
    kinds = [kind for kind in ("video", "image") if record.get(kind)]
    if len(kinds) != 1:
        raise ValueError(f"{place}: expected exactly one of `video` and `image`; the record has {sorted(record)}.")
    kind = kinds[0]
    source = str(record[kind]).split("/")[0]
    if media not in ("all", kind) or source in exclude:
        return None
    if kind == "video" and source == "s3dis":
        logger.warning_once(S3DIS_WARNING)
    messages = conversation_messages(record, {"type": kind, kind: record[kind]}, place)
    return {
        "id": identify(record, place),
        "question_type": require(record, "question_type", place),
        "messages": messages,
        "answer": messages[-1]["content"][0]["text"],
        "options": listed_options(messages[0]["content"][-1]["text"]),
    }
