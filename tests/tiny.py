"""A tiny model, processor and batch of the real architecture, for tests."""

from functools import cache

import torch

from geovr_hf import GeometryTargets, GeoVRConfig, GeoVRForConditionalGeneration, GeoVRProcessor
from geovr_hf.tiny import make_tiny_config, make_tiny_model, make_tiny_processor


TEXTS = [
    "How many chairs are in this room? Answer with a number.",
    "What is the distance between the table and the lamp, in meters?",
    "If I stand by the sofa and face the bed, is the plant to my left or my right? A. left B. right",
    "0 1 2 3 4 5 6 7 8 9 . seconds user assistant system",
]


@cache
def tiny_processor() -> GeoVRProcessor:
    return make_tiny_processor(TEXTS * 4)


def tiny_config(**fields) -> GeoVRConfig:
    return make_tiny_config(tiny_processor(), **fields)


def tiny_model(seed: int = 0, **fields) -> GeoVRForConditionalGeneration:
    return make_tiny_model(tiny_config(**fields), tiny_processor(), seed=seed)


def random_frames(num_frames: int, height: int = 64, width: int = 96, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_frames, height, width, 3), dtype=torch.uint8, generator=generator)


def random_targets(
    num_frames: int, height: int = 64, width: int = 96, config: GeoVRConfig | None = None, seed: int = 0
) -> GeometryTargets:
    """Targets of a clip whose frames are `height` x `width` pixels, for the tiny configuration."""
    config = config or tiny_config()
    generator = torch.Generator().manual_seed(seed)
    grid = (num_frames, height // 32, width // 32)
    return GeometryTargets(
        pose_enc=torch.randn(num_frames, 9, generator=generator).abs(),
        depth=torch.rand(num_frames, height, width, generator=generator) + 0.5,
        depth_confidence=torch.ones(num_frames, height, width),
        metric_scale=torch.rand((), generator=generator) + 1,
        features=[
            torch.randn(*grid, config.teacher_hidden_size, generator=generator)
            for _ in config.teacher_alignment_layers
        ],
        features_pooled=True,
    )


def question(num_clips: int = 1, text: str = TEXTS[0], num_images: int = 0) -> str:
    """A user's turn and the opening of the assistant's, in chat format."""
    content = [{"type": "image"}] * num_images + [{"type": "video"}] * num_clips + [{"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    return tiny_processor().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def tiny_inputs(
    clips: list[list[torch.Tensor]],
    geometry_tokens: bool = True,
    answers: list[str] | None = None,
    images: list | None = None,
    padding_side: str = "right",
) -> dict:
    """Inputs of a batch with the given clips per row. With answers, `labels` supervise them."""
    processor = tiny_processor()
    images = images or [[] for _ in clips]
    prompts = [
        question(len(row), TEXTS[i % 3], len(pictures))
        for i, (row, pictures) in enumerate(zip(clips, images, strict=True))
    ]
    texts = [p + a for p, a in zip(prompts, answers, strict=True)] if answers else prompts
    flat = [clip for row in clips for clip in row]
    flat_images = [picture for row in images for picture in row]
    inputs = processor(
        text=texts,
        videos=flat or None,
        images=flat_images or None,
        video_timestamps=[[float(t) for t in range(len(clip))] for clip in flat] if flat else None,
        geometry_tokens=geometry_tokens,
        padding=True,
        padding_side=padding_side,
        return_tensors="pt",
    )
    if answers:
        labels = torch.full_like(inputs["input_ids"], -100)
        for row, answer in enumerate(answers):
            length = len(processor.tokenizer(answer)["input_ids"])
            attended = inputs["attention_mask"][row].nonzero().squeeze(1)[-length:]
            labels[row, attended] = inputs["input_ids"][row, attended]
        inputs["labels"] = labels
    return dict(inputs)
