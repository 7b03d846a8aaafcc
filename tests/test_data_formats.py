import json
import subprocess
import sys

import pytest

from geovr_hf.commands.build_data import open_rows
from geovr_hf.data import VSIBenchPrompt, load_vlm_3r, load_vsi_590k, load_vsi_bench, normalize_row
from geovr_hf.recipe import RowsSource


pytest.importorskip("datasets")

WORD = "Please answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def conversation(text, answer, head="<image>\nThese are frames of a video.\n"):
    return [{"from": "human", "value": f"{head}{text}"}, {"from": "gpt", "value": answer}]


VSI_590K = [
    {
        "conversations": conversation(f"How far apart are the lamp and the sofa, in meters?\n{WORD}", "1.7"),
        "question_type": "absolute_distance_object",
        "video": "scannet/scene9999_00.mp4",
    },
    {
        "conversations": conversation(
            f"Which is nearer?\nOptions:\nA. lamp\nB. sofa\n{LETTER}", "B", head="<image>\n"
        ),
        "question_type": "relative_distance_object",
        "image": "hypersim/ai_001_001/frame.jpg",
        "id": 20092,
    },
    {
        "conversations": conversation(f"How many chairs are there?\n{WORD}", "4"),
        "question_type": "absolute_count",
        "video": "s3dis/Area_1/office.mp4",
        "id": "a late column of another type",
    },
]
VLM_3R = [
    {
        "id": "00000000-0000-4000-8000-000000000001",
        "data_source": "scannetpp",
        "scene_name": "0a1b2c3d4e",
        "question_type": "object_rel_distance",
        "video": "scannetpp/videos/0a1b2c3d4e.mp4",
        "conversations": conversation(
            f"Which of these objects is nearest?\nOptions:\nA. desk\nB. bin\nC. door\n{LETTER}", "B"
        ),
    },
    {
        "id": "00000000-0000-4000-8000-000000000002",
        "data_source": "arkitscenes",
        "scene_name": "49999999",
        "video": "arkitscenes/49999999.mp4",
        "conversations": conversation(f"How many chairs?\n{WORD}", "4"),
    },
]
VSI_BENCH = [
    {
        "id": 90001,
        "dataset": "arkitscenes",
        "scene_name": "49999999",
        "question_type": "object_rel_direction_hard",
        "question": "Standing by the fridge and facing the table, where is the sink?",
        "options": ["A. front-left", "B. front-right", "C. back-left", "D. back-right"],
        "ground_truth": "C",
        "pruned": False,
    },
    {
        "id": 90002,
        "dataset": "scannet",
        "scene_name": "scene9998_00",
        "question_type": "object_counting",
        "question": "How many chairs are in this room?",
        "options": None,
        "ground_truth": "4",
        "pruned": False,
    },
]


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_list(path, records, indent=None):
    path.write_text(json.dumps(records, indent=indent))
    return path


def user_parts(row):
    return normalize_row(row, "row")["messages"][0]["content"]


@pytest.mark.parametrize("streaming", [False, True])
class TestVSI590K:
    def load(self, tmp_path, streaming, **options):
        path = write_lines(tmp_path / "vsi_590k.jsonl", VSI_590K)
        return list(load_vsi_590k(path, streaming=streaming, **options))

    def test_video_rows_lose_placeholder_and_video_sentence_but_not_the_instruction(self, tmp_path, streaming):
        row = self.load(tmp_path, streaming)[0]
        assert user_parts(row) == [
            {"type": "video", "video": "scannet/scene9999_00.mp4"},
            {"type": "text", "text": f"How far apart are the lamp and the sofa, in meters?\n{WORD}"},
        ]
        assert row["messages"][1]["role"] == "assistant"
        assert (row["answer"], row["options"], row["question_type"]) == ("1.7", None, "absolute_distance_object")

    def test_image_rows_hold_a_picture_and_list_their_options(self, tmp_path, streaming):
        (row,) = self.load(tmp_path, streaming, media="image")
        assert user_parts(row)[0] == {"type": "image", "image": "hypersim/ai_001_001/frame.jpg"}
        assert (row["id"], row["answer"], row["options"]) == ("20092", "B", ["A. lamp", "B. sofa"])

    def test_media_and_sources_are_chosen(self, tmp_path, streaming):
        assert [len(self.load(tmp_path, streaming, media=media)) for media in ("video", "image", "all")] == [2, 1, 3]
        assert len(self.load(tmp_path, streaming, media="all", exclude=("s3dis", "hypersim"))) == 1

    def test_rows_without_an_id_are_called_by_their_line(self, tmp_path, streaming):
        assert [row["id"] for row in self.load(tmp_path, streaming)] == [
            "vsi_590k.jsonl, line 1",
            "a late column of another type",
        ]

    @pytest.mark.parametrize(
        "change,reason",
        [
            ({"conversations": None}, "conversations"),
            ({"conversations": "hello"}, "list of dicts"),
            ({"conversations": [{"from": "user", "value": "<image>\nhi"}, {"from": "gpt", "value": "4"}]}, "user"),
            ({"conversations": [{"from": "human", "value": "<image>\nhi"}]}, "in turn"),
            ({"conversations": [{"from": "human", "text": "<image>\nhi"}, {"from": "gpt", "value": "4"}]}, "value"),
            ({"conversations": conversation("hi", "4", head="")}, "placeholder"),
            ({"conversations": conversation("hi", "4", head="<image>\n<image>\n")}, "placeholder"),
            ({"video": None}, "exactly one of"),
            ({"image": "too.jpg"}, "exactly one of"),
            ({"question_type": None}, "question_type"),
        ],
    )
    def test_a_malformed_record_is_named_by_its_line(self, tmp_path, streaming, change, reason):
        path = write_lines(tmp_path / "vsi_590k.jsonl", [VSI_590K[0], VSI_590K[0] | change])
        with pytest.raises(ValueError, match=rf"(?s)vsi_590k\.jsonl, line 2.*{reason}"):
            list(load_vsi_590k(path, streaming=streaming))

    @pytest.mark.parametrize("line", ["{not json}", "[1, 2]", '"text"'])
    def test_a_line_that_is_no_object_is_named(self, tmp_path, streaming, line):
        path = tmp_path / "vsi_590k.jsonl"
        path.write_text(json.dumps(VSI_590K[0]) + f"\n\n{line}\n")
        with pytest.raises(ValueError, match=r"vsi_590k\.jsonl, line 3"):
            list(load_vsi_590k(path, streaming=streaming))


class TestVLM3R:
    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize("indent", [None, 2])
    def test_one_list_of_records_is_read(self, tmp_path, streaming, indent):
        path = write_list(tmp_path / "vlm3r_vsi_205k.json", VLM_3R * 3, indent)
        rows = list(load_vlm_3r(path, streaming=streaming))
        assert len(rows) == 6
        assert [row["question_type"] for row in rows[:2]] == ["object_rel_distance", None]
        assert rows[0]["options"] == ["A. desk", "B. bin", "C. door"] and rows[1]["answer"] == "4"

    def test_the_three_merged_files_of_a_folder_are_read_and_nothing_else(self, tmp_path):
        write_list(tmp_path / "merged_qa_scannet_train.json", VLM_3R)
        write_list(tmp_path / "merged_qa_route_plan_train.json", VLM_3R[1:])
        write_list(tmp_path / "erratum_dropped_items.json", [{"id": 1}])
        assert len(load_vlm_3r(tmp_path)) == 3

    def test_videos_are_found_in_either_layout(self, tmp_path):
        path = write_list(tmp_path / "vlm3r_vsi_205k.json", VLM_3R)
        shared = [user_parts(row)[0]["video"] for row in load_vlm_3r(path)]
        assert shared == ["scannetppv2/0a1b2c3d4e.mp4", "arkitscenes/49999999.mp4"]
        own = [user_parts(row)[0]["video"] for row in load_vlm_3r(path, media_layout="vlm_3r")]
        assert own == ["scannetpp/videos/0a1b2c3d4e.mp4", "arkitscenes/49999999.mp4"]

    @pytest.mark.parametrize("change,reason", [({"data_source": "mars"}, "mars"), ({"scene_name": ""}, "scene_name")])
    def test_a_malformed_record_is_named_by_its_number(self, tmp_path, change, reason):
        path = write_list(tmp_path / "vlm3r.json", [VLM_3R[0], VLM_3R[0] | change])
        with pytest.raises(ValueError, match=rf"vlm3r\.json, record 2.*{reason}"):
            load_vlm_3r(path)

    @pytest.mark.parametrize("cut", [1, 40])
    def test_a_list_that_breaks_off_is_an_error_not_a_short_dataset(self, tmp_path, cut):
        path = write_list(tmp_path / "vlm3r.json", VLM_3R)
        path.write_text(path.read_text()[:-cut])
        with pytest.raises(ValueError, match=r"vlm3r\.json, record [23]: not JSON"):
            load_vlm_3r(path)


class TestVSIBench:
    @pytest.mark.parametrize("streaming", [False, True])
    def test_prompts_are_lmms_evals(self, tmp_path, streaming):
        choice, number = load_vsi_bench(write_lines(tmp_path / "test.jsonl", VSI_BENCH), streaming=streaming)
        assert user_parts(choice) == [
            {"type": "video", "video": "arkitscenes/49999999.mp4"},
            {
                "type": "text",
                "text": "These are frames of a video.\n"
                "Standing by the fridge and facing the table, where is the sink?\n"
                "Options:\nA. front-left\nB. front-right\nC. back-left\nD. back-right\n" + LETTER,
            },
        ]
        assert user_parts(number)[1]["text"] == (
            f"These are frames of a video.\nHow many chairs are in this room?\n{WORD}"
        )
        assert (choice["id"], choice["answer"], len(choice["options"])) == ("90001", "C", 4)
        assert (number["question_type"], number["answer"], number["options"]) == ("object_counting", "4", None)

    def test_another_prompt_can_be_set(self, tmp_path):
        prompt = VSIBenchPrompt(head="", numeric="Reply with one number.")
        rows = load_vsi_bench(write_lines(tmp_path / "test.jsonl", VSI_BENCH), prompt=prompt)
        assert user_parts(rows[1])[1]["text"] == "How many chairs are in this room?\nReply with one number."

    def test_the_subsets_are_the_published_files(self, tmp_path):
        parquet = pytest.importorskip("pyarrow.parquet")
        pyarrow = pytest.importorskip("pyarrow")
        write_lines(tmp_path / "test.jsonl", VSI_BENCH)
        parquet.write_table(pyarrow.Table.from_pylist(VSI_BENCH[1:]), tmp_path / "test_debiased.parquet")
        assert len(load_vsi_bench(tmp_path)) == 2
        (row,) = load_vsi_bench(tmp_path, subset="debiased")
        assert row["id"] == "90002"
        with pytest.raises(ValueError, match=r"test_pruned\.parquet"):
            load_vsi_bench(tmp_path, subset="pruned")

    @pytest.mark.parametrize(
        "change", [{"question_type": "object_smell"}, {"ground_truth": None}, {"options": None}, {"scene_name": None}]
    )
    def test_a_malformed_record_is_named(self, tmp_path, change):
        path = write_lines(tmp_path / "test.jsonl", [VSI_BENCH[0] | change])
        with pytest.raises(ValueError, match=rf"test\.jsonl, line 1.*{next(iter(change))}"):
            load_vsi_bench(path)


class TestRows:
    """`format: rows`: records that are stored rows already."""

    ROWS = [{"messages": [{"role": role, "content": "Größe?"}]} for role in ("user", "assistant")]

    def open(self, path, **options):
        return open_rows(RowsSource("rows", str(path), str(path.parent), **options), str(path))

    @pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.ndjson", "rows.txt", "rows"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    def test_lines_and_lists_are_read_whatever_the_suffix(self, tmp_path, name, encoding):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.ROWS)
        for text in (lines, json.dumps(self.ROWS, ensure_ascii=False), json.dumps(self.ROWS, indent=1)):
            (tmp_path / name).write_text(text, encoding=encoding)
            assert self.open(tmp_path / name) == self.ROWS
            assert self.open(tmp_path / name, limit=1) == self.ROWS[:1]

    def test_parquet_is_read(self, tmp_path):
        pytest.importorskip("datasets").Dataset.from_list(self.ROWS).to_parquet(tmp_path / "rows.parquet")
        assert self.open(tmp_path / "rows.parquet") == self.ROWS

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b'{"a": 1}\n{"messages": [}\n', r"rows.jsonl, line 2: not JSON"),
            (b'{"a": 1}\n3\n', r"rows.jsonl, line 2: expected an object, got 3"),
            ('{"a": 1}\n\n{"a": "Größe"}'.encode("latin-1"), r"rows.jsonl, line 3: not UTF-8: .* Save it as UTF-8"),
        ],
    )
    def test_what_is_wrong_is_named_by_file_and_line(self, tmp_path, content, message):
        (tmp_path / "rows.jsonl").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            self.open(tmp_path / "rows.jsonl")

    def test_a_missing_file_is_named_with_its_option(self, tmp_path):
        source = RowsSource("rows", "rows.jsonl", str(tmp_path), eval_path="held-out.jsonl")
        with pytest.raises(ValueError, match="`eval_path`: no such file: held-out.jsonl"):
            open_rows(source, source.eval_path)


def test_a_file_that_changed_is_read_anew(tmp_path):
    path = write_lines(tmp_path / "test.jsonl", VSI_BENCH)
    assert len(load_vsi_bench(path)) == 2
    write_lines(path, VSI_BENCH[:1])
    assert len(load_vsi_bench(path)) == 1


@pytest.mark.parametrize("path", ["nowhere.jsonl", "no/such/folder", "folder/test.parquet"])
def test_a_missing_file_is_named(path):
    with pytest.raises(ValueError, match=path):
        load_vsi_bench(path)


def test_the_data_package_imports_without_datasets_and_av():
    code = """
import sys
sys.modules["datasets"] = sys.modules["av"] = None
from geovr_hf.data import load_vsi_bench, read_clip
for call, hint in ((lambda: read_clip("a.mp4"), "geovr_hf[video]"), (lambda: load_vsi_bench(__file__), "datasets")):
    try:
        call()
    except ImportError as error:
        assert hint in str(error), error
    else:
        raise AssertionError(hint)
"""
    code = code.replace("__file__", repr(__file__))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
