"""Streamed rows in groups about one clip: each once, in one process, as often in one process as in another."""

from collections import Counter

import pytest
import torch
from test_data_datasets import keep_list, media_root, stored_row  # noqa: F401 (a fixture)
from torch.utils.data import DataLoader
from training_support import tiny_model, tiny_processor, training_args

from geovr_hf import GeoVRDataCollator, GeoVRTrainer
from geovr_hf.data import StreamingVideoDataset, VideoDataset
from geovr_hf.modeling.targets_geovr import GeometryTargets
from geovr_hf.trainers.packed_training import question_lengths


pytest.importorskip("av")


def rows_about(clips):
    return [stored_row(clip, number) for number, clip in enumerate(clips)]


CLIPS = ["1.mp4", "2.mp4", "3.mp4", "2.mp4", "4.mp4", "3.mp4", "2.mp4"] * 3


def groups_of(media_root, rows, max_questions, workers=0, **options):  # noqa: F811
    streaming = {name: options.pop(name) for name in ("shuffle_buffer", "seed", "on_bad_sample") if name in options}
    epoch = options.pop("epoch", 0)
    stream = StreamingVideoDataset(rows, media_root, num_frames=1, **streaming).grouped(max_questions, **options)
    stream.set_epoch(epoch)
    return list(DataLoader(stream, batch_size=None, num_workers=workers, collate_fn=keep_list))


def taught(groups):
    return [row["id"] for group in groups for row in group if not row.get("filler")]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle_buffer", [0, 50])
def test_each_question_once_and_as_many_groups_for_all(media_root, world_size, workers, shuffle_buffer):  # noqa: F811
    rows = rows_about(CLIPS)
    shares = [
        groups_of(media_root, rows, 4, workers, rank=rank, world_size=world_size, shuffle_buffer=shuffle_buffer)
        for rank in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    counts = Counter(identifier for share in shares for identifier in taught(share))
    assert counts == Counter(row["id"] for row in rows)


def test_groups_are_about_one_clip_and_share_its_tensor(media_root):  # noqa: F811
    groups = groups_of(media_root, rows_about(CLIPS), 4)
    for group in groups:
        assert len({id(row["messages"][0]["content"][0]["video"]) for row in group}) == 1
    assert sorted(map(len, groups), reverse=True) == [4, 4, 4, 3, 3, 2, 1]  # 9, 6, 3 and 3 questions


def test_a_token_budget_and_the_order_of_epochs(media_root):  # noqa: F811
    rows = rows_about(["1.mp4"] * 6)
    tokenizer = tiny_processor().tokenizer
    turns = "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n0<|im_end|>\n"
    budget = 2 * len(tokenizer(turns)["input_ids"])
    dataset = VideoDataset(rows, media_root, num_frames=1)
    assert question_lengths(dataset, tokenizer) == question_lengths([dataset[0]] * 6, tokenizer) == [budget // 2] * 6
    assert [len(group) for group in groups_of(media_root, rows, 32, max_tokens=budget, tokenizer=tokenizer)] == [2] * 3
    with pytest.raises(ValueError, match="tokenizer"):
        groups_of(media_root, rows, 32, max_tokens=budget)
    orders = [taught(groups_of(media_root, rows_about(CLIPS), 4, shuffle_buffer=50, epoch=n)) for n in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_processes_with_unreadable_clips_get_fillers(media_root):  # noqa: F811
    rows = rows_about(["broken.mp4", "1.mp4", "broken.mp4", "gone.mp4", "2.mp4"])
    shares = [groups_of(media_root, rows, 4, rank=rank, world_size=2, on_bad_sample="skip") for rank in (0, 1)]
    assert [len(share) for share in shares] == [2, 2]
    assert sorted(identifier for share in shares for identifier in taught(share)) == ["q1", "q4"]
    with pytest.raises(ValueError, match="nothing to train on"):
        groups_of(media_root, rows[:1], 4, on_bad_sample="skip")


class CountingReader:
    """Counts what is decoded, by a teacher that is asked for every clip that is."""

    def __init__(self):
        self.count = 0

    def targets(self, clip):
        self.count += 1
        return GeometryTargets(metric_scale=torch.tensor(1.0))


def train(folder, dataset, resume=None, **arguments):
    arguments = {"max_questions_per_clip": 4, "per_device_train_batch_size": 1, "max_steps": 4, **arguments}
    model = tiny_model(objectives=["scale"])
    trained = GeoVRTrainer(
        model, training_args(folder, **arguments), GeoVRDataCollator(tiny_processor()), train_dataset=dataset
    )
    trained.train(resume_from_checkpoint=resume)
    return trained


@pytest.mark.parametrize("streaming", [True, False])
def test_the_trainer_decodes_a_clip_once_per_packed_row(tmp_path, media_root, streaming):  # noqa: F811
    reader = CountingReader()
    kind = StreamingVideoDataset if streaming else VideoDataset
    dataset = kind(rows_about(["1.mp4", "2.mp4"] * 8), media_root, num_frames=1, teacher=reader)
    trained = train(tmp_path, dataset)
    assert trained.state.global_step == 4
    # 16 questions about two clips, four to a row; in order, rows of one clip follow each other and decode it once.
    assert reader.count == (4 if streaming else 2)
    assert all(torch.isfinite(torch.tensor(log["loss"])) for log in trained.state.log_history if "loss" in log)


def test_a_resumed_stream_decodes_no_clip_that_was_trained_on(tmp_path, media_root):  # noqa: F811
    rows, reader = rows_about(["1.mp4", "2.mp4"] * 16), CountingReader()
    run = {"max_steps": 8, "save_strategy": "steps", "save_steps": 5}
    train(tmp_path, StreamingVideoDataset(rows, media_root, num_frames=1, teacher=CountingReader()), **run)
    dataset = StreamingVideoDataset(rows, media_root, num_frames=1, teacher=reader)
    resumed = train(tmp_path, dataset, resume=str(tmp_path / "checkpoint-5"), **run)
    assert resumed.state.global_step == 8
    assert reader.count == 4  # the last three of eight, and the first, which would stand in for a row that is missing
