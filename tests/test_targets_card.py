import ast
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hub_repositories import metadata_errors
from huggingface_hub import DatasetCard

from geovr_hf.hub_cards import GeoVRTargetsCardData
from geovr_hf.hub_cards.markdown import byte_size


NON_COMMERCIAL = SimpleNamespace(name="facebook/VGGT-1B", licence="CC-BY-NC-4.0", non_commercial=True)
RESEARCH_ONLY = SimpleNamespace(name="someone/metres", licence="Research License v1", non_commercial=True)
PERMISSIVE = SimpleNamespace(name="depth-anything/DA3METRIC-LARGE", licence="apache-2.0", non_commercial=False)
AWKWARD = 'a|b `c` *d* <e> "f" {{ g }} {% h %} \\ [i]\n---\nj: k # l'

MINIMAL = GeoVRTargetsCardData("targets", PERMISSIVE, num_clips=0, num_bytes=0)
FULL = GeoVRTargetsCardData(
    "me/geovr-targets",
    teacher=NON_COMMERCIAL,
    metric=PERMISSIVE,
    num_clips=1234,
    num_bytes=81_234_567_890,
    num_unreadable=3,
    contents={"features": "bfloat16, layers 4, 11, 17, 23", "depth": "float16, 392 × 504"},
    sampling={"num_frames": 32},
    tags=["indoor"],
    versions={"geovr_hf": "0.1"},
)
HOSTILE = GeoVRTargetsCardData(
    f"me/{AWKWARD}",
    teacher=SimpleNamespace(name=AWKWARD, licence=AWKWARD, non_commercial=True),
    metric=SimpleNamespace(name=AWKWARD, licence=AWKWARD, non_commercial=True),
    num_clips=1,
    num_bytes=1,
    contents={AWKWARD: AWKWARD},
    sampling={"fps": 2.0, "max_frames": None},
    tags=[AWKWARD],
    versions={AWKWARD: AWKWARD},
)
ALL = pytest.mark.parametrize("data", [MINIMAL, FULL, HOSTILE], ids=["minimal", "full", "hostile characters"])


def text(data: GeoVRTargetsCardData) -> str:
    return str(data.render())


def prose(card: str) -> str:
    """The card without front matter and code."""
    return re.sub(r"^```\w+\n.*?^```$", "code", DatasetCard(card).text, flags=re.MULTILINE | re.DOTALL)


class TestRendering:
    @ALL
    def test_the_front_matter_is_read_back_as_it_was_written_and_breaks_no_rule_of_the_hub(self, data):
        card = DatasetCard(text(data))
        assert card.data.to_dict() == data.metadata().to_dict()
        assert metadata_errors(card.data.to_yaml()) == []

    @ALL
    def test_no_section_is_empty_and_no_fact_is_missing_in_writing(self, data):
        body = prose(text(data))
        assert not re.search(r"^#[^\n]*\n+(#|\Z)", body, flags=re.MULTILINE)
        assert not re.search(r"\bNone\b|\(\)|:\s*\n\n#|^- *$", body, flags=re.MULTILINE)
        assert "\n\n\n" not in body

    @ALL
    def test_code_compiles_and_tables_are_whole(self, data):
        blocks = re.findall(r"^```python\n(.*?)^```$", text(data), flags=re.MULTILINE | re.DOTALL)
        assert blocks
        for block in blocks:
            ast.parse(block)
        for block in re.findall(r"(?:^\|.*\n?)+", prose(text(data)), flags=re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1

    def test_awkward_characters_neither_open_html_nor_run_as_template(self):
        body = prose(text(HOSTILE))
        assert not re.search(r"(?<!\\)<(?!kk>|key>)", body)
        assert "{{ g }} {% h %}" in body

    def test_a_full_card_tells_every_fact(self):
        body = text(FULL)
        for fact in (
            "1,234 clips, 81.2 GB, 65.8 MB each on average",
            "The videos themselves are not contained.",
            "3 more could not be read",
            "computed with geovr_hf 0.1",
            "| facebook/VGGT-1B | geometry | CC-BY-NC-4.0 | not allowed |",
            "| depth-anything/DA3METRIC-LARGE | metric scale | apache-2.0 | allowed |",
            "| depth | float16, 392 × 504 |",
            'VideoDataset(rows, "videos", num_frames=32, teacher=targets)',
            'pull_target_folder("me/geovr-targets", "targets")',
            "arXiv:2606.05833",
        ):
            assert fact in body

    @pytest.mark.parametrize(
        ("num_clips", "category"),
        [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**7, "10M<n<100M")],
    )
    def test_the_size_category_is_that_of_the_clips(self, num_clips, category):
        assert replace(FULL, num_clips=num_clips).metadata().size_categories == [category]

    def test_only_the_index_is_read_as_a_table(self):
        assert FULL.metadata().configs == [{"config_name": "default", "data_files": "index.parquet"}]


class TestLicenceRule:
    def test_a_non_commercial_teacher_is_announced_before_anything_else_and_lends_its_licence(self):
        body = DatasetCard(text(FULL)).text
        assert body.index("Not for commercial use") < body.index("Geometry of")
        assert FULL.metadata().license == "cc-by-nc-4.0"

    def test_a_non_commercial_metric_network_counts_as_much(self):
        data = replace(FULL, teacher=PERMISSIVE, metric=RESEARCH_ONLY)
        assert "computed by someone/metres (Research License v1), which" in text(data)
        assert (data.metadata().license, data.metadata().license_name) == ("other", "research-license-v1")

    def test_two_such_licences_are_both_named(self):
        metadata = replace(FULL, metric=RESEARCH_ONLY).metadata()
        assert (metadata.license, metadata.license_name) == ("other", "cc-by-nc-4.0-and-research-license-v1")

    def test_claiming_more_than_they_allow_is_refused(self):
        with pytest.raises(
            ValueError, match=r"`license='apache-2.0'` claims more than the teacher 'facebook/VGGT-1B'"
        ):
            replace(FULL, license="apache-2.0").render()

    def test_without_such_networks_the_licence_is_the_authors_or_left_out(self):
        permissive = replace(FULL, teacher=PERMISSIVE)
        assert replace(permissive, license="mit").metadata().license == "mit"
        assert "license" not in permissive.metadata().to_dict()
        assert "Not for commercial use" not in text(permissive)


class TestSaving:
    def test_the_card_is_the_folders_readme_and_nothing_else_is_left(self, tmp_path):
        path = FULL.save(tmp_path / "targets")
        assert path.read_text() == text(FULL)
        assert [file.name for file in path.parent.iterdir()] == ["README.md"]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (999.6, "1 kB"),
        (1500, "1.5 kB"),
        (66_100_000, "66.1 MB"),
        (10**15, "1000 TB"),
    ],
)
def test_sizes_have_three_digits(count, expected):
    assert byte_size(count) == expected
