from collections import Counter
from pathlib import Path

import pytest
import torch
from clip_files import read_number, write_video
from torch.utils.data import DataLoader

from geovr_hf.data import StreamingVideoDataset, UnreadableClipError, VideoDataset
from geovr_hf.modeling.targets_geovr import GeometryTargets


pytest.importorskip("av")


def stored_row(path, number):
    return {
        "messages": [
            {"role": "user", "content": [{"type": "video", "video": path}, {"type": "text", "text": "How many?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": str(number)}]},
        ],
        "id": f"q{number}",
    }


@pytest.fixture(scope="module")
def media_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("media")
    for length in (1, 2, 3, 4):
        write_video(root / f"{length}.mp4", num_frames=length)
    (root / "broken.mp4").write_bytes(b"no video")
    return root


@pytest.fixture
def rows():
    return [stored_row(f"{1 + number % 4}.mp4", number) for number in range(20)]


@pytest.fixture
def rows_with_bad(rows):
    rows[3] = stored_row("broken.mp4", 3)
    rows[11] = stored_row("gone.mp4", 11)
    rows[12] = stored_row("broken.mp4", 12)
    return rows


def ids(rows):
    return [row["id"] for row in rows]


def keep_list(batch):
    return batch


class NumberTeacher:
    """A teacher that reads the number out of the last frame."""

    def targets(self, clip):
        return GeometryTargets(metric_scale=torch.tensor(float(read_number(clip.frames[-1]))))


class TestVideoDataset:
    def test_rows_are_decoded_by_index_with_targets(self, rows, media_root):
        dataset = VideoDataset(rows, media_root, num_frames=8, teacher=NumberTeacher())
        assert len(dataset) == 20
        assert dataset[2]["id"] == "q2"
        assert len(dataset[2]["messages"][0]["content"][0]["video"]) == 3
        assert float(dataset[2]["geometry_targets"][0].metric_scale) == 2

    def test_a_datasets_table_is_taken_too(self, rows, media_root):
        datasets = pytest.importorskip("datasets")
        dataset = VideoDataset(datasets.Dataset.from_list(rows), media_root, num_frames=2)
        assert len(dataset[3]["messages"][0]["content"][0]["video"]) == 2

    def test_an_unreadable_clip_is_an_error_that_names_row_and_file(self, rows_with_bad, media_root):
        dataset = VideoDataset(rows_with_bad, media_root)
        with pytest.raises(UnreadableClipError, match=r"row 11 \(id 'q11'\).*gone\.mp4"):
            dataset[11]

    def test_the_error_comes_through_the_workers_of_a_data_loader(self, rows_with_bad, media_root):
        loader = DataLoader(VideoDataset(rows_with_bad, media_root), num_workers=1, collate_fn=keep_list)
        with pytest.raises(UnreadableClipError, match=r"row 3 .*broken\.mp4"):
            list(loader)

    def test_skipping_drops_counts_and_lists_and_never_substitutes(self, rows_with_bad, media_root):
        dataset = VideoDataset(rows_with_bad, media_root, on_bad_sample="skip", num_check_threads=2)
        assert len(dataset) == 17
        assert ids(dataset[index] for index in range(17)) == [f"q{n}" for n in range(20) if n not in (3, 11, 12)]
        assert [(skipped.row, skipped.id) for skipped in dataset.skipped] == [(3, "q3"), (11, "q11"), (12, "q12")]
        assert "broken.mp4" in dataset.skipped[0].reason and "gone.mp4" in dataset.skipped[1].reason

    def test_checking_reads_a_shared_clip_once(self, rows_with_bad, media_root, monkeypatch):
        import geovr_hf.data.rows as module

        read, original = Counter(), module.read_sampled_clip

        def counting(path, *args):
            read[Path(path).name] += 1
            return original(path, *args)

        monkeypatch.setattr(module, "read_sampled_clip", counting)
        VideoDataset(rows_with_bad, media_root, on_bad_sample="skip")
        assert set(read) == {"1.mp4", "2.mp4", "3.mp4", "4.mp4", "broken.mp4", "gone.mp4"}
        assert set(read.values()) == {1}

    @pytest.mark.parametrize("mode", ["raise", "skip"])
    def test_a_path_out_of_the_root_is_an_error_in_every_mode(self, mode, media_root):
        with pytest.raises(ValueError, match=r"row 0 .*\.\./1\.mp4"):
            VideoDataset([stored_row("../1.mp4", 0)], media_root, on_bad_sample=mode)[0]

    def test_another_mode_is_refused(self, rows, media_root):
        for kind in (VideoDataset, StreamingVideoDataset):
            with pytest.raises(ValueError, match="replace"):
                kind(rows, media_root, on_bad_sample="replace")


class TestStreamingVideoDataset:
    def stream(self, dataset, workers=0):
        return ids(DataLoader(dataset, batch_size=None, num_workers=workers))

    def test_rows_come_in_order_with_targets(self, rows, media_root):
        dataset = StreamingVideoDataset(rows, media_root, num_frames=2, teacher=NumberTeacher())
        assert ids(dataset) == [f"q{number}" for number in range(20)]
        assert float(next(iter(dataset))["geometry_targets"][0].metric_scale) == 0

    @pytest.mark.parametrize("workers", [1, 2])
    @pytest.mark.parametrize("kind", ["list", "datasets"])
    def test_workers_share_the_rows_without_loss_or_repetition(self, rows, media_root, workers, kind):
        if kind == "datasets":
            # One shard: left to itself, `datasets` would give all rows to one worker.
            rows = pytest.importorskip("datasets").Dataset.from_list(rows).to_iterable_dataset(num_shards=1)
        streamed = self.stream(StreamingVideoDataset(rows, media_root, num_frames=1), workers)
        assert sorted(streamed) == sorted(f"q{number}" for number in range(20))
        assert streamed[0] == "q0" and streamed[1] == "q1", "all workers take part from the start"

    def test_ranks_share_the_rows_also_when_shuffled(self, rows, media_root):
        shares = [
            ids(StreamingVideoDataset(rows, media_root, num_frames=1, shuffle_buffer=6, rank=rank, world_size=3))
            for rank in range(3)
        ]
        assert sorted(sum(shares, [])) == sorted(f"q{number}" for number in range(20))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1

    def test_workers_of_two_ranks_share_the_rows(self, rows, media_root):
        shares = [
            self.stream(StreamingVideoDataset(rows, media_root, num_frames=1, rank=rank, world_size=2), workers=2)
            for rank in range(2)
        ]
        assert sorted(sum(shares, [])) == sorted(f"q{number}" for number in range(20))

    def test_shuffling_follows_seed_and_epoch(self, rows, media_root):
        def order(seed, epoch=0, workers=0):
            dataset = StreamingVideoDataset(rows, media_root, num_frames=1, shuffle_buffer=8, seed=seed)
            dataset.set_epoch(epoch)
            return self.stream(dataset, workers)

        assert order(1) == order(1) != [f"q{number}" for number in range(20)]
        assert order(1) != order(2) and order(1) != order(1, epoch=1)
        assert sorted(order(1, workers=2)) == sorted(order(1))

    def test_persistent_workers_see_the_epoch(self, rows, media_root):
        dataset = StreamingVideoDataset(rows, media_root, num_frames=1, shuffle_buffer=8)
        loader = DataLoader(dataset, batch_size=None, num_workers=1, persistent_workers=True)
        first = ids(loader)
        dataset.set_epoch(1)
        assert ids(loader) != first

    @pytest.mark.parametrize("workers", [0, 2])
    def test_skipped_rows_are_listed_in_the_main_process(self, rows_with_bad, media_root, workers):
        dataset = StreamingVideoDataset(rows_with_bad, media_root, num_frames=1, on_bad_sample="skip")
        assert dataset.skipped == []
        for _ in range(2):  # a second epoch does not list them again
            assert len(self.stream(dataset, workers)) == 17
            assert [(skipped.row, skipped.id) for skipped in dataset.skipped] == [(3, "q3"), (11, "q11"), (12, "q12")]
        assert "gone.mp4" in dataset.skipped[1].reason

    def test_the_report_can_be_kept_and_otherwise_goes_with_the_dataset(self, rows_with_bad, media_root, tmp_path):
        options = {"num_frames": 1, "on_bad_sample": "skip"}
        kept = StreamingVideoDataset(rows_with_bad, media_root, skipped_path=tmp_path / "skipped.jsonl", **options)
        self.stream(kept)
        del kept
        assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 3
        passing = StreamingVideoDataset(rows_with_bad, media_root, **options)
        self.stream(passing, workers=1)
        report = Path(passing.skipped_path)
        assert report.exists()
        del passing
        assert not report.exists()

    def test_without_skipping_the_first_unreadable_clip_stops_the_stream(self, rows_with_bad, media_root):
        with pytest.raises(UnreadableClipError, match=r"row 3 .*broken\.mp4"):
            list(StreamingVideoDataset(rows_with_bad, media_root))

    def test_a_rank_outside_the_world_is_refused(self, rows, media_root):
        with pytest.raises(ValueError, match="world_size"):
            StreamingVideoDataset(rows, media_root, rank=2, world_size=2)
