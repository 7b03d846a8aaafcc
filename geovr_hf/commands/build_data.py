"""From a recipe to the rows that a model is trained and evaluated on, and to who sets their geometric targets."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from torch.utils.data import ConcatDataset, Dataset

from geovr_hf.commands.rendered_rooms import RenderedRooms
from geovr_hf.data import (
    FrameSampling,
    RGBDRecording,
    VideoDataset,
    load_vlm_3r,
    load_vsi_590k,
    load_vsi_bench,
    rgbd_rows,
)
from geovr_hf.data.formats import read_records
from geovr_hf.recipe import DataSection, RgbdSource, RoomsSource, RowsSource, TeacherSection
from geovr_hf.targets import TargetFolder
from geovr_hf.targets.manifest import sampling_facts, sampling_text
from geovr_hf.teachers import Teacher, TeacherSpec, load_teacher


# Rooms and recordings make depth targets in tiles of this many pixels; their teachers' specs say so to the model.
GROUND_TRUTH_TILE = 28


@dataclass
class RunData:
    """The rows of a run.

    Args:
        train (`Dataset`): decoded rows to train on.
        evaluation (`Dataset`, *optional*): decoded rows to evaluate on.
        description (`str`): what the rows are, Markdown, for the model card.
        teacher_spec (`TeacherSpec`, *optional*): layout and terms of who sets the targets.
        online_teacher (`Teacher`, *optional*): a network that sets the targets during training.
        metric (`MetricDepth`, *optional*): name and terms of the network that measured metres.
        num_frames (`int`, *optional*): frames of every clip, if all have the same number.
        files (`list[tuple[str, VideoDataset]]`): those of the rows that come from files, each behind its file's name.
    """

    train: Dataset
    evaluation: Dataset | None
    description: str
    teacher_spec: TeacherSpec | None
    online_teacher: Teacher | None
    metric: Any
    num_frames: int | None
    files: list[tuple[str, VideoDataset]] = field(default_factory=list)

    def texts(self, limit: int = 2000) -> Iterator[str]:
        """The texts of the first training rows, from which a tiny tokenizer learns its words."""
        for row in islice(_rows(self.train), limit):
            for message in row.get("messages") or [*row["prompt"], *(row.get("completion") or [])]:
                for part in message["content"]:
                    if part["type"] == "text":
                        yield part["text"]
                    elif part["type"] == "video":
                        yield " ".join(f"<{seconds:.1f} seconds>" for seconds in part["timestamps"])


def _rows(dataset: Dataset) -> Iterator[dict[str, Any]]:
    for index in range(len(dataset)):
        yield dataset[index]


@dataclass
class _Part:
    """What one source contributes."""

    train: Dataset
    evaluation: Dataset | None
    description: str
    teacher_spec: TeacherSpec | None
    files: list[tuple[str, VideoDataset]] = field(default_factory=list)


def build_data(data: DataSection, teacher: TeacherSection | None, with_features: bool = True) -> RunData:
    """Open all sources of a recipe.

    Args:
        data ([`DataSection`]): the sources and how clips are sampled.
        teacher ([`TeacherSection`], *optional*): who sets the targets of video files.
        with_features (`bool`, *optional*, defaults to `True`): whether ground truths make feature targets if they can.

    Raises:
        ValueError: if a source is missing or malformed, a ground truth is named as the teacher of video files, or its
            targets were computed for clips that are sampled in another way.
    """
    online_teacher = video_teacher = None
    if teacher is not None and teacher.targets is not None:
        video_teacher = open_targets(teacher, data)
    elif teacher is not None:
        if teacher.name in ("rgbd", "synthetic"):
            raise ValueError(
                f"`teacher.name: {teacher.name}` is not needed: sources of format `rgbd` and `rooms` bring their own "
                "ground truth. `teacher` names the network that looks at video files."
            )
        online_teacher = video_teacher = load_teacher(teacher.name, teacher.metric, **teacher.options)
    # One model has alignment heads for one kind of features: the network's, if there are any.
    with_features = with_features and not (video_teacher is not None and video_teacher.spec.alignment_layers)
    parts = [_open(source, data, video_teacher, with_features) for source in data.sources]
    specs = [part.teacher_spec for part in parts if part.teacher_spec is not None]
    evaluations = [part.evaluation for part in parts if part.evaluation is not None]
    return RunData(
        train=_joined([part.train for part in parts]),
        evaluation=_joined(evaluations) if evaluations else None,
        description="\n".join(f"- {part.description}" for part in parts),
        teacher_spec=max(specs, key=lambda spec: len(spec.alignment_layers), default=None),
        online_teacher=online_teacher,
        metric=getattr(video_teacher, "metric", None),
        num_frames=data.num_frames,
        files=[file for part in parts for file in part.files],
    )


def open_targets(teacher: TeacherSection, data: DataSection) -> TargetFolder:
    """Open the folder of targets that a recipe names.

    Raises:
        ValueError: if it is none, or was made for clips that are sampled in another way than the recipe's.
    """
    folder = TargetFolder(teacher.targets, **teacher.options)
    sampling = FrameSampling(data.num_frames, data.fps, data.min_frames, data.max_frames)
    wanted = sampling_facts(sampling, data.image_rate)
    if folder.manifest.sampling != wanted:
        raise ValueError(
            f"`teacher.targets: {teacher.targets}` is of clips sampled by {sampling_text(folder.manifest.sampling)}, "
            f"but `data` samples by {sampling_text(wanted)}. Sample alike, or compute the targets again: geovr "
            f"precompute --data RECIPE --teacher {folder.spec.name} --out ANOTHER_FOLDER"
        )
    return folder


def _joined(datasets: list[Dataset]) -> Dataset:
    return datasets[0] if len(datasets) == 1 else ConcatDataset(datasets)


def _open(source: Any, data: DataSection, teacher: Teacher | None, with_features: bool) -> _Part:
    if isinstance(source, RoomsSource):
        return _open_rooms(source, _required_frames(data, "rooms"), with_features)
    if isinstance(source, RgbdSource):
        return _open_recording(source, _required_frames(data, "rgbd"))
    return _open_rows(source, data, teacher)


def _required_frames(data: DataSection, kind: str) -> int:
    if data.num_frames is None:
        raise ValueError(f"A source of format `{kind}` needs `data.num_frames`, the number of frames of a clip.")
    return data.num_frames


def _open_rooms(source: RoomsSource, num_frames: int, with_features: bool) -> _Part:
    from geovr_hf.data.rooms import FeatureSpec, RoomsDataset

    if source.num_eval_rooms and source.eval_seed == source.seed:
        raise ValueError(f"Evaluation rooms need a seed of their own: `seed` and `eval_seed` are both {source.seed}.")
    if source.turns > 1 and not source.in_memory:
        raise ValueError(
            f"`turns: {source.turns}` joins rows of a room, which must be in memory: set `in_memory: true`."
        )
    features = FeatureSpec() if with_features else None

    def rooms(count: int, seed: int, turns: int) -> Dataset:
        dataset = RoomsDataset(
            count,
            seed=seed,
            num_frames=num_frames,
            image_size=source.image_size,
            questions_per_room=source.questions_per_room,
            question_types=None if source.question_types is None else tuple(source.question_types),
            features=features,
            num_objects=source.num_objects,
            area=source.area,
            l_shaped=source.l_shaped,
            fov=source.fov,
            sweep=source.sweep,
            look_ahead=source.look_ahead,
            compass_walls=source.compass_walls,
        )
        return RenderedRooms(dataset, turns) if source.in_memory else dataset

    return _Part(
        train=rooms(source.num_rooms, source.seed, source.turns),
        evaluation=rooms(source.num_eval_rooms, source.eval_seed, 1) if source.num_eval_rooms else None,
        description=(
            f"{source.num_rooms} synthetic furnished rooms (seed {source.seed}), {num_frames} frames of "
            f"{source.image_size[0]} x {source.image_size[1]} pixels, {source.questions_per_room} questions each: "
            f"{'all types' if source.question_types is None else ', '.join(source.question_types)}."
        ),
        teacher_spec=load_teacher("synthetic", features=features).spec,
    )


def _open_recording(source: RgbdSource, num_frames: int) -> _Part:
    if not 0 <= source.eval_fraction < 1:
        raise ValueError(f"`eval_fraction` must be at least 0 and below 1, got {source.eval_fraction}.")
    recording = RGBDRecording(source.path)
    depth_size = (source.depth_tiles[0] * GROUND_TRUTH_TILE, source.depth_tiles[1] * GROUND_TRUTH_TILE)
    split = round(len(recording) * (1 - source.eval_fraction))

    def rows(recording: RGBDRecording, frames: tuple[int, int]) -> Dataset:
        return rgbd_rows(recording, num_frames, source.stride, depth_size=depth_size, frames=frames, hop=source.hop)

    train = rows(recording, (0, split))
    if source.backwards:
        train = ConcatDataset([train, rows(recording.backwards(), (len(recording) - split, len(recording)))])

    held_out = f"; frames from {split} on are kept out of training" if split < len(recording) else ""
    return _Part(
        train=train,
        evaluation=rows(recording, (split, len(recording))) if split < len(recording) else None,
        description=f"The RGB-D recording `{recording.folder.name}`, {len(recording)} frames{held_out}.",
        teacher_spec=load_teacher("rgbd", folder=source.path).spec,
    )


def _open_rows(source: RowsSource, data: DataSection, teacher: Teacher | None) -> _Part:
    folder = teacher if isinstance(teacher, TargetFolder) else None
    online = teacher if folder is None else None

    def rows(path: str) -> VideoDataset:
        return VideoDataset(
            open_rows(source, path),
            source.media_root,
            num_frames=data.num_frames,
            fps=data.fps,
            min_frames=data.min_frames,
            max_frames=data.max_frames,
            image_rate=data.image_rate,
            teacher=folder,
            image_rule=None if online is None else online.spec.image_rule,
            on_bad_sample=data.on_bad_sample,
        )

    train = rows(source.path)
    evaluation = None if source.eval_path is None else rows(source.eval_path)
    files = [(source.path, train), (source.eval_path, evaluation)]
    return _Part(
        train=train,
        evaluation=evaluation,
        description=f"{len(train)} questions of `{Path(source.path).name}` ({source.format}).",
        teacher_spec=None if teacher is None else teacher.spec,
        files=[(Path(path).name, dataset) for path, dataset in files if dataset is not None],
    )


def open_rows(source: RowsSource, path: str):
    """The stored rows of one file of a source, no more than its limit.

    Raises:
        ValueError: if there is no media root, or the file is missing or malformed.
    """
    if not Path(source.media_root).is_dir():
        raise ValueError(f"`media_root`: no such folder: {source.media_root}")
    if source.format == "rows" and not Path(path).is_file():  # the public formats may be read from the Hub
        raise ValueError(f"`{'path' if path == source.path else 'eval_path'}`: no such file: {path}")
    return _limited(_stored_rows(source.format, path), source.limit)


def _stored_rows(kind: str, path: str):
    """The stored rows of a file in one of the public formats, or of records that hold `messages`."""
    if kind == "vsi_590k":
        return load_vsi_590k(path)
    if kind == "vlm_3r":
        return load_vlm_3r(path)
    if kind == "vsi_bench":
        return load_vsi_bench(path)
    return [record for _, record in read_records(path, any_suffix=True)]


def _limited(rows, limit: int | None):
    if limit is None or limit >= len(rows):
        return rows
    return rows[:limit] if isinstance(rows, list) else rows.select(range(limit))
