"""From task names to lmms-eval's task objects: on the Hub's data, or on a local copy."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lmms_eval.tasks
from accelerate import PartialState
from lmms_eval.api.task import ConfigurableMessagesTask, Task
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config
from tenacity import RetryError

from geovr_hf.evaluation.rooms_benchmark import RoomsBenchmark
from geovr_hf.evaluation.tasks import TASKS_FOLDER, dsr_bench, sti_bench, vsi_family, vsti_bench
from geovr_hf.evaluation.tasks.benchmark import Benchmark, Doc


ENGINE_TASKS = Path(lmms_eval.tasks.__file__).parent
BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK for module in (vsti_bench, sti_bench, dsr_bench)
}
VSI_FAMILY = (*vsi_family.VSI_TASKS, vsi_family.SYNTHETIC_ROOMS)
MODEL_NAME = "geovr"


def load_tasks(
    names: Sequence[str],
    folders: Mapping[str, Path] | None = None,
    prompt: str | None = None,
    rooms: RoomsBenchmark | None = None,
) -> dict[str, Task]:
    """Load tasks.

    Args:
        names (`Sequence[str]`): Names of tasks or groups: lmms-eval's, ours, or `synthetic-rooms`.
        folders (`Mapping[str, Path]`, *optional*): Local copies of the data, by task.
        prompt (`str`, *optional*): Ask the questions of VSI-Bench's family in the words of one of
            [`~geovr_hf.evaluation.tasks.vsi_family.PROMPTS`] instead of the task's own.
        rooms ([`RoomsBenchmark`], *optional*): The rooms of `synthetic-rooms`, if not the default ones.

    Returns:
        `dict[str, Task]`: Task objects by name; of a group, its tasks.

    Raises:
        ValueError: No such task or prompt, or a folder for a task that cannot have one, or that lacks its files.
        OSError: Data cannot be downloaded or read.
    """
    folders = dict(folders or {})
    if unused := sorted(folders.keys() - {*names}):
        raise ValueError(f"There is data for {', '.join(unused)}, but the tasks are {', '.join(names)}.")
    if prompt is not None and prompt not in vsi_family.PROMPTS:
        raise ValueError(f"Prompts are {', '.join(vsi_family.PROMPTS)}; got {prompt!r}.")
    tasks: dict[str, Task] = {}
    for name in dict.fromkeys(names):
        if name == vsi_family.SYNTHETIC_ROOMS and name not in folders:
            folders[name] = _write_rooms(rooms or RoomsBenchmark())
        try:
            tasks |= _load_task(name, folders.get(name), prompt)
        except RetryError as error:  # lmms-eval tries several times, and hides what went wrong
            cause = error.last_attempt.exception()
            raise OSError(f"The data of {name} cannot be loaded: {cause}") from cause
    return tasks


def _load_task(name: str, folder: Path | None, prompt: str | None) -> dict[str, Task]:
    if name in VSI_FAMILY:
        if prompt == "rooms" and name != vsi_family.SYNTHETIC_ROOMS:
            raise ValueError(f"Only {vsi_family.SYNTHETIC_ROOMS} has the prompt 'rooms'; {name} has not.")
        return {name: _vsi_task(name, folder, prompt)}
    if name in BENCHMARKS:
        return {name: _benchmark_task(BENCHMARKS[name], folder)}
    if folder is not None:
        raise ValueError(f"A local copy can be named for {', '.join([*VSI_FAMILY, *BENCHMARKS])}; not for {name}.")
    return _engine_tasks(name)


def _vsi_task(name: str, folder: Path | None, prompt: str | None) -> Task:
    source = "vsibench" if name == vsi_family.SYNTHETIC_ROOMS else name
    config = load_yaml_config(str(ENGINE_TASKS / "vsibench" / f"{source}.yaml"))
    if name == vsi_family.SYNTHETIC_ROOMS:
        config = vsi_family.rooms_config(config)
    config["process_results"] = vsi_family.forgiving(config["process_results"])
    if prompt is not None:
        config |= {"doc_to_text": vsi_family.PROMPTS[prompt], "doc_to_messages": None}
        config |= {"lmms_eval_specific_kwargs": None}
    if folder is not None:
        questions = vsi_family.local_questions(name, folder)
        config |= _local(questions, lambda doc: vsi_family.video_of(doc, folder))
    return ConfigurableMessagesTask(config=config, model_name=MODEL_NAME)


def _benchmark_task(benchmark: Benchmark, folder: Path | None) -> Task:
    config = load_yaml_config(str(TASKS_FOLDER / f"{benchmark.name}.yaml"))
    if folder is not None:
        questions = folder / benchmark.questions
        if not questions.is_file():
            raise ValueError(f"{folder} holds no {benchmark.questions}, the questions of {benchmark.title}.")
        config |= _local(questions, lambda doc: benchmark.find_video(doc, folder))
    return ConfigurableMessagesTask(config=config, model_name=MODEL_NAME)


def _local(questions: Path, video: Callable[[Doc], Path]) -> dict[str, Any]:
    """The settings that make a task read a file and videos beside it."""
    return {
        "dataset_path": "parquet" if questions.suffix == ".parquet" else "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(questions)}},
        "test_split": "test",
        "doc_to_messages": None,  # the video and the question, as by default
        "doc_to_visual": lambda doc: [str(video(doc))],
    }


def _engine_tasks(name: str) -> dict[str, Task]:
    manager = TaskManager(model_name=MODEL_NAME)
    if name not in manager.task_index:
        similar = [known for known in manager.all_tasks if name.split("_")[0].lower() in known.lower()][:8]
        hint = f" Did you mean {', '.join(similar)}?" if similar else ""
        raise ValueError(f"There is no task {name!r} in lmms-eval or here.{hint}")
    return dict(_leaves(manager.load_task_or_group(name, task_type="chat")))


def _leaves(tasks: Mapping[Any, Any]) -> Iterator[tuple[str, Task]]:
    for name, task in tasks.items():
        if isinstance(task, Mapping):
            yield from _leaves(task)
        else:
            yield name, task


def _write_rooms(rooms: RoomsBenchmark) -> Path:
    """Render the rooms into the cache, on the first process of this machine alone."""
    home = Path(os.getenv("HF_HOME", "~/.cache/huggingface")).expanduser()
    with PartialState().local_main_process_first():
        return rooms.write(home / "geovr" / "synthetic-rooms" / rooms.name)
