"""A look at every row before a training run, at no clip: what `--check` does beyond a run's own checks."""

from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from geovr_hf.data import VideoDataset, normalize_row, resolve_media
from geovr_hf.data.images import choose_images
from geovr_hf.data.rows import iterate_parts, name_row
from geovr_hf.targets import TargetFolder
from geovr_hf.targets.digests import source_digest


SHOWN_PROBLEMS = 20


def check_rows(files: Sequence[tuple[str, VideoDataset]]) -> None:
    """Check that all rows are well formed, that their media exist, and that a folder of targets has theirs.

    Media are not decoded. A folder of targets knows them by their content, so with one each file is read once.

    Args:
        files (`Sequence[tuple[str, VideoDataset]]`): the rows of each file, behind its name.

    Raises:
        ValueError: naming the rows that training would stop at, the first ones if there are many.
    """
    problems: list[str] = []
    with tqdm(total=sum(len(dataset) for _, dataset in files), desc="Checking rows", unit="row") as bar:
        for name, dataset in files:
            look = _Look(dataset)
            for position in dataset.positions:
                try:
                    look.at_row(position)
                except ValueError as error:
                    problems.append(f"{name}, {error}")
                bar.update()
    if problems:
        rest = len(problems) - SHOWN_PROBLEMS
        more = [f"… and {rest} more"] if rest > 0 else []
        raise ValueError("\n".join([f"{len(problems)} rows are bad:", *problems[:SHOWN_PROBLEMS], *more]))


class _Look:
    """Looks at the rows of one data set, and at each medium once: a clip has dozens of questions."""

    def __init__(self, dataset: VideoDataset) -> None:
        self.rows, self.decoder = dataset.rows, dataset.decoder
        self.media: dict[tuple[str, Path], str | None] = {}
        teacher = self.decoder.teacher
        self.folder = teacher if isinstance(teacher, TargetFolder) and teacher.missing == "raise" else None
        self.contents = set() if self.folder is None else {record.content for record in self.folder.records()}

    def at_row(self, position: int) -> None:
        row = self.rows[position]
        name = name_row(position, row)
        for part in iterate_parts(normalize_row(row, name)):
            kind = part["type"]
            if kind == "text" or not isinstance(part[kind], str):  # a picture may be in the row itself
                continue
            medium = kind, resolve_media(part[kind], self.decoder.media_root, name)
            if medium not in self.media:
                self.media[medium] = self._problem(*medium)
            if (problem := self.media[medium]) is not None:
                raise ValueError(f"{name}: {problem}")

    def _problem(self, kind: str, path: Path) -> str | None:
        is_clip_folder = kind == "video" and path.is_dir()
        if not is_clip_folder and not path.is_file():
            return f"{path}: no such file."
        try:
            frames = choose_images(path, self.decoder.sampling, self.decoder.image_rate)[2] if is_clip_folder else ()
            if kind == "image" or self.folder is None or source_digest(path, frames) in self.contents:
                return None
        except ValueError as error:
            return str(error)
        return (
            f"{self.folder.path} has no targets of {path}. Compute what is missing: geovr precompute --data RECIPE "
            f"--teacher {self.folder.spec.name} --out {self.folder.path}"
        )
