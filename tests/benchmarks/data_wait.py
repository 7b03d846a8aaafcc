"""How long training waits for data: files on disk, through workers, the trainer and the model, to the optimizer.

    python tests/benchmarks/data_wait.py                  # Qwen3-VL-2B's shapes, 32 frames of 480 x 640, 32 questions
    python tests/benchmarks/data_wait.py --workers 4
    python tests/benchmarks/data_wait.py --batch-only     # what a batch takes a worker, on any machine
    python tests/benchmarks/data_wait.py --tiny           # a check of the script itself, on any machine

Clips are folders of JPEG pictures with targets of full size (91 MB) in a target folder, a few of them under many
names, so that there is an epoch long enough: at its end workers run dry. Weights are random. The same run with one
batch over and over, which is on the device already, tells what a step takes when nothing is waited for; "waiting" is
what steps take beyond that. The loop may well stand still until a batch has arrived while the GPU is busy with the one
before: "loop at a stand". All without the first steps, which compile. Prints a table and one line of JSON.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from training_step import SHAPES_2B, SHAPES_TINY

from geovr_hf import (
    GeometryTargets,
    GeoVRConfig,
    GeoVRDataCollator,
    GeoVRForConditionalGeneration,
    GeoVRTrainer,
    GeoVRTrainingArguments,
)
from geovr_hf.data import FrameSampling, VideoDataset
from geovr_hf.data.video import read_sampled_clip
from geovr_hf.targets import PRESETS, Manifest, TargetFolder, TargetWriter
from geovr_hf.teachers import TeacherSpec
from geovr_hf.teachers.catalogue import find_published
from geovr_hf.teachers.loading import teacher_spec
from geovr_hf.tiny import make_tiny_processor


QUESTIONS = [f"How many chairs stand beside table number {number} of this room?" for number in range(64)]


def write_clips(root: Path, count: int, frames: int, size: tuple[int, int]) -> list[str]:
    """Folders of JPEG pictures: smooth colours with some noise, so that they are as large as photographs."""
    root.mkdir()
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    for clip in range(count):
        folder = root / f"clip{clip}"
        folder.mkdir()
        random = np.random.default_rng(clip)
        for frame in range(frames):
            waves = [128 + 90 * np.sin(rows / (40 + 9 * k) + columns / (60 + 5 * k) + frame / 7) for k in range(3)]
            picture = np.stack(waves, -1) + random.normal(0, 12, (height, width, 3))
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{frame:04d}.jpg", quality=90)
    return [f"clip{clip}" for clip in range(count)]


def write_targets(folder: Path, media: Path, clips: list[str], sampling: FrameSampling, config: GeoVRConfig, spec):
    """Targets of the size that the teacher's layout gives."""
    teacher = type("Stored", (), {"spec": spec, "fingerprint": "random"})
    writer = TargetWriter(folder, Manifest.of(teacher, sampling, PRESETS["full"]))
    for name in clips:
        clip = read_sampled_clip(media / name, sampling)
        frames, (height, width) = len(clip), (side // 32 for side in clip.frames.shape[1:3])
        size = (frames, height * config.depth_tile, width * config.depth_tile)
        pose_enc = torch.rand(frames, 9)
        pose_enc[0, :7] = torch.tensor([0.0, 0, 0, 0, 0, 0, 1])
        features = [torch.randn(frames, height, width, config.teacher_hidden_size) for _ in spec.alignment_layers]
        targets = GeometryTargets(
            pose_enc, torch.rand(size) + 0.5, torch.ones(size), torch.tensor(2.0), features, True
        )
        writer.write(clip, targets)


def time_one_batch(dataset: VideoDataset, processor, questions: int) -> float:
    """Seconds of one core that a worker takes for a batch, its files in memory."""
    collator = GeoVRDataCollator(processor).for_packing(raw_pixels=True)
    for clip in range(2):
        start = time.process_time()
        collator([dataset[clip * questions + number] for number in range(questions)])
        seconds = time.process_time() - start
    return seconds


def time_loader(trainer: GeoVRTrainer, skipped: int) -> float:
    """Seconds per batch that workers, pinning and the way to the device give when nobody computes."""
    arrived = []
    for _ in trainer.get_train_dataloader():
        arrived.append(time.perf_counter())
    return (arrived[-1] - arrived[skipped]) / (len(arrived) - skipped - 1)


class TimedTrainer(GeoVRTrainer):
    """Notes when each update begins, and how long the loop stands still until its batches have arrived."""

    kept = None

    def __init__(self, *args, repeat_one: bool, **kwargs):
        super().__init__(*args, **kwargs)
        self.repeat_one = repeat_one
        self.waits, self.starts = [], []

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        start = time.perf_counter()
        self.starts.append(start)
        if self.kept is None or not self.repeat_one:
            self.kept = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches, count = self.kept
        self.waits.append(time.perf_counter() - start)
        return [dict(batch) for batch in batches], count


def timed_run(
    model, processor, dataset, folder: Path, arguments: argparse.Namespace, repeat_one: bool
) -> TimedTrainer:
    """Train, and time it."""
    on_gpu = torch.cuda.is_available()
    trainer = TimedTrainer(
        model,
        GeoVRTrainingArguments(
            output_dir=str(folder),
            max_steps=arguments.steps,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=1,
            max_questions_per_clip=arguments.questions,
            dataloader_num_workers=arguments.workers,
            compile_layers=on_gpu and not repeat_one,  # the second run has the model of the first
            bf16=False,  # the weights are bfloat16 themselves
            logging_steps=arguments.steps,
            save_strategy="no",
            report_to="none",
        ),
        GeoVRDataCollator(processor),
        train_dataset=dataset,
        repeat_one=repeat_one,
    )
    trainer.train()
    if on_gpu:
        torch.cuda.synchronize()
    trainer.starts.append(time.perf_counter())
    return trainer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to check the script")
    parser.add_argument("--batch-only", action="store_true", help="what a batch takes a worker, and no more")
    parser.add_argument("--clips", type=int, default=12, help="different ones")
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warm-up", type=int, default=14, help="steps that do not count")
    arguments = parser.parse_args()
    size, shapes, layout = (480, 640), SHAPES_2B, {}
    if arguments.tiny:
        arguments.clips, arguments.frames, arguments.steps, arguments.warm_up, size = 2, 2, 4, 1, (64, 96)
        arguments.workers = min(arguments.workers, 1)
        shapes, layout = SHAPES_TINY, {"depth_hidden_sizes": [16] * 4, "depth_fusion_size": 16}

    on_gpu = torch.cuda.is_available()
    processor = make_tiny_processor(QUESTIONS * 2)
    spec: TeacherSpec = teacher_spec(entry := find_published("vggt-1b"), entry.config())
    config = GeoVRConfig(
        **shapes,
        **layout,
        **dict(
            zip(
                ("camera_first_token_id", "camera_token_id", "scale_token_id"),
                processor.geometry_token_ids,
                strict=True,
            )
        ),
        image_token_id=processor.image_token_id,
        video_token_id=processor.video_token_id,
        vision_start_token_id=processor.vision_start_token_id,
        vision_end_token_id=processor.vision_end_token_id,
    )
    sampling = FrameSampling(arguments.frames)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        clips = write_clips(root / "media", arguments.clips, arguments.frames, size)
        write_targets(root / "targets", root / "media", clips, sampling, config, spec)
        names = [f"{clip}-{step}" for step in range(arguments.steps // len(clips) + 1) for clip in clips]
        for name in names:
            (root / "media" / name).symlink_to(name.split("-")[0], target_is_directory=True)
        rows = [
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "video", "video": clip}, {"type": "text", "text": question}],
                    },
                    {"role": "assistant", "content": [{"type": "text", "text": f"{number % 9} chairs"}]},
                ]
            }
            for clip in names
            for number, question in enumerate(QUESTIONS[: arguments.questions])
        ]
        dataset = VideoDataset(
            rows, root / "media", num_frames=arguments.frames, teacher=TargetFolder(root / "targets")
        )
        batch_seconds = time_one_batch(dataset, processor, arguments.questions)
        if arguments.batch_only:
            print(f"a worker's seconds per batch: {batch_seconds:.2f}")
            return
        with torch.device("cuda" if on_gpu else "cpu"):
            model = GeoVRForConditionalGeneration._from_config(
                config, dtype=torch.bfloat16 if on_gpu else torch.float32
            )
        trainer = timed_run(model, processor, dataset, root / "run", arguments, repeat_one=False)
        replay = timed_run(model, processor, dataset, root / "replay", arguments, repeat_one=True)
        loader_seconds = time_loader(trainer, arguments.warm_up)

    first = arguments.warm_up
    total, undisturbed = (run.starts[-1] - run.starts[first] for run in (trainer, replay))
    waits = trainer.waits[first:]
    machine = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
    result = {
        "a worker's seconds per batch": batch_seconds,
        "the loader alone, seconds": loader_seconds,
        "seconds per step": total / len(waits),
        "seconds per question": total / len(waits) / arguments.questions,
        "undisturbed": undisturbed / len(waits),
        "waiting": 1 - undisturbed / total,
        "loop at a stand": sum(waits) / total,
        "longest wait": max(waits),
        "steps that waited over 5 ms": sum(wait > 0.005 for wait in waits),
        "activations": "recomputed" if trainer.args.activation_checkpointing else "kept",
        "loss": trainer.state.log_history[0].get("loss"),
    }
    print(f"{machine}, torch {torch.__version__}, transformers {transformers.__version__}, {vars(arguments)}")
    for name, value in result.items():
        print(f"{name:30}{f'{100 * value:.2f} %' if name in ('waiting', 'loop at a stand') else value}")
    print(json.dumps({"machine": machine, "torch": torch.__version__, **vars(arguments), **result}))


if __name__ == "__main__":
    main()
