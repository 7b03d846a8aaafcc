"""Training runs that several processes share: the program that each of them runs, and what a run is made of.

Run as a program by `multi_process.launch`; imported by the tests, which run the same cases in one process.
"""

import json
import os
import sys
from pathlib import Path

import torch
from test_training_invariants import DESCENT, losses
from training_support import row, targets, tiny_processor, training_args, uneven_rows, video

from geovr_hf import GeoVRDataCollator, GeoVRForConditionalGeneration, GeoVRTrainer
from geovr_hf.trainers import geovr_lora_config


# In each pair of forwards that exchange gradients, the processes have different things to do: clips or text alone, one
# clip or two, all objectives or some.
CASES = {
    "packed": {"packing": True, "max_questions_per_clip": 2},
    "padded": {"packing": False, "activation_checkpointing": True, "max_grad_norm": 1.0},
    "adapters": {"packing": True, "max_questions_per_clip": 2, "activation_checkpointing": True, "lora": True},
    "vision": {"packing": True, "max_questions_per_clip": 2, "freeze_vision_tower": False},
    "half": {"packing": True, "max_questions_per_clip": 2, "bf16": True},
}


def rows():
    one, text, two, few = uneven_rows()
    clip = video(2, seed=1)
    shared = [
        row(answer, clip, question=question, clip_targets=targets(2, seed=1))
        for answer, question in (("4", "How many chairs are in this room?"), ("lamp", "Which is nearest?"))
    ]
    return [one, two, few, text, *shared, text, few]


def trainer_of(case: str, folder: Path, start: Path, processes: int, **options) -> GeoVRTrainer:
    """A trainer of a case, of a model that is loaded as users load theirs: after the arguments."""
    options = {**DESCENT, **CASES[case], **options}
    lora = options.pop("lora", False)
    cut = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    if processes > 1:
        cut = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4 // processes}
    # On the CPU, accelerate knows one process and DDP. See `_take_processes_for_gpus` for the others.
    use_cpu = not torch.cuda.is_available() and not is_sharded_run()
    args = training_args(folder, use_cpu=use_cpu, dataloader_pin_memory=False, **cut, **{"bf16": False, **options})
    model = GeoVRForConditionalGeneration.from_pretrained(start)
    torch.manual_seed(0)  # of the adapters
    return GeoVRTrainer(
        model,
        args,
        GeoVRDataCollator(tiny_processor()),
        train_dataset=rows(),
        peft_config=geovr_lora_config(model, r=4, lora_alpha=8, lora_dropout=0.0) if lora else None,
    )


def run(case: str, folder: Path, start: Path, processes: int, evaluate: bool = False) -> dict:
    """Train, save the whole model, and tell losses and metrics."""
    trained = trainer_of(case, folder, start, processes)
    trained.train()
    metrics = {}
    if evaluate:
        names = ("depth_abs_rel", "rotation_error_deg", "scale_ratio", "answer_accuracy")
        evaluated = trained.evaluate(uneven_rows()[:3])  # two processes have to repeat one
        metrics = {name: evaluated[f"eval_{name}"] for name in names}
        metrics["answers"] = [answer.prediction for answer in trained.answers]
    trained.save_model(str(folder))
    return {"wrapper": type(trained.model_wrapped).__name__, "losses": losses(trained), "metrics": metrics}


def run_resumed(folder: Path, start: Path, processes: int) -> dict:
    """Train two steps with a checkpoint after the first, then the second again from there."""
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, "optim": "adamw_torch"}
    straight = trainer_of("packed", folder, start, processes, **options)
    straight.train()
    resumed = trainer_of("packed", folder / "resumed", start, processes, **options)
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-1"))
    return {"straight": losses(straight)[-1], "resumed": losses(resumed)[-1]}


def main():
    folder, start, cases = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    if is_sharded_run() and not torch.cuda.is_available():
        _take_processes_for_gpus()
    results = {}
    for case in cases:
        if case == "resumed":
            results[case] = run_resumed(folder / case, start, 2)
        else:
            results[case] = run(case, folder / case, start, 2, evaluate=case == "packed")
    if torch.distributed.get_rank() == 0:
        (folder / "results.json").write_text(json.dumps(results))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def is_sharded_run() -> bool:
    """Whether this process was launched for FSDP or DeepSpeed."""
    return any(os.environ.get(name) == "true" for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"))


def _take_processes_for_gpus():
    """Accelerate offers FSDP and DeepSpeed to GPUs alone. PyTorch's FSDP2 and DeepSpeed themselves run on the CPU."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))


if __name__ == "__main__":
    main()
