"""Running benchmarks: settings, the engine, and the folder of results."""

import json
import math
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import AutoConfig

from geovr_hf.evaluation.bootstrap import Bootstrap
from geovr_hf.evaluation.journal import AnswerJournal
from geovr_hf.evaluation.overlap import load_trained_videos, scene_overlap
from geovr_hf.evaluation.report import write_report
from geovr_hf.evaluation.rooms_benchmark import RoomsBenchmark
from geovr_hf.evaluation.tasks import revsi
from geovr_hf.evaluation.views import BLIND_VIEWS, SEEN, SHUFFLED, VIEWS
from geovr_hf.extras import import_extra
from geovr_hf.visualization.atomic_files import atomic_path


RUN, RESULTS, ANSWERS, SAMPLES = "run.json", "results.json", "answers", "samples"
LIBRARIES = ("geovr_hf", "lmms-eval", "transformers", "torch", "av", "datasets", "accelerate", "peft")


@dataclass(frozen=True)
class EvaluationSettings:
    """All that decides the answers of a run.

    Args:
        model (`str`): Folder or Hub id of a GeoVR or Qwen3-VL checkpoint.
        tasks (`tuple[str, ...]`): Names of tasks.
        data (`dict[str, str]`, *optional*): Local copies of the data, by task.
        prompt (`str`, *optional*): Prompt of VSI-Bench's family: `"lmms-eval"`, `"published"` or `"rooms"`. By default
            the task's own.
        num_frames (`int`, *optional*, defaults to 32): Frames of a clip; with `fps`, at most that many.
        fps (`float`, *optional*): Frames per second instead.
        tokens_per_frame (`int`, *optional*): Largest frame in visual tokens.
        geometry_tokens (`bool`, *optional*, defaults to `False`): Whether geometry tokens close the frames.
        batch_size (`int`, *optional*, defaults to 1): Questions answered together.
        limit (`int`, *optional*): Only the first questions of each task.
        generation (`dict`, *optional*): Generation settings over the tasks' own. Greedy by default.
        seed (`int`, *optional*, defaults to 0): Of sampling and of the intervals.
        dtype (`str`, *optional*, defaults to `"auto"`): Number format of the weights.
        system_prompt (`str`, *optional*): Text of a system turn.
        views (`tuple[str, ...]`, *optional*): What is shown; `"seen"` first. By default all, the blind check included.
    """

    model: str
    tasks: tuple[str, ...]
    data: dict[str, str] = field(default_factory=dict)
    prompt: str | None = None
    num_frames: int = 32
    fps: float | None = None
    tokens_per_frame: int | None = None
    geometry_tokens: bool = False
    batch_size: int = 1
    limit: int | None = None
    generation: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    dtype: str = "auto"
    system_prompt: str | None = None
    views: tuple[str, ...] = (SEEN, *BLIND_VIEWS)

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if not self.tasks:
            raise ValueError("Name at least one task.")
        if unknown := [view for view in self.views if view not in VIEWS]:
            raise ValueError(f"Views are {', '.join(VIEWS)}; got {', '.join(unknown)}.")
        if SEEN not in self.views:
            raise ValueError(f"The view {SEEN!r} must be among the views: what is blind is compared with it.")
        for name in ("num_frames", "batch_size", "limit", "tokens_per_frame"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        for task in self.tasks:
            if self.num_frames < revsi.FRAMES.get(task, 0):
                raise ValueError(
                    f"The answers of {task} are right for {revsi.FRAMES[task]} frames, not for {self.num_frames}. "
                    f"Give --frames {revsi.FRAMES[task]} (`num_frames`) or more, or name a variant with fewer."
                )


def evaluate_model(
    settings: EvaluationSettings,
    out: str | Path,
    *,
    overwrite: bool = False,
    device: str | None = None,
    protocol: str = "lmms-eval",
    bootstrap: Bootstrap | None = None,
    trained_on: tuple[str, ...] = (),
    rooms: RoomsBenchmark | None = None,
) -> dict[str, Any] | None:
    """Run benchmarks through lmms-eval, on all processes that were started together.

    Every answer is kept in `out` as soon as it is given: the same call goes on where a stopped one stopped, on any
    number of processes.

    Args:
        settings ([`EvaluationSettings`]): What to run.
        out (`str` or `Path`): Folder of the results; made if missing.
        overwrite (`bool`, *optional*, defaults to `False`): Throw away what another run left in `out`.
        device (`str`, *optional*): By default the process's own GPU, or the CPU.
        protocol (`str`, *optional*, defaults to `"lmms-eval"`): VSI-Bench's protocol of the headline; both are
            reported.
        bootstrap ([`Bootstrap`], *optional*): Of the intervals. By default with the seed of the settings.
        trained_on (`tuple[str, ...]`, *optional*): Training files whose scenes are compared with the tests'.
        rooms ([`RoomsBenchmark`], *optional*): The rooms of `synthetic-rooms`, if not the default ones.

    Returns:
        `dict` or `None`: What `results.json` holds; `None` on all processes but the first.

    Raises:
        ImportError: lmms-eval is missing.
        ValueError: Settings that cannot be run, or `out` holds another run.
        OSError: The model or data cannot be loaded.
    """
    import_extra("lmms_eval", "eval", "Benchmarks run on lmms-eval")
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from geovr_hf.evaluation.lmms_model import GeoVRBenchmarkModel
    from geovr_hf.evaluation.scoring import blind_check, score_samples
    from geovr_hf.evaluation.task_loading import load_tasks

    # Without a GPU, accelerate takes each process for the only one unless it is told `cpu`.
    out, state = Path(out), PartialState(cpu=device == "cpu" or not torch.accelerator.is_available())
    bootstrap = bootstrap or Bootstrap(seed=settings.seed)
    trained = [video for path in trained_on for video in load_trained_videos(path)] if trained_on else None
    with state.main_process_first():
        if state.is_main_process:
            _open_folder(out, settings, overwrite)
    folders = {task: Path(folder) for task, folder in settings.data.items()}
    tasks = load_tasks(settings.tasks, folders, settings.prompt, rooms)
    model = GeoVRBenchmarkModel(
        settings.model,
        num_frames=settings.num_frames,
        fps=settings.fps,
        tokens_per_frame=settings.tokens_per_frame,
        geometry_tokens=settings.geometry_tokens,
        batch_size=settings.batch_size,
        device=device,
        dtype=settings.dtype,
        system_prompt=settings.system_prompt,
        seed=settings.seed,
        journal=out / ANSWERS,
    )
    views: dict[str, dict[str, Any]] = {task: {} for task in tasks}
    no_tasks = TaskManager(include_defaults=False)
    for view in sorted(settings.views, key=list(VIEWS).index):
        model.view = view
        for name, task in tasks.items():
            if view == SHUFFLED and not _has_an_order(out, task):
                continue
            _apply_generation(task, settings.generation)
            engine = simple_evaluate(
                model=model,
                tasks=[_scored_by_engine(task, settings.limit)],
                task_manager=no_tasks,  # or it would index all of its own, for seconds
                limit=settings.limit,
                batch_size=settings.batch_size,
                bootstrap_iters=0,
                log_samples=True,
                random_seed=settings.seed,
                numpy_random_seed=settings.seed,
                torch_random_seed=settings.seed,
            )
            if engine is not None:
                samples = next(iter(engine["samples"].values()))
                own = next(iter(engine["results"].values()))
                views[name][view] = score_samples(name, samples, own, bootstrap, protocol)
    model.journal.close()
    if not state.is_main_process:
        return None
    results = {
        "model": _describe_model(settings, model.checkpoint.model),
        "settings": asdict(settings),
        "tasks": {
            name: _describe_task(name, task, views[name], blind_check(views[name]), trained, settings)
            for name, task in tasks.items()
        },
        "frames": _describe_frames(AnswerJournal(out / ANSWERS), settings),
        "hardware": _hardware(state),
        "versions": _versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    results = _without_nan(results)
    _write_samples(out / SAMPLES, views)
    _write_json(out / RESULTS, results)
    write_report(out, results)
    return results


def _open_folder(out: Path, settings: EvaluationSettings, overwrite: bool) -> None:
    """Make the folder of a run, or go on with the run that is in it."""
    wanted = json.loads(json.dumps({**asdict(settings), "model_files": _model_files(settings.model)}))
    if out.exists() and not (out / RUN).exists() and (not out.is_dir() or any(out.iterdir())):
        # Not even with `overwrite`: folders named samples or answers may hold anything.
        raise ValueError(f"{out} is not empty and holds no evaluation. Choose another folder.")
    if overwrite and out.is_dir():
        for name in (ANSWERS, SAMPLES):
            shutil.rmtree(out / name, ignore_errors=True)
        (out / RESULTS).unlink(missing_ok=True)
    if (out / RUN).exists():
        begun = json.loads((out / RUN).read_text())
        differing = [
            f"{name} {begun.get(name)!r}, now {wanted.get(name)!r}"
            for name in sorted({*begun, *wanted})
            if begun.get(name) != wanted.get(name)
        ]
        if not differing:
            return
        if (out / ANSWERS).is_dir() and any((out / ANSWERS).iterdir()):
            raise ValueError(
                f"{out} holds another run: {'; '.join(differing)}. Choose another folder, or add --overwrite to throw "
                "its answers away."
            )
        # It failed before its first answer: nothing is lost.
        _write_json(out / RUN, wanted)
        return
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / RUN, wanted)


def _model_files(model: str) -> dict[str, list[int]] | str | None:
    """Sizes and times of a local checkpoint's files, or a Hub checkpoint's commit.

    Answers of a model that was trained on, or asked by another chat template, must not be taken over.
    """
    folder = Path(model)
    if not folder.is_dir():
        return getattr(AutoConfig.from_pretrained(model), "_commit_hash", None)
    files = sorted(path for ending in ("safetensors", "json", "jinja") for path in folder.glob(f"*.{ending}"))
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}


def _apply_generation(task, settings: Mapping[str, Any]) -> None:
    if settings:
        task.set_config("generation_kwargs", dict(settings), update=True)


def _has_an_order(out: Path, task) -> bool:
    """Whether a clip that was seen has several frames: pictures and clips of one frame cannot be shuffled."""
    answer = [False]
    if PartialState().is_main_process:  # and all must agree, also where a file system is slow to show others' files
        records = AnswerJournal(out / ANSWERS).records()
        seen = [record for record in records if (record["task"], record["view"]) == (task.config.task, SEEN)]
        answer = [any(record.get("clip_frames", 0) > 1 for record in seen)]
    return broadcast_object_list(answer)[0]


def _scored_by_engine(task, limit: int | None):
    """The task, its engine's averages switched off where they could not be computed.

    lmms-eval's VSI-Bench raises unless every difficulty of relative direction has questions.
    """
    from geovr_hf.evaluation.task_loading import VSI_FAMILY
    from geovr_hf.evaluation.vsi_bench import QUESTION_TYPES

    if task.config.task in VSI_FAMILY:
        asked = task.eval_docs.select(range(min(limit or len(task.eval_docs), len(task.eval_docs))))
        if {*asked["question_type"]} != {*QUESTION_TYPES}:
            task.override_metric("bypass")
    return task


def _describe_task(
    name: str, task, views: Mapping[str, Any], blind: dict, trained: list[str] | None, settings: EvaluationSettings
) -> dict[str, Any]:
    from geovr_hf.evaluation.task_loading import BENCHMARKS, VSI_FAMILY

    doc, seen = task.eval_docs[0], views[SEEN]
    described = {
        "dataset": settings.data.get(name, task.config.dataset_path),
        "split": task.config.test_split or task.config.validation_split,
        "num_questions": len(seen.samples),
        "generation": {key: value for key, value in task.config.generation_kwargs.items() if key != "until"},
        "prompt_example": task.doc_to_text(doc),
        "scorer": seen.scorer,
        "average": seen.average,
        "views": {view: scores.to_dict() for view, scores in views.items()},
        "blind": blind,
        "left_out": [view for view in settings.views if view not in views],
    }
    if trained is not None:
        docs = task.eval_docs.select(range(len(seen.samples)))
        if name in VSI_FAMILY:
            tested = [f"{row['dataset']}/{row['scene_name']}.mp4" for row in docs]
        elif name in BENCHMARKS:
            tested = [BENCHMARKS[name].media(row)[0] for row in docs]
        elif name in revsi.TASKS:
            tested = [f"{row['scene_id']}.mp4" for row in docs]
        else:
            tested = None  # what its rows call a scene is not known here
        described["scene_overlap"] = None if tested is None else scene_overlap(trained, tested).to_dict()
    return described


def _describe_model(settings: EvaluationSettings, model: torch.nn.Module) -> dict[str, Any]:
    return {
        "name": settings.model,
        "kind": model.config.model_type,
        "revision": getattr(model.config, "_commit_hash", None),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "attention": model.config._attn_implementation,
    }


def _describe_frames(journal: AnswerJournal, settings: EvaluationSettings) -> dict[str, Any]:
    """What clips and prompts were really like, on all processes."""
    records = list(journal.records())
    frames = [record["num_frames"] for record in records]
    tokens = [record["prompt_tokens"] for record in records]
    return {
        "frames_per_question": [min(frames), max(frames)] if frames else None,
        "prompt_tokens": [min(tokens), max(tokens)] if tokens else None,
        "sampling": "equally spaced by presentation time" if settings.fps is None else f"{settings.fps} per second",
    }


def _hardware(state: PartialState) -> str:
    device = torch.cuda.get_device_name() if state.device.type == "cuda" else platform.machine()
    return f"{state.num_processes} x {device}"


def _versions() -> dict[str, str]:
    from geovr_hf import __version__

    found = {"geovr_hf": __version__}
    for library in LIBRARIES[1:]:
        try:
            found[library] = version(library)
        except ImportError:  # optional
            continue
    return found


def _write_samples(folder: Path, views: Mapping[str, Mapping[str, Any]]) -> None:
    for task, by_view in views.items():
        for view, scores in by_view.items():
            with atomic_path(folder / f"{task}.{view}.jsonl") as unfinished:
                unfinished.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in scores.samples))


def _write_json(path: Path, content: Any) -> None:
    with atomic_path(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _without_nan(content: Any) -> Any:
    """Results with `None` for numbers that are undefined, since JSON knows no NaN."""
    if isinstance(content, Mapping):
        return {name: _without_nan(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
