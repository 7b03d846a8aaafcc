r"""Compute a teacher's targets once, for all clips of a data set.

  geovr precompute --data my-recipe.yaml --out targets/vggt
  geovr precompute --data vsi_590k.jsonl --format vsi_590k --media-root VSI-590K --fps 2 \
      --teacher facebook/VGGT-1B --metric depth-anything/DA3METRIC-LARGE --preset 8bit --out targets/vggt
  python -m accelerate launch --num_processes 8 -m geovr_hf.cli precompute --data videos --teacher ... --out ...
  geovr precompute --out targets/vggt --verify
  geovr precompute --out targets/vggt --push me/vggt-targets --private
  geovr precompute --out targets/vggt --pull me/vggt-targets

A recipe gives its clips, frame sampling and teacher; its options can be overridden as with `geovr train`. Clips whose
targets are there already are passed over, so the same command continues after an interruption. Clips that cannot be
read are listed in unreadable.json and tried again next time. Train with `teacher: {targets: targets/vggt}`.
"""

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from accelerate import PartialState

    from geovr_hf.data import FrameSampling
    from geovr_hf.recipe import Recipe
    from geovr_hf.targets import TargetFormat
    from geovr_hf.targets.precompute import ClipSource, Outcome

TAKES_OVERRIDES = True  # of the recipe that --data may name

ROW_FORMATS = ("vsi_590k", "vlm_3r", "vsi_bench", "rows")
SAMPLING = ("num_frames", "fps", "min_frames", "max_frames")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `geovr precompute`."""
    parser.add_argument("--out", help="folder of targets; by default the recipe's `teacher.targets`")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--verify", action="store_true", help="check every file of the folder, and compute nothing")
    action.add_argument("--push", metavar="REPO", help="upload the finished folder to the Hub, and compute nothing")
    action.add_argument("--pull", metavar="REPO", help="download it from the Hub, and compute nothing")
    parser.add_argument("--private", action="store_true", help="make the data set of --push private")

    clips = parser.add_argument_group("clips")
    clips.add_argument("--data", help="recipe (YAML file or paper, ...), file of rows, video, or folder of videos")
    clips.add_argument("--format", choices=ROW_FORMATS, help="format of a file of rows")
    clips.add_argument("--media-root", help="folder that the paths in a file of rows are relative to")
    clips.add_argument("--num-frames", type=int, help="frames of a clip, evenly spread")
    clips.add_argument("--fps", type=float, help="frames per second instead (default: 2)")
    clips.add_argument("--min-frames", type=int, help="fewest frames with --fps (default: 4)")
    clips.add_argument("--max-frames", type=int, help="most frames with --fps (default: 32)")
    clips.add_argument("--image-rate", type=float, help="images per second of folders of images (default: 1)")

    teacher = parser.add_argument_group("teacher")
    teacher.add_argument("--teacher", help="name or Hub id; by default the recipe's")
    teacher.add_argument("--metric", help="network that says how many metres a unit is; by default the recipe's")
    teacher.add_argument("--compile", action="store_true", help="compile it: a slow start, then faster on a GPU")
    teacher.add_argument("--frames-chunk-size", type=int, help="frames that pass at once, where memory is short")

    stored = parser.add_argument_group("storage")
    stored.add_argument("--preset", choices=("full", "8bit", "compact"), default="full", help="default: full")
    stored.add_argument("--features", help="bfloat16, float32, float16, int8, float8 or int4 instead of the preset's")
    stored.add_argument("--depth", help="float16 or float32 instead")
    stored.add_argument("--confidence", help="float16, float32 or uint4 instead")
    stored.add_argument("--depth-scale", type=float, help="size of depth maps along each axis, 0.5 for half")
    stored.add_argument("--workers", type=int, default=4, help="processes that decode ahead (default: 4)")


def run(arguments: Namespace) -> None:
    """Compute what is missing, or check, push or pull what is there."""
    from geovr_hf.recipe import load_recipe

    recipe = None
    if arguments.data is not None and is_recipe(arguments.data):
        recipe = load_recipe(arguments.data, arguments.overrides)
    elif arguments.overrides:
        raise ValueError(f"unrecognized arguments: {' '.join(arguments.overrides)}. Only a recipe can be overridden.")
    out = arguments.out or (recipe and recipe.teacher and recipe.teacher.targets)
    if out is None:
        raise ValueError("--out is missing: which folder of targets?")
    if arguments.private and not arguments.push:
        raise ValueError("--private belongs to --push: name the data set to make.")
    if arguments.verify:
        verify(Path(out))
    elif arguments.push:
        from geovr_hf.targets import push_target_folder

        print(push_target_folder(out, arguments.push, private=arguments.private or None))
    elif arguments.pull:
        from geovr_hf.targets import TargetFolder, pull_target_folder

        folder = TargetFolder(pull_target_folder(arguments.pull, out))
        print(f"{len(folder)} files of {folder.spec.name} in {out}: all sound.")
    else:
        compute(arguments, recipe, Path(out))


def verify(out: Path) -> None:
    """Check every file of a folder.

    Raises:
        ValueError: Naming each bad file.
    """
    from geovr_hf.targets import TargetFolder

    folder = TargetFolder(out)
    problems = folder.verify(progress=True)
    if problems:
        raise ValueError("\n".join([f"{len(problems)} files of {len(folder)} are bad or missing:", *problems]))
    print(f"{len(folder)} files of {folder.spec.name} in {out}: all sound.")


def compute(arguments: Namespace, recipe: "Recipe | None", out: Path) -> None:
    """Compute the targets that a folder lacks, on all processes that were started together."""
    import torch
    from accelerate import PartialState

    from geovr_hf.data.video import import_av
    from geovr_hf.targets import Manifest, TargetWriter, remove_leftovers
    from geovr_hf.targets.precompute import precompute

    # Cheap checks come first, then the weights.
    target_format = format_of(arguments)
    sampling = sampling_of(arguments, recipe)
    image_rate = image_rate_of(arguments, recipe)
    clips = clips_of(arguments, recipe)
    if not all(clip.path.is_dir() for clip in clips):
        import_av()  # here, not first in the workers
    # Processes wait for the slowest at the end, however long it takes. Without a GPU, accelerate takes each process
    # for the only one unless it is told `cpu`.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(weeks=4))
    teacher = teacher_of(arguments, recipe, state)
    with state.main_process_first():
        if state.is_main_process:
            remove_leftovers(out)
        writer = TargetWriter(out, Manifest.of(teacher, sampling, target_format, image_rate))
    outcome = precompute(
        clips[state.process_index :: state.num_processes],
        teacher,
        writer,
        sampling,
        image_rate=image_rate,
        num_workers=arguments.workers,
        progress=state.is_local_main_process,
        num_processes=state.num_processes,
    )
    finish(out, outcome, state)
    state.destroy_process_group()


def finish(out: Path, outcome: "Outcome", state: "PartialState") -> None:
    """Wait for all processes; the main one writes the index and says what was done."""
    from accelerate.utils import gather_object

    from geovr_hf.targets import TargetFolder
    from geovr_hf.targets.index import write_index, write_unreadable

    outcomes = gather_object([outcome])
    if not state.is_main_process:
        return
    unreadable = {name: reason for each in outcomes for name, reason in each.unreadable.items()}
    write_unreadable(out, unreadable)
    computed, present = (sum(getattr(each, name) for each in outcomes) for name in ("computed", "present"))
    print(f"{out}: {computed} clips computed, {present} there already, {len(unreadable)} unreadable")
    for name, reason in sorted(unreadable.items()):
        print(f"unreadable: {name}: {reason}")
    try:
        contents = write_index(TargetFolder(out)).contents
    except ImportError as error:  # training needs no index
        print(f"The targets are complete, but have no index. {error}, then run this command again.")
    else:
        print(f"{contents['clips']} clips in all, {contents['bytes'] / 1e9:.3f} GB")


def is_recipe(data: str) -> bool:
    """Whether `--data` names a recipe: a YAML file, or one that comes with the package."""
    return Path(data).suffix in (".yaml", ".yml") or not Path(data).exists()


def clips_of(arguments: Namespace, recipe: "Recipe | None") -> "list[ClipSource]":
    """The clips that `--data` names."""
    from geovr_hf.commands.clip_sources import clips_of_folder, clips_of_recipe, clips_of_rows, is_video

    if arguments.data is None:
        raise ValueError("--data is missing: a recipe, a file of rows, a video, or a folder of videos.")
    is_rows = recipe is None and Path(arguments.data).is_file() and not is_video(arguments.data)
    if is_rows and (arguments.format is None or arguments.media_root is None):
        raise ValueError(
            f"{arguments.data} is a file of rows: say its --format ({', '.join(ROW_FORMATS)}) and --media-root."
        )
    if not is_rows and (arguments.format, arguments.media_root) != (None, None):
        raise ValueError("--format and --media-root belong to a file of rows; recipes, videos and folders need none.")
    if recipe is not None:
        return clips_of_recipe(recipe.data)
    if is_rows:
        return clips_of_rows(arguments.data, arguments.format, arguments.media_root)
    return clips_of_folder(arguments.data)


def sampling_of(arguments: Namespace, recipe: "Recipe | None") -> "FrameSampling":
    """The recipe's frame sampling, overridden by flags."""
    from geovr_hf.data import FrameSampling

    given = {name: value for name in SAMPLING if (value := getattr(arguments, name)) is not None}
    if recipe is None:
        return FrameSampling(**given)
    chosen = {name: getattr(recipe.data, name) for name in SAMPLING} | given
    for name, other in (("num_frames", "fps"), ("fps", "num_frames")):
        if name in given and other not in given:
            chosen[other] = None  # the other way of counting was the recipe's
    return FrameSampling(**chosen)


def image_rate_of(arguments: Namespace, recipe: "Recipe | None") -> float:
    """Images per second of folders of images: the flag's, or the recipe's.

    Raises:
        ValueError: It is not positive.
    """
    from geovr_hf.data.images import check_image_rate

    if arguments.image_rate is None:
        return 1.0 if recipe is None else recipe.data.image_rate
    return check_image_rate(arguments.image_rate, "--image-rate")


def format_of(arguments: Namespace) -> "TargetFormat":
    """The preset, overridden by flags."""
    from geovr_hf.targets import TargetFormat

    names = ("features", "depth", "confidence", "depth_scale")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    return replace(TargetFormat.preset(arguments.preset), **given)


def teacher_of(arguments: Namespace, recipe: "Recipe | None", state: "PartialState") -> Any:
    """The teacher, on this process's device."""
    from geovr_hf.teachers import load_teacher

    section = recipe and recipe.teacher
    name, metric, options = arguments.teacher, arguments.metric, {}
    if section is not None and name in (None, section.name):
        name, metric = section.name, metric or section.metric
        options = section.options if section.name is not None else {}
    if name is None:
        raise ValueError("--teacher is missing: its name or Hub id, such as facebook/VGGT-1B.")
    if name in ("rgbd", "synthetic"):
        raise ValueError(f"--teacher {name} is a ground truth, which needs no computing. Name a network.")
    if arguments.compile:
        options = {**options, "compile": True}
    if arguments.frames_chunk_size is not None:
        options = {**options, "frames_chunk_size": arguments.frames_chunk_size}
    return load_teacher(name, metric=metric, **{"device": str(state.device), **options})
