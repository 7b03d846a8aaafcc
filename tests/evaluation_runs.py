"""What tests of `geovr evaluate` run: a miniature benchmark and a random model that answers in letters and digits."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import tiny_model, tiny_processor

from geovr_hf.evaluation.rooms_benchmark import RoomsBenchmark
from geovr_hf.evaluation.run import EvaluationSettings


MINI = RoomsBenchmark(num_rooms=5, seed=3, num_frames=6, image_size=(64, 96), dataset="scannet")


@pytest.fixture(scope="module", autouse=True)
def caches(tmp_path_factory) -> Iterator[None]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(home))
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(home / "datasets"))
        yield


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> Path:
    """A miniature VSI-Bench, all ten types: `test.jsonl` and `scannet/*.mp4`."""
    return MINI.write(tmp_path_factory.mktemp("data") / "VSI-Bench")


def save_random_checkpoint(folder: Path) -> str:
    """A random model that can only write letters and digits, and would sample them wildly if it were asked to."""
    model, tokenizer = tiny_model(), tiny_processor().tokenizer
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.model.named_parameters():
        if parameter.ndim > 1:
            gain = 3 if ".layers." in name else 1
            parameter.data.normal_(std=gain * parameter[0].numel() ** -0.5, generator=generator)
    allowed = {tokenizer.encode(letter)[0] for letter in "ABCD0123456789"}
    config = model.generation_config
    config.suppress_tokens = [token for token in range(len(tokenizer)) if token not in allowed]
    config.do_sample, config.temperature = True, 100.0
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return str(folder)


def settings_for(checkpoint, mini, **fields) -> EvaluationSettings:
    defaults = {"tasks": ("vsibench",), "data": {"vsibench": str(mini)}, "num_frames": 4, "batch_size": 4}
    return EvaluationSettings(checkpoint, **{**defaults, "generation": {"max_new_tokens": 1}, **fields})


def samples(out: Path, view: str = "seen", task: str = "vsibench"):
    return [json.loads(line) for line in (out / "samples" / f"{task}.{view}.jsonl").read_text().splitlines()]


def num_journalled(out: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in (out / "answers").iterdir())
