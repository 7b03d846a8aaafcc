"""What our pages print is true: Python blocks run, command lines and recipes are parsed by the real thing.

A block that cannot run has an HTML comment before it, `<!-- not run: REASON -->`. Its syntax and its flags are checked
all the same. Names of the Hub resolve because transformers takes a folder of that name first, and the test's working
folder has one for each, with a tiny checkpoint in it. What else is too large is replaced in the text: `STAND_INS`.
"""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from checkpoint_support import save_checkpoint
from peft import get_peft_model
from PIL import Image
from teacher_fixtures import tiny_network
from tiny import random_targets, tiny_model, tiny_processor

from geovr_hf.checkpoints import export_qwen3_vl
from geovr_hf.cli import COMMANDS, build_parser, main
from geovr_hf.data import normalize_row
from geovr_hf.data.rooms import RoomsDataset
from geovr_hf.recipe import (
    SOURCES,
    DataSection,
    ModelSection,
    ProcessorSection,
    Recipe,
    TeacherSection,
    load_recipe,
    recipe_path,
)
from geovr_hf.recipe_parsing import option_types
from geovr_hf.trainers import geovr_lora_config


ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
STAND_INS = {
    '"facebook/VGGT-1B"': '"teachers/vggt"',
    '"depth-anything/DA3METRIC-LARGE"': '"teachers/metric"',
    "num_rooms=2000": "num_rooms=1, num_frames=2, questions_per_room=2",
    "num_rooms=50": "num_rooms=1, num_frames=2, questions_per_room=2",
    '"walk.mp4", num_frames=32': '"walk.mp4", num_frames=2',
    "Qwen/Qwen3-VL-8B-Instruct": "Qwen/Qwen3-VL-2B-Instruct",
}
FENCE = re.compile(r"(?P<mark><!-- not run: [^>]+ -->\n+)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
INLINE = re.compile(r"`(geovr [^`]+)`")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[tuple[str, bool]]:
    """Fenced blocks of a page: code, and whether it is to run."""
    found = FENCE.finditer(page.read_text(encoding="utf-8"))
    return [(m["code"], m["mark"] is None) for m in found if m["language"] == language]


def geovr_lines(page: Path) -> list[str]:
    """Command lines of a page: in bash blocks, in indented blocks, and in running text."""
    text = page.read_text(encoding="utf-8")
    shell = [code for code, _ in blocks(page, "bash")]
    prose = FENCE.sub("", text)
    shell += [line[4:] for line in prose.splitlines() if line.startswith("    geovr ")]
    lines = "\n".join(shell).replace("\\\n", " ").splitlines()
    lines += [" ".join(span.split()) for span in INLINE.findall(prose) if len(span.split()) > 2]
    return [line for line in lines if re.search(r"(^geovr|geovr_hf\.cli) ", line)]


@pytest.fixture(scope="module")
def my_recipe(tmp_path_factory) -> Path:
    """What the pages call `my-recipe.yaml`: the one that README prints."""
    ((recipe, _),) = blocks(ROOT / "README.md", "yaml")
    path = tmp_path_factory.mktemp("recipe") / "my-recipe.yaml"
    path.write_text(recipe)
    return path


def parse(line: str, my_recipe: Path):
    """A command line as the program itself reads it; recipes with their overrides, too."""
    words = shlex.split(line, comments=True)
    words = words[next(i for i, word in enumerate(words) if word in ("geovr", "geovr_hf.cli")) + 1 :]
    parser = build_parser()
    try:
        arguments, extra = parser.parse_known_args(words)
    except SystemExit:
        pytest.fail(f"`{line}` is not understood")
    if not COMMANDS[arguments.command].TAKES_OVERRIDES:
        assert not extra, f"`{line}`: unknown {extra}"
    elif arguments.command in ("train", "grpo"):
        load_recipe(my_recipe if arguments.recipe == "my-recipe.yaml" else arguments.recipe, extra)
    return arguments


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_command_lines_are_understood(page, my_recipe):
    for line in geovr_lines(page):
        if " RECIPE " not in line:  # a form, not a command
            parse(line, my_recipe)


def test_a_wrong_flag_is_found(my_recipe):
    with pytest.raises(pytest.fail.Exception, match="not understood"):
        parse("geovr export a b --to nothing", my_recipe)
    with pytest.raises(AssertionError, match="--no-such"):
        parse("geovr push a me/b --no-such", my_recipe)
    with pytest.raises(ValueError, match="camera_loss_wait"):
        parse("geovr train paper --camera_loss_wait 1", my_recipe)


def merged(base: dict, change: dict) -> dict:
    both = dict(base)
    for key, value in change.items():
        both[key] = merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return both


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_recipes_are_valid(page, tmp_path):
    for code, _ in blocks(page, "yaml"):
        change = yaml.safe_load(code)
        base = {}
        if "output" not in change:  # a part of a recipe
            base = yaml.safe_load(recipe_path("grpo" if "rewards" in change else "paper").read_text(encoding="utf-8"))
        if "targets" in (change.get("teacher") or {}):
            base["teacher"] = None
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(merged(base, change)))
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", FENCE.sub("", page.read_text(encoding="utf-8"))):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{name_of(page)}: {target}"


def write_recording(folder: Path, num_frames=100, size=(96, 128)):
    """A recording in the layout of 7-Scenes: a wall two metres ahead, from a camera that steps to the right."""
    folder.mkdir()
    np.savetxt(folder / "intrinsics.txt", [[100, 0, size[1] / 2], [0, 100, size[0] / 2], [0, 0, 1]])
    for number in range(num_frames):
        pose = np.eye(4)
        pose[0, 3] = 0.01 * number
        stem = folder / f"frame-{number:06d}"
        Image.new("RGB", size[::-1], (2 * number, 100, 50)).save(f"{stem}.color.jpg")
        Image.fromarray(np.full(size, 2000, np.uint16)).save(f"{stem}.depth.png")
        np.savetxt(f"{stem}.pose.txt", pose)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with everything that the pages name."""
    av = pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("docs")
    for name in ("runs/demo/model", "runs/kitchen", "runs/geovr-2b", "runs/my-model", "me/my-model"):
        save_checkpoint(folder / name, tiny_model(teacher_patch_size=14))
    export_qwen3_vl(folder / "runs/my-model", folder / "Qwen/Qwen3-VL-2B-Instruct")
    base = tiny_model()
    save_checkpoint(folder / "base", base)
    base = type(base).from_pretrained(folder / "base")
    get_peft_model(base, geovr_lora_config(base, r=2)).save_pretrained(folder / "runs/lora")
    tiny_processor().save_pretrained(folder / "runs/lora")
    tiny_network("vggt", point_head=False).save_pretrained(folder / "teachers/vggt")
    tiny_network("da3_metric").save_pretrained(folder / "teachers/metric")
    write_recording(folder / "rgbd_kitchen")
    with av.open(str(folder / "walk.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height = 96, 64
        for frame in torch.randint(0, 256, (16, 64, 96, 3), dtype=torch.uint8).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    (folder / "VSI-590K").mkdir()
    shutil.copy(folder / "walk.mp4", folder / "VSI-590K")
    sampling = ["--data", str(folder / "VSI-590K"), "--fps", "2"]
    networks = ["--teacher", str(folder / "teachers/vggt"), "--metric", str(folder / "teachers/metric")]
    assert main(["precompute", *sampling, *networks, "--out", str(folder / "targets/vggt")]) == 0
    return folder


def decoded_rows() -> list[dict]:
    """Decoded rows: what the pages call `dataset`."""
    rooms = RoomsDataset(num_rooms=1, seed=3, num_frames=2, questions_per_room=2)
    return [rooms[index] for index in range(len(rooms))]


def names_that_pages_take_as_given() -> dict:
    """What a page's reader has already: data of their own."""
    return {
        "dataset": decoded_rows(),
        "rows": [
            {
                "prompt": [{"role": "user", "content": [{"type": "video", "video": "walk.mp4"}]}],
                "completion": [{"role": "assistant", "content": "4"}],
            }
        ],
        "frames": torch.zeros(2, 64, 96, 3, dtype=torch.uint8),
        "seconds": [0.0, 0.5],
        "targets": random_targets(2),
        "predictions": ["4", "B"],
        "ground_truths": ["5", "B"],
        "question_types": ["object_counting", "object_rel_distance"],
        "scenes": ["one", "two"],
    }


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name_of)
def test_python_runs(page, workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    names = names_that_pages_take_as_given()
    for number, (code, to_run) in enumerate(blocks(page, "python")):
        for printed, small in STAND_INS.items():
            code = code.replace(printed, small)
        compiled = compile(code, f"{name_of(page)}, Python block {number}", "exec")
        if to_run:
            exec(compiled, names)


@pytest.mark.parametrize("page", ["README.md", "docs/export.md", "docs/fine-tuning.md"])
def test_cheap_commands_run(page, workspace, monkeypatch, capsys):
    """Those that read what the working folder has."""
    monkeypatch.chdir(workspace)
    ran = 0
    for line in geovr_lines(ROOT / page):
        words = shlex.split(line, comments=True)
        if words[1] in ("ask", "reconstruct", "export") and Path(words[2]).exists():
            if words[1] == "ask":
                words[3] = "walk.mp4"
            else:  # the page's Python may have written it already
                shutil.rmtree("plain", ignore_errors=True)
            assert main(words[1:]) == 0, capsys.readouterr().err
            ran += 1
    assert ran


def test_readme_s_recipe_trains_on_readme_s_rows(workspace, my_recipe, monkeypatch):
    monkeypatch.chdir(workspace)
    ((rows, _),) = blocks(ROOT / "README.md", "json")
    Path("rows.jsonl").write_text(rows)
    Path("videos").mkdir()
    shutil.copy("walk.mp4", "videos")
    small = "--data.num_frames 2 --teacher.name teachers/vggt --teacher.metric teachers/metric --max_steps 1"
    here = "--output runs/mine --use_cpu true --report_to none --save_strategy no"
    assert main(["train", str(my_recipe), *small.split(), *here.split()]) == 0
    assert main(["ask", "runs/mine", "walk.mp4", "How many chairs are there?"]) == 0


def test_readme_s_rows_make_a_table():
    ((text, _),) = blocks(ROOT / "README.md", "json")
    rows = [json.loads(line) for line in text.splitlines()]
    table = pytest.importorskip("datasets").Dataset.from_list(rows)
    assert [normalize_row(row, "row") for row in table] == rows


def test_every_option_of_a_recipe_is_in_the_table():
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", (ROOT / "docs/training.md").read_text(encoding="utf-8"), re.M)
    for kind in (Recipe, ModelSection, DataSection, ProcessorSection, TeacherSection, *SOURCES):
        named = {name for row in rows for name in re.findall(r"`(\w+)`", " ".join(row))}
        assert option_types(kind).keys() <= named, f"{kind.__name__}: {option_types(kind).keys() - named}"


def test_stand_ins_stand_for_something():
    everything = "\n".join(code for page in PAGES for code, _ in blocks(page, "python"))
    assert not [printed for printed in STAND_INS if printed not in everything]
