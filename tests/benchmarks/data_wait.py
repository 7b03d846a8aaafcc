"""How long training waits for data: files on disk, through workers, the trainer and the model, to the optimizer.

    python tests/benchmarks/data_wait.py                  # Qwen3-VL-2B's shapes, 32 frames of 480 x 640, 32 questions
    python tests/benchmarks/data_wait.py --workers 4
    python tests/benchmarks/data_wait.py --tiny           # a check of the script itself, on any machine

Clips are folders of JPEG pictures with targets of full size (91 MB) in a target folder; weights are random. "waiting"
is the time that the trainer's loop stands still until a batch has arrived, over all of its time, without the first
steps, which compile. Prints a table and one line of JSON.
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
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    for clip in range(count):
        folder = root / f"clip{clip}"
        folder.mkdir(parents=True)
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


class TimedTrainer(GeoVRTrainer):
    """Notes how long each update waits for its batches, and when it begins."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.waits, self.starts = [], []

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        start = time.perf_counter()
        self.starts.append(start)
        samples = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.waits.append(time.perf_counter() - start)
        return samples


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to check the script")
    parser.add_argument("--clips", type=int, default=12)
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
            for clip in clips
            for number, question in enumerate(QUESTIONS[: arguments.questions])
        ]
        dataset = VideoDataset(
            rows, root / "media", num_frames=arguments.frames, teacher=TargetFolder(root / "targets")
        )
        with torch.device("cuda" if on_gpu else "cpu"):
            model = GeoVRForConditionalGeneration._from_config(
                config, dtype=torch.bfloat16 if on_gpu else torch.float32
            )
        trainer = TimedTrainer(
            model,
            GeoVRTrainingArguments(
                output_dir=str(root / "run"),
                max_steps=arguments.steps,
                per_device_train_batch_size=1,
                gradient_accumulation_steps=1,
                max_questions_per_clip=arguments.questions,
                dataloader_num_workers=arguments.workers,
                dataloader_persistent_workers=arguments.workers > 0,
                compile_layers=on_gpu,
                bf16=False,  # the weights are bfloat16 themselves
                logging_steps=arguments.steps,
                save_strategy="no",
                report_to="none",
            ),
            GeoVRDataCollator(processor),
            train_dataset=dataset,
        )
        trainer.train()
        if on_gpu:
            torch.cuda.synchronize()
        end = time.perf_counter()

    first = arguments.warm_up
    total, waits = end - trainer.starts[first], trainer.waits[first:]
    machine = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
    result = {
        "seconds per step": total / len(waits),
        "seconds per question": total / len(waits) / arguments.questions,
        "waiting": sum(waits) / total,
        "longest wait": max(waits),
        "activations": "recomputed" if trainer.args.activation_checkpointing else "kept",
        "loss": trainer.state.log_history[0].get("loss"),
    }
    print(f"{machine}, torch {torch.__version__}, transformers {transformers.__version__}, {vars(arguments)}")
    for name, value in result.items():
        print(f"{name:22}{f'{100 * value:.2f} %' if name == 'waiting' else value}")
    print(json.dumps({"machine": machine, "torch": torch.__version__, **vars(arguments), **result}))


if __name__ == "__main__":
    main()
