"""Training runs for one process or several: what they are made of, a program that runs them, a comparison."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from multi_process import is_sharded_run, take_processes_for_gpus
from safetensors.torch import load_file
from targets_support import image_folder
from teacher_fixtures import tiny_network
from test_training_invariants import DESCENT, losses
from training_support import row, targets, tiny_model, tiny_processor, training_args, uneven_rows, video

from geovr_hf import GeoVRDataCollator, GeoVRForConditionalGeneration, GeoVRTrainer
from geovr_hf.checkpoints import export_qwen3_vl
from geovr_hf.cli import main as geovr
from geovr_hf.trainers import geovr_lora_config


CASES = {
    "packed": {"packing": True, "max_questions_per_clip": 2},
    "padded": {"packing": False, "activation_checkpointing": True, "max_grad_norm": 1.0},
    "adapters": {"packing": True, "activation_checkpointing": True, "lora": True},
    "vision": {"packing": True, "freeze_vision_tower": False},
    # At the others' step the camera's losses overshoot, and rounding decides by how much: in one process on the CPU,
    # bfloat16 and float32 are 8 % apart, and 2 % at this step. FSDP2 rounds the weights where autocast rounds what
    # they are multiplied with: on two GPUs that has made 2.1 % of one loss.
    "half": {"packing": True, "bf16": True, "learning_rate": 0.01, "geometry_learning_rate": 0.01},
}
HALF = 3e-2  # relative tolerance of losses in bfloat16


def rows(shared: bool):
    """In forwards that exchange gradients, two processes have different things to do: clips or text, one clip or two,
    all objectives or some; with `shared` also questions that share a clip, and in the end nothing to learn."""
    one, text, two, few = uneven_rows()
    if not shared:
        return [one, two, few, text, text, few, two, one]
    clip, clip_targets = video(2, seed=7), targets(2, seed=7)
    questions = {"4": "How many chairs are in this room?", "lamp": "Which is nearest to the sofa? A. lamp B. door"}
    about_clip = [row(answer, clip, question=q, clip_targets=clip_targets) for answer, q in questions.items()]
    return [one, two, few, text, *about_clip, uneven_rows()[1], uneven_rows()[3]]


def trainer_of(case: str, folder: Path, start: Path, **options) -> GeoVRTrainer:
    """A trainer of a case, of a model that is loaded as users load theirs: after the arguments."""
    options = {**DESCENT, **CASES[case], **options}
    lora = options.pop("lora", False)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    cut = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    if processes > 1:
        cut = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4 // processes}
    # On the CPU, accelerate knows one process and DDP. See `take_processes_for_gpus` for the others.
    use_cpu = not torch.cuda.is_available() and not is_sharded_run()
    args = training_args(folder, use_cpu=use_cpu, dataloader_pin_memory=False, **cut, **{"bf16": False, **options})
    model = GeoVRForConditionalGeneration.from_pretrained(start)
    torch.manual_seed(0)  # of the adapters
    return GeoVRTrainer(
        model,
        args,
        GeoVRDataCollator(tiny_processor()),
        train_dataset=rows(shared=options.get("max_questions_per_clip", 1) > 1),
        peft_config=geovr_lora_config(model, r=4, lora_alpha=8, lora_dropout=0.0) if lora else None,
    )


def run(case: str, folder: Path, start: Path) -> dict:
    """Train, save the whole model, and tell losses and metrics."""
    trained = trainer_of(case, folder, start)
    trained.train()
    metrics = {}
    if case == "packed":
        names = ("depth_abs_rel", "rotation_error_deg", "scale_ratio", "answer_accuracy")
        evaluated = trained.evaluate(uneven_rows()[:3])  # two processes have to repeat one
        metrics = {name: evaluated[f"eval_{name}"] for name in names}
        metrics["answers"] = [answer.prediction for answer in trained.answers]
    trained.save_model(str(folder))
    return {"losses": losses(trained), "metrics": metrics}


def run_resumed(folder: Path, start: Path) -> dict:
    """Train two steps with a checkpoint after the first, then the second again from there."""
    options = {"save_strategy": "steps", "save_steps": 1, "optim": "adamw_torch", "learning_rate": 1e-3}
    straight = trainer_of("packed", folder, start, **options)
    straight.train()
    resumed = trainer_of("packed", folder / "again", start, **options)
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-1"))
    return {"straight": losses(straight)[-1], "resumed": losses(resumed)[-1]}


def run_prefetched(folder: Path, start: Path) -> dict:
    """What FSDP2 gathers ahead in backward passes, with a frozen vision tower and with a trained one."""
    found = {}
    for case in ("packed", "vision"):
        trained = trainer_of(case, folder / case, start)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            trained.train()
        names = (event.name for event in profiler.events() if event.name.startswith("FSDP::backward_prefetch"))
        found[case] = sorted({name.rpartition(" ")[2] for name in names})
    return found


def write_start(folder: Path) -> Path:
    """Write what all runs start from: a checkpoint, and what `geovr train` needs.

    That is plain Qwen3-VL, so that heads are fresh, with networks of their own configuration as teachers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    export_qwen3_vl(folder, folder / "plain")
    tiny_network("vggt", point_head=False).save_pretrained(folder / "vggt")
    tiny_network("da3_metric").save_pretrained(folder / "metric")
    rows = []
    for number in range(4):
        image_folder(folder / "media" / f"clip{number}", seed=number)
        content = [{"type": "video", "video": f"clip{number}"}, {"type": "text", "text": "How many chairs?"}]
        answer = {"role": "assistant", "content": [{"type": "text", "text": "one two three four"[: 4 * number + 3]}]}
        rows.append(json.dumps({"messages": [{"role": "user", "content": content}, answer]}))
    (folder / "rows.jsonl").write_text("\n".join(rows))
    small = {"depth_hidden_sizes": [16, 16, 32, 32], "depth_fusion_size": 16, "camera_hidden_size": 32}
    recipe = {
        "output": "",
        "model": {"base": str(folder / "plain"), "config": {**small, "scale_hidden_size": 32}},
        "teacher": {"name": str(folder / "vggt"), "metric": str(folder / "metric")},
        "processor": {"max_clip_pixels": 24576},
        "data": {
            "num_frames": 2,
            "sources": [{"format": "rows", "path": str(folder / "rows.jsonl"), "media_root": str(folder / "media")}],
        },
        "training": {
            "max_steps": 2,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-3,
            "warmup_steps": 0,
            "train_sampling_strategy": "sequential",
            "logging_steps": 1,
            "report_to": "none",
            "save_steps": 1,
            "bf16": False,
            "disable_tqdm": True,
            "dataloader_num_workers": 0,
        },
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder


def run_command(folder: Path, start: Path) -> dict:
    """`geovr train`, which ends the process group. It tells its losses by itself."""
    rows_each = 2 // int(os.environ.get("WORLD_SIZE", 1))
    options = ["--output", str(folder), "--per_device_train_batch_size", str(rows_each), "--debug"]
    if not torch.cuda.is_available() and not is_sharded_run():
        options += ["--use_cpu", "true"]
    assert geovr(["train", str(start / "recipe.yaml"), *options]) == 0
    return {}


def command_losses(folder: Path) -> list[dict]:
    history = json.loads((folder / "command" / "trainer_state.json").read_text())["log_history"]
    return [{name: log[name] for name in log if "loss" in name} for log in history if "loss" in log]


def compare(
    alone: Path,
    together: Path,
    start: Path,
    cases: list[str],
    loss: float = 1e-5,
    update: float = 1e-3,
    same_heads: bool = True,
):
    """Hold what several processes left in a folder against what one process left, by relative tolerances.

    Without `same_heads`, fresh heads were drawn otherwise, and of `geovr train` only the first language loss compares.
    """
    expected, found = (json.loads((folder / "results.json").read_text()) for folder in (alone, together))
    initial = load_file(start / "model.safetensors")
    apart: list[str] = []  # all that differs is told at once: a run takes minutes
    for case in cases:
        half = CASES[case].get("bf16", False)
        apart += differences(case, found[case]["losses"], expected[case]["losses"], HALF if half else loss)
        answers = [run[case]["metrics"].pop("answers", None) for run in (found, expected)]
        if answers[0] != answers[1]:
            apart.append(f"{case}: answers {answers[0]} for {answers[1]}")
        apart += differences(case, [found[case]["metrics"]], [expected[case]["metrics"]], 10 * loss)
        files = [{path.name for path in (folder / case).iterdir()} for folder in (alone, together)]
        assert files[0] == files[1], case
        if CASES[case].get("lora"):
            weights = [load_file(folder / case / "adapter_model.safetensors") for folder in (alone, together)]
            starts = {name: torch.zeros_like(value) for name, value in weights[0].items()}
        else:
            # As strangers load it. The file holds what a file of one process holds, no more.
            names = [load_file(folder / case / "model.safetensors").keys() for folder in (alone, together)]
            assert names[0] == names[1] == initial.keys(), case
            model, loading = GeoVRForConditionalGeneration.from_pretrained(together / case, output_loading_info=True)
            assert not any(loading.values()), loading
            weights = [load_file(alone / case / "model.safetensors"), model.state_dict()]
            starts = initial
        for name, value in {} if half else weights[0].items():
            moved = (value - starts[name]).abs().max()
            difference = (weights[1][name].float() - value).abs().max()
            if not difference <= 2e-6 + update * moved:  # also one that is no number
                apart.append(f"{case}, {name}: {difference} of {moved}")
    if "command" in found:
        steps = [command_losses(folder) for folder in (together, alone)]
        if not same_heads:
            steps = [[{"lm_loss": run[0]["lm_loss"]}] for run in steps]
        apart += differences("command", *steps, 10 * loss)
        _, loading = GeoVRForConditionalGeneration.from_pretrained(together / "command", output_loading_info=True)
        assert not any(loading.values()), loading
    if "resumed" in found:
        apart += differences("resumed", *([found["resumed"][name]] for name in ("resumed", "straight")), loss)
    assert not apart, "\n".join(apart)


def differences(case: str, found: list[dict], expected: list[dict], tolerance: float) -> list[str]:
    """Figures of a run that are further from those expected than a share of these."""
    assert [step.keys() for step in found] == [step.keys() for step in expected], case
    return [
        f"{case}, {place}, {name}: {mine[name]} for {theirs[name]}"
        for place, (mine, theirs) in enumerate(zip(found, expected, strict=True))
        for name in theirs
        if mine[name] != pytest.approx(theirs[name], rel=tolerance)
    ]


def main():
    folder, start, cases = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    if is_sharded_run() and not torch.cuda.is_available():
        take_processes_for_gpus()
    torch.backends.cudnn.allow_tf32 = False
    results = {}
    others = {"resumed": run_resumed, "command": run_command, "prefetched": run_prefetched}
    for case in cases:
        results[case] = others[case](folder / case, start) if case in others else run(case, folder / case, start)
    if int(os.environ.get("RANK", 0)) == 0:
        (folder / "results.json").write_text(json.dumps(results))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
