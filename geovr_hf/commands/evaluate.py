"""Run benchmarks on a checkpoint through lmms-eval, with confidence intervals and a blind check.

Tasks are lmms-eval's (vsibench, vsibench_debiased, revsi, mmsi_bench, …), vstibench, stibench and dsrbench, and
synthetic-rooms, which needs no download. Every answer is kept in DIR at once: the same command goes on where a stopped
one stopped. On several GPUs, start it by accelerate.

  geovr evaluate runs/my-model --tasks synthetic-rooms --out runs/my-model-eval
  geovr evaluate me/geovr-2b --tasks vsibench --data vsibench=VSI-Bench --frames 128 --out eval
  accelerate launch --num_processes 4 -m geovr_hf.cli evaluate me/geovr-2b --tasks mmsi_bench --out eval

DIR gets results.json (all of it), report.md with a picture for each task, card.json for the model card, samples/ with
every answer and its score, and answers/, from which a run is continued.
"""

from argparse import ArgumentParser, Namespace


TAKES_OVERRIDES = False


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `geovr evaluate`."""
    parser.add_argument("model", help="GeoVR checkpoint or adapter, or a plain Qwen3-VL one: a folder or a Hub id")
    parser.add_argument("--tasks", required=True, metavar="NAME,…", help="tasks, separated by commas")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results; made if missing")
    parser.add_argument("--overwrite", action="store_true", help="throw away what another evaluation left in DIR")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", action="append", default=[], metavar="TASK=DIR", help="local copy of a task's data; may be repeated"
    )
    data.add_argument("--limit", type=int, metavar="N", help="only the first N questions of each task")
    data.add_argument(
        "--trained-on", action="append", default=[], metavar="FILE", help="training file to compare scenes with"
    )
    asking = parser.add_argument_group("how questions are asked")
    asking.add_argument("--frames", type=int, default=32, metavar="N", help="frames of a clip (default: 32)")
    asking.add_argument("--fps", type=float, help="frames per second instead, --frames at most")
    asking.add_argument("--tokens-per-frame", type=int, metavar="N", help="largest frame, in visual tokens")
    asking.add_argument("--geometry-tokens", action="store_true", help="close frames with geometry tokens")
    asking.add_argument("--prompt", choices=("lmms-eval", "published", "rooms"), help="words of VSI-Bench's questions")
    asking.add_argument("--system-prompt", metavar="TEXT", help="text of a system turn (default: none)")
    asking.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer (default: the task's)")
    asking.add_argument("--temperature", type=float, help="sample at this temperature (default: greedy)")
    asking.add_argument("--top-p", type=float, help="sample from this probability mass")
    asking.add_argument("--top-k", type=int, help="sample from this many tokens")
    scoring = parser.add_argument_group("scores")
    scoring.add_argument(
        "--protocol", choices=("lmms-eval", "published"), default="lmms-eval", help="VSI-Bench scoring shown first"
    )
    scoring.add_argument("--no-blind-check", action="store_true", help="skip black frames and shuffled clips")
    scoring.add_argument("--seed", type=int, default=0, help="of sampling and of confidence intervals (default: 0)")
    running = parser.add_argument_group("device")
    running.add_argument(
        "--batch-size",
        type=int,
        default=1,
        metavar="N",
        help="questions at once (default: 1, reading each clip once)",
    )
    running.add_argument("--device", help="cpu, cuda, … (default: each process's own GPU)")
    running.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="default: the checkpoint's"
    )


def run(arguments: Namespace) -> None:
    """Evaluate and print the report's heart."""
    from accelerate import PartialState

    from geovr_hf.evaluation.run import EvaluationSettings, evaluate_model
    from geovr_hf.evaluation.views import SEEN, VIEWS

    settings = EvaluationSettings(
        model=arguments.model,
        tasks=tuple(name.strip() for name in arguments.tasks.split(",") if name.strip()),
        data=dict(_split_data(entry) for entry in arguments.data),
        prompt=arguments.prompt,
        num_frames=arguments.frames,
        fps=arguments.fps,
        tokens_per_frame=arguments.tokens_per_frame,
        geometry_tokens=arguments.geometry_tokens,
        batch_size=arguments.batch_size,
        limit=arguments.limit,
        generation=generation_settings(arguments),
        seed=arguments.seed,
        dtype=arguments.dtype,
        system_prompt=arguments.system_prompt,
        views=(SEEN,) if arguments.no_blind_check else tuple(VIEWS),
    )
    results = evaluate_model(
        settings,
        arguments.out,
        overwrite=arguments.overwrite,
        device=arguments.device,
        protocol=arguments.protocol,
        trained_on=tuple(arguments.trained_on),
    )
    if results is not None:
        print(summary(results))
        print(f"Report: {arguments.out}/report.md")
    PartialState().destroy_process_group()


def generation_settings(arguments: Namespace) -> dict[str, float | int | bool]:
    """Generation settings over the tasks' own.

    Raises:
        ValueError: Options of sampling without sampling.
    """
    settings: dict[str, float | int | bool] = {}
    if arguments.max_new_tokens is not None:
        settings["max_new_tokens"] = arguments.max_new_tokens
    sampling = {name: getattr(arguments, name) for name in ("top_p", "top_k") if getattr(arguments, name) is not None}
    if arguments.temperature:
        settings |= {"do_sample": True, "temperature": arguments.temperature, **sampling}
    elif sampling:
        raise ValueError("--top-p and --top-k belong to sampling: give a --temperature above 0, too.")
    return settings


def summary(results: dict) -> str:
    """Each task's number, and what of it is left without sight, as a table."""
    from geovr_hf.commands.tables import format_table
    from geovr_hf.evaluation.report import VIEW_TITLES

    columns: dict[str, dict[str, float]] = {}
    for name, task in results["tasks"].items():
        for view, scores in task["views"].items():
            columns.setdefault(VIEW_TITLES[view], {})[name] = scores["headline"]["value"]
    return format_table("task", columns, list(results["tasks"]))


def _split_data(entry: str) -> tuple[str, str]:
    task, equals, folder = entry.partition("=")
    if not (task and equals and folder):
        raise ValueError(f"--data takes TASK=DIR, got {entry!r}.")
    return task, folder
