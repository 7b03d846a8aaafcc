"""Small rows with clips and targets, and a tiny model to train on them."""

import functools

import torch

from geovr_hf import GeometryTargets, GeoVRDataCollator, GeoVRTrainer, GeoVRTrainingArguments
from geovr_hf.tiny import make_tiny_config, make_tiny_model, make_tiny_processor


TEXTS = [
    "a\n\n\nb",
    "How many chairs are in this room?",
    "Which is nearest to the sofa? A. lamp B. door",
    "assistant user system",
]
TILE = 32  # pixels of depth map per visual token of the tiny configuration
DEPTH_SIZE = (2 * TILE, TILE)


@functools.cache
def tiny_processor():
    return make_tiny_processor(TEXTS * 2)


def tiny_model(dtype=torch.float32, seed=0, **geometry):
    processor = tiny_processor()
    config = make_tiny_config(processor, teacher_num_layers=4, **geometry_layers(), **geometry)
    return make_tiny_model(config, processor, seed=seed).to(dtype)


def geometry_layers():
    return {"teacher_depth_layers": [0, 1, 2, 3], "teacher_alignment_layers": [1, 3]}


def targets(num_frames, seed=0, size=DEPTH_SIZE, without=()):
    generator = torch.Generator().manual_seed(seed)
    rand = functools.partial(torch.rand, generator=generator)
    pose_enc = torch.cat([rand(num_frames, 3), rand(num_frames, 4) + 0.1, rand(num_frames, 2) + 0.5], dim=1)
    pose_enc[0, :7] = torch.tensor([0.0, 0, 0, 0, 0, 0, 1])
    height, width = size
    floor = torch.linspace(0.5, 1.5, height)[:, None].expand(size)
    grid = (2 * height // TILE, 2 * width // TILE)
    fields = {
        "pose_enc": pose_enc,
        "depth": floor + 0.1 * rand(num_frames, 1, 1),
        "depth_confidence": (rand(num_frames, *size) > 0.1).float(),
        "metric_scale": 1 + rand(()),
        "features": [rand(num_frames, *grid, 32) for _ in range(2)],
    }
    return GeometryTargets(**{name: value for name, value in fields.items() if name not in without})


def frames(num_frames, seed=0, size=(64, 32)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_frames, *size, 3), generator=generator, dtype=torch.uint8)


def video(num_frames, seed=0):
    return {"type": "video", "video": frames(num_frames, seed), "timestamps": [0.5 * t for t in range(num_frames)]}


def image(seed=0):
    return {"type": "image", "image": frames(1, seed)[0].numpy()}


def text(words):
    return {"type": "text", "text": words}


def row(answer="4", *media, question="How many chairs are in this room?", clip_targets=None, **columns):
    return {
        "messages": [
            {"role": "user", "content": [*media, text(question)]},
            {"role": "assistant", "content": [text(answer)]},
        ],
        "geometry_targets": clip_targets,
        **columns,
    }


def uneven_rows():
    """Answers from one word to many; one clip, two clips, one clip with few targets, and no clip at all."""
    return [
        row("4", video(2, seed=1), clip_targets=targets(2, seed=1), question_type="count", id="one clip"),
        row("Three chairs and a table stand beside the door.", question="Hello?", question_type="talk", id="text"),
        row(
            "B",
            video(1, seed=2),
            video(3, seed=3),
            clip_targets=[targets(1, seed=2), targets(3, seed=3, without=("features", "metric_scale"))],
            question="Which is nearest to the sofa? A. lamp B. door",
            question_type="nearest",
            id="two clips",
        ),
        row(
            "twelve chairs",
            image(),
            video(2, seed=4),
            clip_targets=[targets(2, seed=4, without=("depth", "depth_confidence", "pose_enc"))],
            question_type="count",
            id="few targets",
        ),
    ]


def training_args(folder, **kwargs):
    defaults = {
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-3,
        "geometry_learning_rate": 2e-3,
        "warmup_steps": 0,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "activation_checkpointing": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "train_sampling_strategy": "sequential",
        "eval_max_new_tokens": 4,
    }
    return GeoVRTrainingArguments(output_dir=str(folder), **{**defaults, **kwargs})


def trainer(folder, model=None, rows=None, collator=None, **kwargs):
    """A trainer of the tiny model. Keyword arguments of the trainer itself are told from those of its arguments."""
    own = {
        name: kwargs.pop(name) for name in ("teacher", "peft_config", "callbacks", "eval_dataset") if name in kwargs
    }
    return GeoVRTrainer(
        model=tiny_model() if model is None else model,
        args=training_args(folder, **kwargs),
        data_collator=collator or GeoVRDataCollator(tiny_processor(), keep_frames="teacher" in own),
        train_dataset=uneven_rows() if rows is None else rows,
        **own,
    )
