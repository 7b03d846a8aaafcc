"""Recipes: one YAML file says what a training run is. Loading one checks every option before any work is done.

A recipe has the sections of [`Recipe`]. `training` takes the fields of [`GeoVRTrainingArguments`], or with `rewards`
those of [`GeoVRGRPOConfig`], `lora` those of `peft.LoraConfig` and `model.config` those of [`GeoVRConfig`], all under
their own names. On the command line any option can be overridden by `--section.key value`, or by `--key value` where
only one section has the key; `--section null` leaves a section out.
"""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from geovr_hf.recipe_parsing import (
    build,
    check_options,
    coerce,
    full_key,
    is_null,
    option_types,
    parse_overrides,
    read_yaml,
    set_key,
    unknown_option,
)


TINY = "tiny"
# The recipe says these elsewhere: `output` and `rewards`.
RESERVED_TRAINING_OPTIONS = ("output_dir", "reward_weights")
# What one probably means who gives a section a single value.
MEANT_BY_VALUE = {"model": "base", "teacher": "name", "lora": "r"}


@dataclass
class ModelSection:
    """The model to train.

    Args:
        base (`str`): a Qwen3-VL or GeoVR checkpoint (folder or Hub id), an adapter to train further, or `"tiny"` for
            a random model of about a million parameters with a tokenizer made from the training texts.
        dtype (`str`, *optional*, defaults to `"float32"`): of the weights. `training.bf16` computes in bfloat16 all
            the same and keeps the weights, which small updates would otherwise not move, in float32.
        attn_implementation (`str`, *optional*): `"sdpa"`, `"flash_attention_2"`, …; by default transformers' choice.
        load_in_4bit (`bool`, *optional*, defaults to `False`): keep the language model's weights in 4 bits (QLoRA).
            Needs `lora` or an adapter as base, bitsandbytes and a GPU.
        config (`dict`, *optional*): fields of [`GeoVRConfig`] to set, such as `objectives`.
        tiny (`dict`, *optional*): sizes of the tiny model, arguments of `geovr_hf.tiny.make_tiny_config`.
    """

    base: str
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attn_implementation: str | None = None
    load_in_4bit: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    tiny: dict[str, Any] | None = None


@dataclass
class ProcessorSection:
    """How large frames reach the model.

    Args:
        min_clip_pixels (`int`, *optional*): fewest pixels of all frames of a clip together; smaller ones are enlarged.
        max_clip_pixels (`int`, *optional*): most; larger ones are shrunk. By default both are the processor's own.
    """

    min_clip_pixels: int | None = None
    max_clip_pixels: int | None = None


@dataclass
class RoomsSource:
    """Synthetic furnished rooms with exact geometry and questions. They are their own teacher.

    Args:
        num_rooms (`int`): rooms to train on.
        num_eval_rooms (`int`, *optional*, defaults to 0): rooms to evaluate on.
        seed (`int`, *optional*, defaults to 0): seed of the training rooms.
        eval_seed (`int`, *optional*, defaults to 1): seed of the evaluation rooms; two seeds have no room in common.
        image_size (`list[int]`, *optional*, defaults to `[96, 128]`): height and width of the frames in pixels,
            multiples of 32.
        questions_per_room (`int`, *optional*, defaults to 8): questions on each clip, a row each.
        question_types (`list[str]`, *optional*): which of the VSI-Bench types to ask; by default all.
        num_objects (`list[int]`, *optional*, defaults to `[10, 14]`): least and greatest number of objects.
        area (`list[float]`, *optional*, defaults to `[10, 50]`): least and greatest floor area in square metres.
        l_shaped (`float`, *optional*, defaults to 0.3): share of L-shaped rooms.
        fov (`list[float]`, *optional*, defaults to `[60, 90]`): least and greatest horizontal field of view, degrees.
        sweep (`list[float]`, *optional*, defaults to `[230, 340]`): least and greatest angle by which the gaze turns,
            degrees.
        look_ahead (`bool`, *optional*, defaults to `False`): look where the path leads instead of sweeping the room.
        compass_walls (`bool`, *optional*, defaults to `False`): paint the walls so that a frame shows where it looks.
        in_memory (`bool`, *optional*, defaults to `False`): render every room once, before training, and keep it.
            Otherwise rooms are rendered again in each epoch.
        turns (`int`, *optional*, defaults to 1): questions of a room that share a training row, as turns of one
            conversation about one clip; needs `in_memory`. Evaluation asks every question by itself.
    """

    format: Literal["rooms"]
    num_rooms: int
    num_eval_rooms: int = 0
    seed: int = 0
    eval_seed: int = 1
    image_size: tuple[int, int] = (96, 128)
    questions_per_room: int = 8
    question_types: list[str] | None = None
    num_objects: tuple[int, int] = (10, 14)
    area: tuple[float, float] = (10, 50)
    l_shaped: float = 0.3
    fov: tuple[float, float] = (60, 90)
    sweep: tuple[float, float] = (230, 340)
    look_ahead: bool = False
    compass_walls: bool = False
    in_memory: bool = False
    turns: int = 1


@dataclass
class RgbdSource:
    """A recorded RGB-D folder, cut into clips of `data.num_frames`, with questions that the recording answers itself.

    Depth, camera path and scale are the recorded ones. The split is by time: no frame is on both sides.

    Args:
        path (`str`): the folder.
        eval_fraction (`float`, *optional*, defaults to 0.2): share of the recording, from its end, that is kept out of
            training and evaluated on.
        stride (`int`, *optional*, defaults to 1): recorded frames from one frame of a clip to the next.
        hop (`int`, *optional*, defaults to 1): recorded frames from the start of one clip to the start of the next.
        backwards (`bool`, *optional*, defaults to `False`): train on each clip in reverse, too.
        depth_tiles (`list[int]`, *optional*, defaults to `[8, 8]`): rows and columns of the depth targets, in tiles of
            the depth head (28 pixels unless the model says otherwise).
    """

    format: Literal["rgbd"]
    path: str
    eval_fraction: float = 0.2
    stride: int = 1
    hop: int = 1
    backwards: bool = False
    depth_tiles: tuple[int, int] = (8, 8)


@dataclass
class RowsSource:
    """Questions on video files, in one of the public formats or as rows of `messages`.

    Args:
        path (`str`): the file of rows: JSON, JSON lines or Parquet.
        media_root (`str`): folder that the rows' video paths are relative to and may not leave.
        eval_path (`str`, *optional*): a second file of rows in the same format, to evaluate on.
        limit (`int`, *optional*): use only the first rows of each file; at least 1.
    """

    format: Literal["vsi_590k", "vlm_3r", "vsi_bench", "rows"]
    path: str
    media_root: str
    eval_path: str | None = None
    limit: int | None = None


Source = RoomsSource | RgbdSource | RowsSource
SOURCES = typing.get_args(Source)


@dataclass
class DataSection:
    """What the model learns from. Every source is read in full in each epoch.

    Args:
        sources (`list`): mappings with a `format` (`rooms`, `rgbd`, `vsi_590k`, `vlm_3r`, `vsi_bench`, `rows`) and
            that format's options.
        num_frames (`int`, *optional*): frames of a clip, evenly spread. Exclusive with `fps`.
        fps (`float`, *optional*): frames per second, between `min_frames` and `max_frames` of them.
        min_frames (`int`, *optional*, defaults to 4): fewest frames when sampling by `fps`.
        max_frames (`int`, *optional*, defaults to 32): most frames when sampling by `fps`.
        image_rate (`float`, *optional*, defaults to 1.0): images per second of clips that are folders of images.
        on_bad_sample (`str`, *optional*, defaults to `"raise"`): what an unreadable clip does: stop the run, or be
            skipped, counted and listed.
    """

    sources: list[Any]
    num_frames: int | None = None
    fps: float | None = None
    min_frames: int = 4
    max_frames: int = 32
    image_rate: float = 1.0
    on_bad_sample: Literal["raise", "skip"] = "raise"


@dataclass
class TeacherSection:
    """Where the geometric targets of video files come from. Rooms and recordings need none.

    Args:
        name (`str`, *optional*): name or Hub id of a network that is asked during training, for `load_teacher`.
        targets (`str`, *optional*): instead, a folder of targets that `geovr precompute` made.
        metric (`str`, *optional*): network that says how many metres a unit of `name` is.
        options (`dict`, *optional*): further arguments of `load_teacher`, or with `targets` of `TargetFolder`.
    """

    name: str | None = None
    targets: str | None = None
    metric: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Recipe:
    """A training run, every option checked.

    Args:
        output (`str`): folder of the trained checkpoint, its card and the intermediate checkpoints.
        model ([`ModelSection`]): the model to train.
        data ([`DataSection`]): what it learns from.
        processor ([`ProcessorSection`], *optional*): how large frames reach it.
        teacher ([`TeacherSection`], *optional*): who sets the geometric targets of video files.
        training (`dict`, *optional*): fields of [`GeoVRTrainingArguments`] that differ from their defaults; with
            `rewards`, of [`GeoVRGRPOConfig`].
        lora (`dict`, *optional*): fields of `peft.LoraConfig`; without it all weights are trained.
        rewards (`dict`, *optional*): weights of rewards by their names (`answer`, `mean_relative_accuracy`,
            `exact_choice`, `format`). With them the recipe is one of `geovr grpo`, else one of `geovr train`.
    """

    output: str
    model: ModelSection
    data: DataSection
    processor: ProcessorSection = field(default_factory=ProcessorSection)
    teacher: TeacherSection | None = None
    training: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] | None = None
    rewards: dict[str, float] | None = None


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe and check all of its options.

    Args:
        name (`str` or `Path`): a YAML file, or the name of a recipe that comes with the package, such as `"paper"`.
        overrides (`Sequence[str]`, *optional*): command-line words `--section.key value`; values are read as YAML.
            `--section null` leaves a section out, as if the recipe had none.

    Returns:
        `Recipe`: The run it describes.

    Raises:
        ValueError: if there is no such recipe, or an option is unknown, missing or of the wrong type; the message
            names it and, for an unknown one, the closest that exists.
    """
    path = recipe_path(name)
    tree = read_yaml(path)
    try:
        _check_shape(tree)  # overrides walk through the sections
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    given = parse_overrides(overrides)
    # Whole sections come first: `--teacher.name x --teacher null` makes a new one. And a section goes before keys that
    # end so: `teacher` is a field of the model's configuration, too.
    for key, value in sorted(given.items(), key=lambda item: item[0] not in _sections()):
        if key in _sections():
            if not is_null(value):
                raise ValueError(f"`--{key}` is a section of options, got {str(value)!r}.{_meant(key, value)}")
            tree.pop(key, None)
        else:
            set_key(tree, full_key(key, known_keys(tree)), value)
    try:
        return _check(tree)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _sections() -> list[str]:
    return [name for name in option_types(Recipe) if name != "output"]


def _meant(section: str, value: Any) -> str:
    """What to do instead of giving a section a single value."""
    if section in MEANT_BY_VALUE and not isinstance(value, (list, bool)):
        return f" Did you mean `{section}.{MEANT_BY_VALUE[section]}`?"
    return " Set its options one by one, or leave it out by null."


def _check_shape(tree: Mapping[str, Any]) -> None:
    """Check that sections are mappings and sources a list, without looking at their options.

    Raises:
        ValueError: naming the section and what it probably means.
    """
    for name in _sections():
        section = tree.get(name)
        if section is not None and not isinstance(section, Mapping):
            raise ValueError(f"`{name}` must be a section of options, got {section!r}.{_meant(name, section)}")
    for name, kind, wanted in (
        ("model.config", Mapping, "a section of options"),
        ("model.tiny", Mapping, "a section of options"),
        ("data.sources", list, "a list, each source behind a `-`"),
    ):
        section, key = name.split(".")
        value = (tree.get(section) or {}).get(key)
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"`{name}` must be {wanted}, got {value!r}.")


def recipe_path(name: str | Path) -> Path:
    """Path of a recipe given by path or by the name of one that comes with the package."""
    own = {Path(str(file)).stem: Path(str(file)) for file in resources.files("geovr_hf.recipes").iterdir()}
    own = {stem: file for stem, file in own.items() if file.suffix == ".yaml"}
    if Path(name).is_file():
        return Path(name)
    if str(name) in own:
        return own[str(name)]
    raise ValueError(f"No recipe {str(name)!r}: it is neither a file nor one of {', '.join(sorted(own))}.")


def known_keys(tree: Mapping[str, Any]) -> list[str]:
    """Dotted names of all options that a recipe with the sources of `tree` can have."""
    keys = ["output"]
    for section, options in _section_types(tree).items():
        keys += [f"{section}.{name}" for name in options]
    for number, source in enumerate((tree.get("data") or {}).get("sources") or []):
        if isinstance(source, Mapping) and (kind := _source_class(source.get("format"))) is not None:
            keys += [f"data.sources.{number}.{name}" for name in option_types(kind)]
    return [key for key in keys if key != "data.sources"]


def _section_types(tree: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Annotations of the options of every section, by section."""
    from peft import LoraConfig

    from geovr_hf import GeoVRConfig
    from geovr_hf.tiny import make_tiny_config
    from geovr_hf.trainers import GeoVRTrainingArguments
    from geovr_hf.trainers.rewards import REWARDS

    if tree.get("rewards"):
        from geovr_hf.trainers.grpo_config import GeoVRGRPOConfig

        training = option_types(GeoVRGRPOConfig)
    else:
        training = option_types(GeoVRTrainingArguments)
    tiny = typing.get_type_hints(make_tiny_config)
    return {
        "model": option_types(ModelSection),
        "model.config": option_types(GeoVRConfig),
        "model.tiny": {name: hint for name, hint in tiny.items() if name not in ("processor", "return")},
        "processor": option_types(ProcessorSection),
        "data": option_types(DataSection),
        "teacher": option_types(TeacherSection),
        "training": {name: hint for name, hint in training.items() if name not in RESERVED_TRAINING_OPTIONS},
        "lora": option_types(LoraConfig),
        "rewards": dict.fromkeys(REWARDS, float),
    }


def _source_class(name: Any) -> type | None:
    """The source whose `format` may be `name`."""
    return next((kind for kind in SOURCES if name in typing.get_args(option_types(kind)["format"])), None)


def _check(tree: Mapping[str, Any]) -> Recipe:
    """Check a recipe tree section by section and build the dataclasses."""
    known = _section_types(tree)
    for section in tree:
        if section not in option_types(Recipe):
            raise unknown_option(str(section), option_types(Recipe))
    for section in ("output", "model", "data"):
        if tree.get(section) is None:
            raise ValueError(f"`{section}` is missing.")
    model = build(ModelSection, tree["model"], "model")
    if "teacher" in model.config:
        raise ValueError(
            f"`model.config.teacher` tells who taught a model, which the trainer writes: got "
            f"{str(model.config['teacher'])!r}. Take it out; `teacher.name` chooses the teacher."
        )
    model.config = check_options(model.config, known["model.config"], "model.config")
    model.tiny = check_options(model.tiny, known["model.tiny"], "model.tiny")
    teacher, lora, rewards = tree.get("teacher"), tree.get("lora"), tree.get("rewards")
    if model.tiny and model.base != TINY:
        raise ValueError(
            f"`model.tiny` sizes a model with `model.base: {TINY}`, but it is {model.base!r}. Take it out, or add "
            "`--model.tiny null`."
        )
    if lora is not None and model.base == TINY:
        raise ValueError(f"`lora` adapts a checkpoint, which `model.base: {TINY}` is not. Take one of them out.")
    if model.load_in_4bit and model.base == TINY:
        raise ValueError(f"`model.load_in_4bit` quantizes a checkpoint, which `model.base: {TINY}` is not.")
    return Recipe(
        output=coerce(tree["output"], str, "output"),
        model=model,
        data=_check_data(tree["data"]),
        processor=build(ProcessorSection, tree.get("processor"), "processor"),
        teacher=None if teacher is None else _check_teacher(teacher),
        training=check_options(tree.get("training"), known["training"], "training"),
        lora=None if lora is None else check_options(lora, known["lora"], "lora"),
        rewards=check_options(rewards, known["rewards"], "rewards") or None,
    )


def _check_teacher(options: Any) -> TeacherSection:
    from geovr_hf.teachers import GROUND_TRUTHS

    teacher = build(TeacherSection, options, "teacher")
    if (teacher.name is None) == (teacher.targets is None):
        given = "neither" if teacher.name is None else f"{teacher.name!r} and {teacher.targets!r}"
        raise ValueError(
            f"`teacher` needs `name`, a network, or `targets`, a folder of its targets, and not both: got {given}. To "
            "replace a recipe's network by a folder, add `--teacher null`."
        )
    if teacher.targets is not None and teacher.metric is not None:
        raise ValueError(
            f"The scale of `teacher.targets: {teacher.targets}` is computed already: leave out `teacher.metric`, got "
            f"{teacher.metric!r}."
        )
    if teacher.name not in GROUND_TRUTHS:  # which are refused when data are opened, whatever their options
        teacher.options = check_options(teacher.options, _teacher_options(teacher), "teacher.options")
    return teacher


def _teacher_options(teacher: TeacherSection) -> dict[str, Any]:
    """Annotations of the further arguments of what opens the teacher."""
    from geovr_hf.targets import TargetFolder
    from geovr_hf.teachers.loading import load_network_teacher

    hints = typing.get_type_hints(load_network_teacher if teacher.targets is None else TargetFolder.__init__)
    return {name: hint for name, hint in hints.items() if name not in ("name", "metric", "path", "return")}


def _check_data(options: Any) -> DataSection:
    from geovr_hf.data.images import check_image_rate

    data = build(DataSection, options, "data")
    if not data.sources:
        raise ValueError("`data.sources` is empty; give at least one source.")
    formats = [name for kind in SOURCES for name in typing.get_args(option_types(kind)["format"])]
    for number, source in enumerate(data.sources):
        where = f"data.sources.{number}"
        name = source.get("format") if isinstance(source, Mapping) else source
        if (kind := _source_class(name)) is None:
            raise ValueError(f"`{where}` must be a mapping with a `format` out of {', '.join(formats)}, got {name!r}.")
        data.sources[number] = source = build(kind, source, where)
        if isinstance(source, RowsSource) and source.limit is not None and source.limit < 1:
            raise ValueError(f"`{where}.limit` must be at least 1, or null for all rows, got {source.limit}.")
    if data.num_frames is not None and data.fps is not None:
        raise ValueError(f"Give `data.num_frames` or `data.fps`, not both: got {data.num_frames} and {data.fps}.")
    check_image_rate(data.image_rate, "`data.image_rate`")
    return data
