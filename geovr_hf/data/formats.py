"""What the loaders of public formats share: reading records, building stored rows, wrapping both in `datasets`.

Records are parsed here rather than by `datasets`' own JSON builder: it infers column types from the first rows, and in
the public files columns appear late or change type. It also names no line in its errors.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TextIO


Record = Mapping[str, Any]
"""One JSON object of a published file."""

Row = dict[str, Any]
"""One stored row, see `geovr_hf.data.rows`."""

SPEAKERS = {"human": "user", "gpt": "assistant"}
PLACEHOLDER = re.compile(r"<(?:image|video)>\n?")
VIDEO_HEAD = "These are frames of a video.\n"
OPTION = re.compile(r"[A-Z]\. ")
ITEM_SEPARATOR = re.compile(r"[\s,]*")
LONGEST_RECORD = 1 << 24
"""Characters. A record that does not end by then is taken for malformed, not read on for ever."""


def stored_features():
    """The `datasets.Features` of every row that the loaders give."""
    datasets = _import_datasets()
    text = datasets.Value("string")
    part = {"type": text, "text": text, "image": text, "video": text}
    return datasets.Features(
        {
            "id": text,
            "question_type": text,
            "messages": datasets.List({"role": text, "content": datasets.List(part)}),
            "answer": text,
            "options": datasets.List(text),
        }
    )


def load_rows(files: list[str], convert: Callable[[Record, str], Row | None], *, streaming: bool):
    """Wrap the converted records of some files in a dataset.

    Args:
        files (`list[str]`): Local paths, or `hf://` paths when streaming. `.jsonl`, `.json` or `.parquet`.
        convert (`Callable`): Gives the stored row of a record and its name, or `None` to leave it out.
        streaming (`bool`): Whether to read records only when they are asked for.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: Stored rows with the columns of [`stored_features`].

    Raises:
        ValueError: A record is malformed; the message names file and line. When streaming, on reading it.
        ImportError: `datasets` is not installed.
    """
    datasets = _import_datasets()
    generate = partial(_generate_rows, convert=convert)
    kwargs = {"features": stored_features(), "gen_kwargs": {"files": files}}
    if streaming:
        return datasets.IterableDataset.from_generator(generate, **kwargs)
    # `datasets` caches by what it is called with, here file names. Their content may change: put that in the key.
    stamps = [(path, Path(path).stat().st_mtime_ns, Path(path).stat().st_size) for path in files]
    key = repr((stamps, datasets.fingerprint.Hasher.hash(convert))).encode()
    try:
        return datasets.Dataset.from_generator(generate, fingerprint=hashlib.sha256(key).hexdigest()[:32], **kwargs)
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise


def find_files(path_or_id: str | Path, filename: str, *, streaming: bool) -> list[str]:
    """The files of a published dataset.

    Args:
        path_or_id (`str` or `Path`): A file; a folder that holds `filename`; or a dataset id `owner/name` on the Hub.
        filename (`str`): Name or glob pattern of files in the folder, or anywhere in the repository.
        streaming (`bool`): Whether a file on the Hub is to be read remotely instead of downloaded.

    Returns:
        `list[str]`: Sorted paths, at least one.

    Raises:
        ValueError: Nothing there.
    """
    path = Path(path_or_id)
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        if files := sorted(str(file) for file in path.glob(filename)):
            return files
        raise ValueError(f"{path}: this folder has no file {filename!r}.")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path_or_id)) or path.suffix in (".json", ".jsonl", ".parquet"):
        raise ValueError(f"{path_or_id}: no such file or folder, and no dataset id of the form 'owner/name'.")
    from huggingface_hub import hf_hub_download, list_repo_files

    names = [
        name
        for name in sorted(list_repo_files(str(path_or_id), repo_type="dataset"))
        if fnmatch(PurePosixPath(name).name, filename)
    ]
    if not names:
        raise ValueError(f"{path_or_id}: this dataset on the Hub has no file {filename!r}.")
    if streaming:
        return [f"hf://datasets/{path_or_id}/{name}" for name in names]
    return [hf_hub_download(str(path_or_id), name, repo_type="dataset") for name in names]


def conversation_messages(record: Record, media: Row, place: str) -> list[Row]:
    """Messages of a LLaVA-style conversation, the medium at the head of the first question.

    Args:
        record (`Mapping`): Has `conversations`: dicts of `from` ("human" and "gpt" in turn) and `value`.
        media (`dict`): The content part of the clip or picture.
        place (`str`): File and line, for errors.

    Returns:
        `list[dict]`: Messages. The placeholder (`<image>`, for videos too) and the sentence that the frames are a
        video's are gone from the text: the content part says both.

    Raises:
        ValueError: A missing field, an unknown speaker, speakers out of turn, or not exactly one placeholder.
    """
    turns = require(record, "conversations", place)
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise ValueError(f"{place}: `conversations` must be a list of dicts, got {turns!r}.")
    speakers = [require(turn, "from", place) for turn in turns]
    if not speakers or len(speakers) % 2 or speakers != ["human", "gpt"] * (len(speakers) // 2):
        raise ValueError(f'{place}: "human" and "gpt" must speak in turn, got {speakers}.')
    texts = [str(require(turn, "value", place)) for turn in turns]
    if (placeholders := sum(len(PLACEHOLDER.findall(text)) for text in texts)) != 1:
        raise ValueError(f"{place}: expected one <image> or <video> placeholder, got {placeholders}.")
    messages = [
        {"role": SPEAKERS[speaker], "content": [{"type": "text", "text": PLACEHOLDER.sub("", text)}]}
        for speaker, text in zip(speakers, texts, strict=True)
    ]
    question = messages[0]["content"][0]
    question["text"] = question["text"].removeprefix(VIDEO_HEAD)
    messages[0]["content"].insert(0, media)
    return messages


def listed_options(question: str) -> list[str] | None:
    """The lines "A. …", "B. …" of a question, or `None` if it has none."""
    return [line.strip() for line in question.splitlines() if OPTION.match(line)] or None


def require(record: Record, field: str, place: str) -> Any:
    """A field that must be there; the error names those that are, so that a misspelt one is seen."""
    if record.get(field) in (None, ""):
        raise ValueError(f"{place}: the field {field!r} is missing; the record has {sorted(record)}.")
    return record[field]


def identify(record: Record, place: str) -> str:
    """The record's `id`, or its place in its file where it has none."""
    return place if record.get("id") in (None, "") else str(record["id"])


def read_records(path: str, any_suffix: bool = False) -> Iterator[tuple[str, Record]]:
    """Read the objects of a JSON Lines file, a file with one JSON list, or a parquet file, one at a time.

    Args:
        path (`str`): Local path or any path that `fsspec` opens.
        any_suffix (`bool`, *optional*, defaults to `False`): Whether a file of another suffix is read as JSON, too.

    Yields:
        `tuple[str, dict]`: The place of the record ("vsi_590k.jsonl, line 3") and the record.

    Raises:
        ValueError: Malformed JSON, text that is not UTF-8, a record that is no object, or another kind of file.
    """
    if path.endswith(".parquet"):
        records = _read_parquet(path)
    elif any_suffix or path.endswith((".json", ".jsonl")):
        records = _read_json(path)
    else:
        raise ValueError(f"{path}: expected a .jsonl, .json or .parquet file.")
    try:
        for place, record in records:
            place = f"{Path(path).name}, {place}"
            if not isinstance(record, Mapping):
                raise ValueError(f"{place}: expected an object, got {record!r}.")
            yield place, record
    except UnicodeDecodeError as error:  # it tells neither file nor line: text is decoded in blocks
        raise ValueError(f"{Path(path).name}, {_not_utf8(path)}: not UTF-8: {error}. Save it as UTF-8.") from error


def _read_parquet(path: str) -> Iterator[tuple[str, Any]]:
    import fsspec
    import pyarrow.parquet

    with fsspec.open(path, "rb") as file:
        records = (
            record for batch in pyarrow.parquet.ParquetFile(file).iter_batches() for record in batch.to_pylist()
        )
        for number, record in enumerate(records, start=1):
            yield f"record {number}", record


def _read_json(path: str) -> Iterator[tuple[str, Any]]:
    import fsspec

    with fsspec.open(path, "rt", encoding="utf-8-sig") as file:
        first_line, head = 1, file.read(1)
        while head.isspace():
            first_line, head = first_line + (head == "\n"), file.read(1)
        if head == "[":
            for number, record in enumerate(_read_list(file, path), start=1):
                yield f"record {number}", record
            return
        for number, line in enumerate(file, start=first_line):
            line, head = head + line, ""
            if line.strip():
                yield f"line {number}", _parse(line, f"{Path(path).name}, line {number}")


def _not_utf8(path: str) -> str:
    """The place of the first line that is not UTF-8."""
    import fsspec

    with fsspec.open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"line {number}"
    return "a line"


def _read_list(file: TextIO, path: str) -> Iterator[Any]:
    """The items of a JSON list after its "[", without holding the whole file in memory."""
    decoder, text, position, number = json.JSONDecoder(), "", 0, 1
    while True:
        position = ITEM_SEPARATOR.match(text, position).end()
        if text.startswith("]", position):
            return
        try:
            if position == len(text):
                raise json.JSONDecodeError("the list does not end", text, position)
            record, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            # The record may go on beyond what was read so far.
            chunk = file.read(1 << 20)
            if not chunk or len(text) - position > LONGEST_RECORD:
                raise ValueError(f"{Path(path).name}, record {number}: not JSON: {error}.") from error
            text, position = text[position:] + chunk, 0
            continue
        number += 1
        yield record


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not JSON: {error}.") from error


def _generate_rows(files: list[str], convert: Callable[[Record, str], Row | None]) -> Iterator[Row]:
    for path in files:
        for place, record in read_records(path):
            if (row := convert(record, place)) is not None:
                yield row


def _import_datasets():
    try:
        import datasets
    except ImportError as error:
        raise ImportError("Loading published datasets needs `datasets`: pip install datasets") from error
    return datasets
