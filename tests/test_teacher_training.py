"""The whole way with networks as teachers, through the command line: online, and from a folder of targets."""

import json
import logging

import pytest
from safetensors import safe_open
from targets_support import image_folder
from teacher_fixtures import tiny_network

from geovr_hf.cli import main


logging.getLogger("transformers.modeling_utils").setLevel(logging.ERROR)
RECIPE = {
    "model": {"base": "tiny", "config": {"objectives": ["camera", "depth", "scale", "alignment"]}},
    "processor": {"max_clip_pixels": 24576},
    "data": {"num_frames": 3},
    "training": {
        "max_steps": 3,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "activation_checkpointing": False,
        "disable_tqdm": True,
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two clips with two questions each, a VGGT and a metric network, and targets of the former by the latter."""
    folder = tmp_path_factory.mktemp("run")
    for number in range(2):
        image_folder(folder / "media" / f"clip{number}", seed=number)
    rows = [
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "video", "video": f"clip{number}"},
                        {"type": "text", "text": "How many chairs?"},
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": answer}]},
            ]
        }
        for number in range(2)
        for answer in ("one", "two")
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tiny_network("vggt", point_head=False).save_pretrained(folder / "vggt")
    tiny_network("da3_metric").save_pretrained(folder / "metric")
    return folder


def train(folder, output: str, teacher: dict) -> list[dict]:
    source = {"format": "rows", "path": str(folder / "rows.jsonl"), "media_root": str(folder / "media")}
    recipe = {**RECIPE, "data": {**RECIPE["data"], "sources": [source]}, "teacher": teacher}
    path = folder / f"{output}.yaml"
    path.write_text(json.dumps({**recipe, "output": str(folder / output)}))
    assert main(["train", str(path)]) == 0
    history = json.loads((folder / output / "trainer_state.json").read_text())["log_history"]
    return [{name: value for name, value in entry.items() if "loss" in name} for entry in history]


def test_three_steps_are_the_same_online_and_from_a_folder(folder):
    teacher = {"name": str(folder / "vggt"), "metric": str(folder / "metric")}
    online = train(folder, "online", teacher)
    exact = [word for name in ("features", "depth", "confidence") for word in (f"--{name}", "float32")]
    clips = ["--data", str(folder / "online.yaml"), "--out", str(folder / "targets"), "--workers", "0"]
    assert main(["precompute", *clips, *exact]) == 0
    stored = train(folder, "stored", {"targets": str(folder / "targets")})
    assert stored == online
    assert {"camera_loss", "depth_loss", "scale_loss", "alignment_loss"} <= set(online[0])
    assert online[0]["loss"] != online[2]["loss"]


def test_the_teacher_is_in_no_checkpoint(folder):
    if not (folder / "online").is_dir():
        train(folder, "online", {"name": str(folder / "vggt"), "metric": str(folder / "metric")})
    with safe_open(folder / "online" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert names and not [name for name in names if "frame_blocks" in name or "teacher" in name or "metric" in name]
    card = (folder / "online" / "README.md").read_text()
    assert "cc-by-nc-4.0" in card and "Not for commercial use" in card
