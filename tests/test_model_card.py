import ast
import json
import re
from dataclasses import asdict, fields, replace
from types import SimpleNamespace

import pytest
from hub_repositories import metadata_errors
from huggingface_hub import ModelCard

from geovr_hf.hub_cards import (
    CardEvaluation,
    CardTeacher,
    EvaluationRecord,
    GeoVRExportCardData,
    GeoVRModelCardData,
    read_card_facts,
    read_records,
)
from geovr_hf.hub_cards.markdown import duration, loss_table, plain, table


NON_COMMERCIAL = SimpleNamespace(name="facebook/VGGT-1B", licence="CC-BY-NC-4.0", non_commercial=True)
RECORD = EvaluationRecord(
    task="VSI-Bench",
    dataset="nyu-visionx/VSI-Bench",
    protocol="lmms-eval",
    metric="accuracy",
    value=0.5,
    ci=(0.45, 0.55),
    prompt="the published one",
    frames=32,
    decoding={"strategy": "greedy", "max_new_tokens": 16},
    scorer="geovr_hf 0.1.0",
    split="test",
    num_examples=1234,
)
PERMISSIVE = SimpleNamespace(name="synthetic", licence="apache-2.0", non_commercial=False)
AWKWARD = 'a|b `c` *d* <e> "f" {{ g }} {% h %} \\ [i]\n---\nj: k # l'

MINIMAL = GeoVRModelCardData("rooms")
FULL = GeoVRModelCardData(
    "me/geovr-rooms",
    base_model="Qwen/Qwen3-VL-2B-Instruct",
    language="en",
    tags=["indoor"],
    datasets=["nyu-visionx/VSI-590K"],
    training_data="The video rows.",
    num_train_examples=374148,
    num_frames=8,
    objectives={"lm": 1.0, "camera": 2.5, "depth": 1.0, "scale": 1.0, "alignment": 1.0},
    teacher=NON_COMMERCIAL,
    metric=CardTeacher("depth-anything/DA3METRIC-LARGE", "apache-2.0", False, revision="0123abc"),
    trained_parameters={"language_model": 1_700_000_000, "camera_head": 9_000_000},
    num_parameters=2_100_000_000,
    hyperparameters={"learning_rate": 2e-5, "seed": 0, "bf16": True},
    hardware="4 × NVIDIA H100",
    train_seconds=4325.0,
    energy_kwh=3.25,
    emissions_kg=1.5,
    versions={"transformers": "5.23.0"},
    log_history=[
        {"step": 10, "epoch": 0.1, "loss": 9.5, "camera_loss": 1.25, "learning_rate": 1e-5},
        {"step": 10, "epoch": 0.1, "eval_loss": 8.0, "eval_camera_loss": 1.0},
        {"step": 20, "epoch": 0.2, "loss": 4.5, "camera_loss": 0.5, "learning_rate": 2e-5},
        {"step": 20, "epoch": 0.2, "train_loss": 7.0, "train_runtime": 4325.0},
    ],
    evaluations=[
        CardEvaluation(
            metrics={"answer_accuracy": 0.691, "depth_abs_rel": 0.12},
            dataset_name="VSI-Bench",
            dataset_id="nyu-visionx/VSI-Bench",
            split="test",
            num_examples=5130,
            references={"before training": {"answer_accuracy": 0.5}},
        )
    ],
    results=[RECORD, replace(RECORD, subset="room_size", value=0.46), replace(RECORD, protocol="geovr", ci=None)],
    images={"pictures/depth.png": "True and predicted depth"},
    limitations="Indoor scenes only.",
)
ADAPTER = replace(FULL, is_adapter=True)
EXPORT = GeoVRExportCardData.of(FULL, "me/rooms-plain", "me/geovr-rooms")
ADAPTER_OF_A_LOCAL_MODEL = replace(ADAPTER, base_model=None)
HOSTILE = GeoVRModelCardData(
    f"me/{AWKWARD}",
    base_model=AWKWARD,
    teacher=SimpleNamespace(name=AWKWARD, licence=AWKWARD, non_commercial=True),
    tags=[AWKWARD],
    objectives={AWKWARD: 1.0, "camera": 1.0, "depth": 1.0, "scale": 1.0},
    hyperparameters={AWKWARD: AWKWARD},
    hardware=AWKWARD,
    versions={AWKWARD: AWKWARD},
    results=[EvaluationRecord(AWKWARD, AWKWARD, AWKWARD, AWKWARD, 0.5, prompt=AWKWARD, decoding={AWKWARD: AWKWARD})],
    evaluations=[CardEvaluation({AWKWARD: 0.5}, dataset_name=AWKWARD, references={AWKWARD: {AWKWARD: 0.25}})],
    images={"a (1) b.png": AWKWARD},
)
ALL = pytest.mark.parametrize(
    "data",
    [
        MINIMAL,
        FULL,
        ADAPTER,
        ADAPTER_OF_A_LOCAL_MODEL,
        HOSTILE,
        GeoVRExportCardData("plain"),
        EXPORT,
        GeoVRExportCardData.of(HOSTILE, AWKWARD, AWKWARD),
    ],
    ids=[
        "minimal",
        "full",
        "adapter",
        "adapter of a local model",
        "hostile characters",
        "minimal export",
        "export",
        "hostile export",
    ],
)


def text(data: GeoVRModelCardData | GeoVRExportCardData) -> str:
    return str(data.render())


def code_blocks(card: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", card, flags=re.MULTILINE | re.DOTALL)


def prose(card: str) -> str:
    """The card without front matter and code."""
    return re.sub(r"^```\w+\n.*?^```$", "code", ModelCard(card).text, flags=re.MULTILINE | re.DOTALL)


class TestRendering:
    @ALL
    def test_the_front_matter_is_read_back_as_it_was_written(self, data):
        written = data.metadata().to_dict()
        assert ModelCard(text(data)).data.to_dict() == written

    @ALL
    def test_the_front_matter_keeps_the_rules_that_the_hub_documents(self, data):
        # What is no id does not come as far as the card.
        front = re.match(r"---\n(.*?)\n---\n", text(replace(data, base_model="me/base")), re.DOTALL)[1]
        assert metadata_errors(front) == []

    @ALL
    def test_no_section_is_empty_and_no_fact_is_missing_in_writing(self, data):
        body = prose(text(data))
        assert not re.search(r"^#[^\n]*\n+(#|\Z)", body, flags=re.MULTILINE)
        assert not re.search(r"\bNone\b|\(\)|:\s*\n\n#|^- *$", body, flags=re.MULTILINE)
        assert "\n\n\n" not in body

    @ALL
    def test_code_compiles(self, data):
        blocks = code_blocks(text(data))
        assert blocks
        for block in blocks:
            ast.parse(block)

    @ALL
    def test_every_row_of_a_table_has_as_many_cells_as_its_header(self, data):
        for block in re.findall(r"(?:^\|.*\n?)+", prose(text(data)), flags=re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1

    def test_awkward_characters_neither_open_html_nor_run_as_template(self):
        body = prose(text(HOSTILE))
        assert not re.search(r"(?<!\\)<", body)
        assert "{{ g }} {% h %}" in body
        constants = [
            node.value for node in ast.walk(ast.parse(code_blocks(text(HOSTILE))[0])) if hasattr(node, "value")
        ]
        assert f"me/{AWKWARD}" in constants

    def test_a_full_card_tells_every_fact(self):
        body = text(FULL)
        for fact in (
            "[Qwen/Qwen3-VL-2B-Instruct](https://huggingface.co/Qwen/Qwen3-VL-2B-Instruct)",
            "[nyu-visionx/VSI-590K](https://huggingface.co/datasets/nyu-visionx/VSI-590K)",
            "374,148 training examples",
            "8 frames of each clip",
            "| camera | each frame's translation, rotation and field of view, relative to the first frame | 2.5 |",
            "| facebook/VGGT-1B |  | geometry | CC-BY-NC-4.0 | not allowed |",
            "| depth-anything/DA3METRIC-LARGE | 0123abc | metric scale | apache-2.0 | allowed |",
            "Energy: 3.25 kWh, 1.5 kg of carbon dioxide",
            "- protocol: lmms-eval\n- scorer: geovr_hf 0.1.0\n- prompt: the published one\n- frames: 32\n",
            "- decoding: strategy greedy, max_new_tokens 16",
            "| all | accuracy ↑ | 0.5 | 0.45 to 0.55 | 1,234 |",
            "| room_size | accuracy ↑ | 0.46 | 0.45 to 0.55 | 1,234 |",
            "Trained parameters: 1,709,000,000 of 2,100,000,000",
            "4 × NVIDIA H100",
            "1 h 12 min",
            "| learning_rate | 2e-05 |",
            "| 20 | 0.2 | 4.5 | 0.5 |",
            "VSI-Bench, split test, 5,130 examples",
            "| answer_accuracy ↑ | 0.691 | 0.5 |",
            "| depth_abs_rel ↓ | 0.12 |  |",
            "![True and predicted depth](pictures/depth.png)",
            "Indoor scenes only.",
            "arXiv:2606.05833",
        ):
            assert fact in body

    def test_results_on_a_named_set_enter_the_model_index(self):
        (accuracy, depth) = ModelCard(text(replace(FULL, results=[]))).data.eval_results
        assert (accuracy.dataset_type, accuracy.metric_type, accuracy.metric_value) == (
            "nyu-visionx/VSI-Bench",
            "answer_accuracy",
            0.691,
        )
        assert depth.metric_type == "depth_abs_rel"

    def test_benchmarks_enter_the_model_index_with_their_conditions(self):
        results = ModelCard(text(FULL)).data.eval_results
        first, other, part = (result for result in results if result.metric_type == "accuracy")
        assert (first.dataset_name, first.dataset_type, first.dataset_split) == (
            "VSI-Bench",
            "nyu-visionx/VSI-Bench",
            "test",
        )
        assert first.metric_args == {
            "protocol": "lmms-eval",
            "scorer": "geovr_hf 0.1.0",
            "prompt": "the published one",
            "frames": 32,
            "decoding": {"strategy": "greedy", "max_new_tokens": 16},
            "confidence_interval_95": [0.45, 0.55],
        }
        assert (part.dataset_config, part.metric_value) == ("room_size", 0.46)
        assert other.metric_name == "accuracy (geovr)" and "confidence_interval_95" not in other.metric_args

    def test_results_on_an_unnamed_set_stay_out_of_the_model_index(self):
        card = ModelCard(text(replace(MINIMAL, evaluations=[CardEvaluation({"answer_accuracy": 0.5})])))
        assert card.data.eval_results is None
        assert "| answer_accuracy ↑ | 0.5 |" in card.text

    def test_geometry_code_is_shown_only_if_the_model_predicts_metric_geometry(self):
        assert "predict_geometry" in text(FULL)
        assert "predict_geometry" not in text(MINIMAL)
        assert "predict_geometry" not in text(replace(FULL, objectives={"lm": 1.0, "camera": 1.0}))

    def test_an_adapter_is_loaded_onto_its_base(self):
        card = ModelCard(text(ADAPTER))
        assert 'load_peft_model("me/geovr-rooms", dtype="auto")' in card.text
        assert "[Qwen/Qwen3-VL-2B-Instruct](https://huggingface.co/Qwen/Qwen3-VL-2B-Instruct)" in card.text
        assert (card.data.library_name, card.data.base_model_relation) == ("peft", "adapter")


class TestLicenceRule:
    def test_a_non_commercial_teacher_is_announced_before_anything_else(self):
        body = ModelCard(text(FULL)).text
        assert body.index("Not for commercial use") < body.index("A video question-answering model")

    def test_a_non_commercial_teacher_lends_its_licence(self):
        assert FULL.metadata().license == "cc-by-nc-4.0"

    def test_a_licence_the_hub_does_not_list_is_given_by_name(self):
        omega = SimpleNamespace(name="omega", licence="FAIR Noncommercial Research License v1", non_commercial=True)
        metadata = replace(FULL, teacher=omega).metadata()
        assert (metadata.license, metadata.license_name) == ("other", "fair-noncommercial-research-license-v1")

    def test_claiming_more_than_the_teacher_allows_is_refused(self):
        with pytest.raises(ValueError, match=r"`license='apache-2.0'` claims more than the teacher"):
            replace(FULL, license="apache-2.0").render()

    def test_without_such_a_teacher_the_licence_is_the_authors_or_left_out(self):
        assert replace(FULL, teacher=PERMISSIVE, license="mit").metadata().license == "mit"
        assert "license" not in replace(FULL, teacher=PERMISSIVE).metadata().to_dict()
        assert "Not for commercial use" not in text(replace(FULL, teacher=PERMISSIVE))


class TestBadInput:
    @pytest.mark.parametrize(
        "change, message",
        [
            ({"value": float("nan")}, "is no finite number"),
            ({"value": "0.5"}, "is no finite number"),
            ({"ci": (0.6, 0.7)}, "must enclose 0.5"),
            ({"ci": (0.4,)}, "must enclose 0.5"),
        ],
    )
    def test_what_is_no_result_is_refused(self, change, message):
        with pytest.raises(ValueError, match=message):
            replace(RECORD, **change)

    @pytest.mark.parametrize(
        "content, message",
        [
            ("no", "is no JSON"),
            ("{}", "holds no list of results"),
            ('[{"task": "t", "dataset": "d", "protocol": "p", "value": 1}]', "Result 0 of .* lacks metric"),
            (
                '[{"task": "t", "dataset": "d", "protocol": "p", "metric": "m", "value": 1, "framse": 8}]',
                "has the unknown framse",
            ),
        ],
    )
    def test_a_file_that_holds_no_results_is_refused(self, tmp_path, content, message):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            read_records(tmp_path / "results.json")

    @pytest.mark.parametrize("path", ["/pictures/depth.png", "../depth.png"])
    def test_an_image_outside_the_cards_folder_is_refused(self, path):
        with pytest.raises(ValueError, match="must lie in the card's folder"):
            replace(MINIMAL, images={path: "depth"}).render()


class TestSaving:
    def test_the_card_is_the_folders_readme_and_nothing_else_is_left(self, tmp_path):
        path = FULL.save(tmp_path / "checkpoint")
        assert path.read_text() == text(FULL)
        assert {file.name for file in path.parent.iterdir()} == {"README.md", "geovr_card.json"}

    def test_a_card_that_cannot_be_rendered_leaves_the_old_one_alone(self, tmp_path):
        path = FULL.save(tmp_path)
        with pytest.raises(ValueError):
            replace(FULL, license="apache-2.0").save(tmp_path)
        assert path.read_text() == text(FULL)


class TestFacts:
    @ALL
    def test_a_card_made_from_its_saved_facts_is_the_same(self, tmp_path, data):
        data.save(tmp_path)
        facts, edited = read_card_facts(tmp_path)
        assert type(facts) is type(data) and not edited
        assert text(facts) == text(data)

    def test_an_edited_card_is_known(self, tmp_path):
        path = FULL.save(tmp_path)
        path.write_text(path.read_text() + "\nMy own words.\n")
        assert read_card_facts(tmp_path)[1]
        (tmp_path / "geovr_card.json").write_text('{"kind": "GeoVRModelCardData"}')
        with pytest.raises(ValueError, match="is damaged or from a later version"):
            read_card_facts(tmp_path)
        (tmp_path / "geovr_card.json").unlink()
        assert read_card_facts(tmp_path) is None

    def test_the_documented_example_is_read(self, tmp_path, project_root):
        example = re.search(r"```json\n(.*?)```", (project_root / "docs" / "sharing.md").read_text(), re.DOTALL)[1]
        (tmp_path / "results.json").write_text(example)
        (record,) = read_records(tmp_path / "results.json")
        documented = {field.name for field in fields(EvaluationRecord)}
        assert {*json.loads(example)[0]} == documented and record.subset == "room_size_estimation"

    def test_records_are_read_as_they_were_written(self, tmp_path):
        records = [RECORD, replace(RECORD, subset="room_size")]
        for content in ([asdict(record) for record in records], {"results": [asdict(record) for record in records]}):
            (tmp_path / "results.json").write_text(json.dumps(content))
            assert [asdict(record) for record in read_records(tmp_path / "results.json")] == json.loads(
                json.dumps([asdict(record) for record in records])
            )


class TestMarkdown:
    def test_numbers_are_readable(self):
        assert [plain(value) for value in (2e-05, 0.123456, 1234567, True, float("nan"))] == [
            "2e-05",
            "0.1235",
            "1,234,567",
            "yes",
            "nan",
        ]

    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [(0.2, "0 s"), (59.6, "1 min"), (75, "1 min 15 s"), (3600, "1 h"), (4325, "1 h 12 min")],
    )
    def test_durations_have_their_two_largest_units(self, seconds, expected):
        assert duration(seconds) == expected

    def test_a_table_without_rows_is_no_table(self):
        assert table(["a", "b"], []) == ""

    def test_a_long_history_is_thinned_to_its_ends_and_steps_between(self):
        lines = loss_table([{"step": step, "loss": 1.0} for step in range(1, 1001)], max_rows=5).splitlines()
        assert [int(line.split("|")[1].replace(",", "")) for line in lines[2:]] == [1, 251, 501, 750, 1000]
