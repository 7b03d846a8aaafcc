"""Every question once, whatever the number of processes, and those about one clip together."""

from collections import Counter

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset
from training_support import image, row, text, video

from geovr_hf.trainers.clip_sampler import ClipBatchSampler, Filler, MarkedRows, clip_keys


KEYS = [f"clip {index % 7}" if index % 5 else None for index in range(83)]


def rounds(sampler):
    batches = list(sampler)
    assert len(batches) == len(sampler) and len(batches) % sampler.num_processes == 0
    return batches


@pytest.mark.parametrize("num_processes", [1, 2, 3, 8])
@pytest.mark.parametrize(("clips", "questions"), [(1, 1), (2, 1), (1, 4), (3, 32)])
def test_every_question_once_per_epoch_and_batches_for_all(num_processes, clips, questions):
    sampler = ClipBatchSampler(KEYS, clips, questions, num_processes=num_processes)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        taught = [index for batch in rounds(sampler) for index in batch if not isinstance(index, Filler)]
        assert sorted(taught) == list(range(len(KEYS)))
        assert all(batch for batch in sampler)


@pytest.mark.parametrize("num_processes", [1, 3])
def test_no_batch_has_more_than_it_may(num_processes):
    sampler = ClipBatchSampler(KEYS, 2, 4, num_processes=num_processes)
    for batch in sampler:
        rows = Counter(("alone", index) if KEYS[index] is None else KEYS[index] for index in batch)
        assert sum(-(-count // 4) for count in rows.values()) <= 2
        assert len(batch) <= 8


def test_questions_of_a_clip_stand_together():
    sampler = ClipBatchSampler(["a", "b"] * 6, 1, 6)
    assert sorted(sorted(batch) for batch in sampler) == [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_last_round_that_is_not_full_can_be_left_out(num_processes):
    sampler = ClipBatchSampler([None] * 11, clips_per_batch=2, num_processes=num_processes, drop_last=True)
    batches = list(sampler)
    assert len(sampler) == len(batches) == {1: 5, 2: 4}[num_processes]
    assert all(len(batch) == 2 for batch in batches)


def test_a_token_budget_parts_the_questions_of_a_clip():
    lengths = [50, 60, 40, 10, 500, 30]
    sampler = ClipBatchSampler(["a"] * 6, 1, 32, lengths=lengths, max_tokens=100, shuffle=False)
    assert list(sampler) == [[0], [1, 2], [3], [4], [5]]
    for seed in range(5):
        for batch in ClipBatchSampler(["a"] * 6, 1, 32, lengths=lengths, max_tokens=100, seed=seed):
            assert len(batch) == 1 or sum(lengths[index] for index in batch) <= 100


def test_the_seed_decides_and_epochs_differ():
    def order(seed, epoch):
        sampler = ClipBatchSampler(KEYS, 2, 4, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) and order(0, 0) != order(1, 0)
    assert sorted(map(len, order(0, 0))) != [1] * len(KEYS)


def test_processes_without_a_question_get_a_filler():
    batches = list(ClipBatchSampler(["a", "a"], 1, 32, num_processes=4))
    assert [len(batch) for batch in batches] == [1] * 4
    assert [isinstance(batch[0], Filler) for batch in batches].count(True) == 2
    rows = MarkedRows([{"id": "first"}, {"id": "second"}])
    assert rows[0] == {"id": "first"} and rows[Filler(1)] == {"id": "second", "filler": True}
    loader = DataLoader(rows, batch_sampler=[[0], [Filler(1)]], collate_fn=list, num_workers=1)
    assert [batch[0].get("filler", False) for batch in loader] == [False, True]  # the mark survives the worker


@pytest.mark.parametrize(
    ("keys", "arguments", "message"),
    [
        ([], {}, "no rows"),
        (["a"], {"clips_per_batch": 0}, "at least 1"),
        (["a"], {"max_tokens": 8}, "lengths"),
        (["a"], {"clips_per_batch": 2, "drop_last": True}, "leaves nothing"),
    ],
)
def test_impossible_arguments_are_refused(keys, arguments, message):
    with pytest.raises(ValueError, match=message):
        ClipBatchSampler(keys, **{"clips_per_batch": 1, **arguments})


class Keyed(torch.utils.data.Dataset):
    def __init__(self, keys):
        self.keys = keys

    def __len__(self):
        return len(self.keys)

    def clip_key(self, index):
        return self.keys[index]


class TestKeys:
    def test_joined_data_sets_keep_their_clips_apart(self):
        first, second = Keyed(["a", "b", None]), Keyed(["a"])
        keys = clip_keys(ConcatDataset([first, Subset(second, [0, 0])]))
        assert keys[0] != keys[3] and keys[3] == keys[4] and keys[2] is None and len(keys) == 5

    def test_rows_in_a_list_are_compared_by_their_frames(self):
        clip = video(2)
        rows = [row("1", clip), row("2", clip, question="Which?"), row("3", video(2)), row("4")]
        keys = clip_keys(rows)
        assert keys[0] == keys[1] != keys[2] and keys[3] is None
        completion = {"prompt": [{"role": "user", "content": [clip, text("Hello?")]}], "completion": []}
        assert clip_keys([completion, rows[0]])[0] == keys[0]

    def test_rows_in_a_list_are_compared_by_their_columns_of_media(self):
        clip, other, picture = video(2), video(2), image()["image"]
        bare = [{"type": "video", "video": None}, {"type": "image"}]
        rows = [row("1", *bare, videos=[clip], images=[picture]), row("2", *bare, videos=[clip], image=picture)]
        rows += [row("3", *bare, videos=[other], images=[picture]), row("4", {"type": "video"}, videos=[clip])]
        keys = clip_keys(rows)
        assert keys[0] == keys[1] and len(set(keys)) == 3
        in_place = row("5", clip)
        assert clip_keys([in_place])[0] == keys[3]
        text_alone = {"messages": [{"role": "user", "content": "Hello?"}], "videos": [clip]}
        assert clip_keys([text_alone])[0] == keys[3]
        with pytest.raises(ValueError, match="row 1: a placeholder .* finds nothing left"):
            clip_keys([in_place, row("6", {"type": "video"})])

    def test_a_data_set_that_does_not_say_shares_nothing(self, caplog):
        class Silent(Keyed):
            clip_key = property()

        assert clip_keys(Silent(["a", "a"])) == [None, None]
