"""VLM-3R's VSI training questions: about 205,000, on ScanNet, ScanNet++ and ARKitScenes."""

from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

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


MediaLayout = Literal["vsi_590k", "vlm_3r"]

VSI_590K_FOLDERS = {"scannet": "scannet", "scannetpp": "scannetppv2", "arkitscenes": "arkitscenes"}


def load_vlm_3r(
    path: str | Path,
    *,
    media_layout: MediaLayout = "vsi_590k",
    pattern: str = "merged_qa_*_train.json",
    streaming: bool = False,
):
    """Load VLM-3R's questions as stored rows.

    Both published layouts are read: the one file `vlm3r_vsi_205k.json`, and the three files
    `vsibench_train/merged_qa_{scannet,scannetpp,route_plan}_train.json`. Their records are alike.

    Args:
        path (`str` or `Path`):
            A JSON file (one list of records, or JSON Lines), or a folder of such files.
        media_layout (`str`, *optional*, defaults to `"vsi_590k"`):
            Where the videos are. `"vsi_590k"`: in VSI-590K's folders, `{data_source}/{scene_name}.mp4` with
            `scannetpp` as `scannetppv2`, so that one copy of the videos serves both datasets, as GeoVR does.
            `"vlm_3r"`: at the path that the record's own `video` field names.
        pattern (`str`, *optional*, defaults to `"merged_qa_*_train.json"`):
            Names of the files in a folder.
        streaming (`bool`, *optional*, defaults to `False`):
            Read records when they are asked for instead of preparing a table on disk.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: Columns `id, question_type, messages, answer, options`.
        `question_type` is `None` where the record has none.

    Raises:
        ValueError: No such file, an unknown layout, or a malformed record, which is named.
    """
    if media_layout not in ("vsi_590k", "vlm_3r"):
        raise ValueError(f'`media_layout` must be "vsi_590k" or "vlm_3r", got {media_layout!r}.')
    files = find_files(path, pattern, streaming=streaming)
    return load_rows(files, partial(_convert, media_layout=media_layout), streaming=streaming)


def _convert(record: Record, place: str, *, media_layout: MediaLayout) -> Row:
    video = require(record, "video", place) if media_layout == "vlm_3r" else _vsi_590k_path(record, place)
    messages = conversation_messages(record, {"type": "video", "video": video}, place)
    return {
        "id": identify(record, place),
        "question_type": record.get("question_type") or None,
        "messages": messages,
        "answer": messages[-1]["content"][0]["text"],
        "options": listed_options(messages[0]["content"][-1]["text"]),
    }


def _vsi_590k_path(record: Record, place: str) -> str:
    source = require(record, "data_source", place)
    if source not in VSI_590K_FOLDERS:
        raise ValueError(f"{place}: unknown `data_source` {source!r}, expected one of {sorted(VSI_590K_FOLDERS)}.")
    return str(PurePosixPath(VSI_590K_FOLDERS[source], f"{require(record, 'scene_name', place)}.mp4"))
