"""Which clips to compute targets of: those of a recipe, of a file of rows, or of a folder."""

from collections.abc import Iterator
from pathlib import Path

from geovr_hf.commands.build_data import open_rows
from geovr_hf.data import list_frames, normalize_row, resolve_media
from geovr_hf.data.rows import iterate_parts, name_row
from geovr_hf.recipe import DataSection, RowsSource
from geovr_hf.targets.precompute import ClipSource


VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".ogv"})


def is_video(path: str | Path) -> bool:
    """Whether a path is named as video files are."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def clips_of_recipe(data: DataSection) -> list[ClipSource]:
    """The clips of a recipe's rows, each once, those of `eval_path` too.

    Rooms and recordings are passed over: they bring their own targets.

    Raises:
        ValueError: No source has video files, or one is missing or malformed.
    """
    sources = [source for source in data.sources if isinstance(source, RowsSource)]
    if not sources:
        formats = ", ".join(source.format for source in data.sources)
        raise ValueError(
            f"Nothing to compute: the recipe's sources ({formats}) bring their own targets. Only rows about video "
            "files need a teacher."
        )
    files = [(source, path) for source in sources for path in (source.path, source.eval_path) if path]
    return _distinct(clip for source, path in files for clip in _clips_of_rows(source, path))


def clips_of_rows(path: str, row_format: str, media_root: str) -> list[ClipSource]:
    """The clips of a file of rows, each once.

    Raises:
        ValueError: The file is missing or malformed, or a path in it leaves the media root.
    """
    return _distinct(_clips_of_rows(RowsSource(format=row_format, path=path, media_root=media_root), path))


def clips_of_folder(folder: str | Path) -> list[ClipSource]:
    """The video files and folders of images below a folder, sorted by name. It may be one video file itself.

    Raises:
        ValueError: There is none.
    """
    folder = Path(folder).resolve()
    found = [
        ClipSource(path, path.relative_to(folder).as_posix() if path != folder else folder.name)
        for path in _media_below(folder)
    ]
    if not found:
        raise ValueError(f"{folder}: no video file ({', '.join(sorted(VIDEO_SUFFIXES))}) and no folder of images.")
    return found


def _clips_of_rows(source: RowsSource, path: str) -> Iterator[ClipSource]:
    root = Path(source.media_root).resolve()
    for position, row in enumerate(open_rows(source, path)):
        name = name_row(position, row)
        for part in iterate_parts(normalize_row(row, name)):
            if part["type"] == "video":
                clip = resolve_media(part["video"], root, name)
                # Named as training will name it, by the file behind any links: `unreadable.json` is looked up by that.
                yield ClipSource(clip, clip.relative_to(root).as_posix())


def _distinct(clips: Iterator[ClipSource]) -> list[ClipSource]:
    """Each file once, in the order of the rows: a clip has dozens of questions."""
    found = list({clip.path: clip for clip in clips}.values())
    if not found:
        raise ValueError("The rows hold no video.")
    return found


def _media_below(folder: Path) -> Iterator[Path]:
    """A folder of images is one clip, whatever else is in it."""
    if folder.is_file() or list_frames(folder):
        yield folder
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            yield from _media_below(path)
        elif is_video(path):
            yield path
