"""The processor: what a clip becomes in text and in pixels."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tiny import question, random_frames, tiny_processor
from transformers import AutoProcessor, Qwen3VLProcessor
from transformers.video_utils import VideoMetadata


FRAMES = random_frames(3)
TIMES = [[0.0, 1.5, 4.0]]


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def read(processor, **kwargs):
    inputs = processor(text=[question()], return_tensors="pt", **kwargs)
    return inputs, processor.tokenizer.decode(inputs["input_ids"][0])


def test_geometry_tokens_close_each_frame_and_the_clip(processor):
    inputs, text = read(processor, videos=[FRAMES], video_timestamps=TIMES, geometry_tokens=True)
    frame = "<|video_pad|>" * 6
    assert (
        f"<0.0 seconds><|vision_start|>{frame}<|camera_first|><|vision_end|>"
        f"<1.5 seconds><|vision_start|>{frame}<|camera|><|vision_end|>"
        f"<4.0 seconds><|vision_start|>{frame}<|camera|><|scale|><|vision_end|>How many"
    ) in text
    assert inputs["video_grid_thw"].tolist() == [[3, 4, 6]]


def test_each_frame_is_a_temporal_patch_of_its_own(processor):
    inputs, _ = read(processor, videos=[FRAMES], video_timestamps=TIMES, geometry_tokens=True)
    patches = inputs["pixel_values_videos"].view(3, -1, 3, 2, 16, 16)
    assert torch.equal(patches[:, :, :, 0], patches[:, :, :, 1])
    alone, _ = read(processor, videos=[FRAMES[1:2]], video_timestamps=[[1.5]], geometry_tokens=True)
    assert torch.equal(alone["pixel_values_videos"], inputs["pixel_values_videos"][24:48])


def test_without_geometry_tokens_two_frames_share_a_patch(processor):
    inputs, text = read(processor, videos=[FRAMES], video_timestamps=TIMES)
    assert inputs["video_grid_thw"].tolist() == [[2, 4, 6]]
    # The mean of 0.0 and 1.5; the odd last frame is repeated.
    assert "<0.8 seconds><|vision_start|>" in text and "<4.0 seconds><|vision_start|>" in text
    assert not any(token in text for token in ("<|camera_first|>", "<|camera|>", "<|scale|>"))


def test_ordinary_reading_is_plain_qwen3_vl_s_but_for_the_wrapper(processor):
    plain = Qwen3VLProcessor(
        processor.image_processor, processor.tokenizer, processor.video_processor, processor.chat_template
    )
    arguments = {"videos": [FRAMES], "video_metadata": [VideoMetadata(3, fps=1.0, frames_indices=[0, 1, 2])]}
    arguments["do_sample_frames"] = False
    ours, text = read(processor, **arguments)
    theirs, plain_text = read(plain, **arguments)
    assert torch.equal(ours["pixel_values_videos"], theirs["pixel_values_videos"])
    # transformers 5 keeps the chat template's wrapper around the frames' own.
    unwrapped = plain_text.replace("<|vision_start|><0.5", "<0.5").replace(
        "<|vision_end|><|vision_end|>", "<|vision_end|>"
    )
    assert text == unwrapped


def test_metadata_give_the_same_as_timestamps(processor):
    metadata = [VideoMetadata(9, fps=2.0, frames_indices=np.array([0, 3, 8]))]
    _, by_metadata = read(processor, videos=[FRAMES], video_metadata=metadata, geometry_tokens=True)
    _, by_timestamps = read(processor, videos=[FRAMES], video_timestamps=TIMES, geometry_tokens=True)
    assert by_metadata == by_timestamps


def test_metadata_of_the_caller_stay_as_they_were(processor):
    metadata = [VideoMetadata(9, fps=2.0, frames_indices=[0, 3, 8])]
    before = copy.deepcopy(metadata)
    for geometry_tokens in (True, False, True):
        arguments = {"geometry_tokens": geometry_tokens, "do_sample_frames": False}
        read(processor, videos=[FRAMES], video_metadata=metadata, **arguments)
        assert metadata == before


def test_arguments_of_clips_may_come_in_their_own_dictionary(processor):
    arguments = {
        "size": {"shortest_edge": 32 * 32, "longest_edge": 32 * 64},
        "do_sample_frames": False,
        "video_metadata": [VideoMetadata(9, fps=2.0, frames_indices=[0, 3, 8])],
    }
    before = copy.deepcopy(arguments)
    flat, _ = read(processor, videos=[FRAMES], geometry_tokens=True, **arguments)
    own, _ = read(processor, videos=[FRAMES], geometry_tokens=True, videos_kwargs=arguments)
    assert all(torch.equal(flat[name], own[name]) for name in flat) and arguments == before
    timed, _ = read(processor, videos=[FRAMES], video_timestamps=TIMES, videos_kwargs={"do_sample_frames": True})
    assert timed["video_grid_thw"].tolist() == [[2, 4, 6]]


@pytest.mark.parametrize(
    "side, size", [(32, {}), (512, {"size": {"shortest_edge": 32 * 32, "longest_edge": 128 * 128}})]
)
def test_geometry_tokens_leave_the_size_of_images_alone(processor, side, size):
    image = random_frames(1, side, side)[0].permute(2, 0, 1)
    grids = [
        processor(
            text=question(num_images=1),
            images=[image],
            videos=[FRAMES],
            video_timestamps=TIMES,
            geometry_tokens=geometry_tokens,
            return_tensors="pt",
            **size,
        )["image_grid_thw"].tolist()
        for geometry_tokens in (True, False)
    ]
    assert grids[0] == grids[1]


def test_a_limit_on_pixels_holds_per_frame_in_both_modes(processor):
    size = {"shortest_edge": 32 * 32, "longest_edge": 4 * 64 * 64}
    frames = random_frames(4, 128, 128)
    grids = [
        read(processor, videos=[frames], video_timestamps=[[0, 1, 2, 3]], size=size, geometry_tokens=geometry)[0][
            "video_grid_thw"
        ].tolist()
        for geometry in (False, True)
    ]
    assert grids == [[[2, 4, 4]], [[4, 4, 4]]]


@pytest.mark.parametrize("geometry_tokens", [False, True])
def test_one_frame_is_a_clip(processor, geometry_tokens):
    inputs, _ = read(processor, videos=[FRAMES[:1]], video_timestamps=[[2.0]], geometry_tokens=geometry_tokens)
    assert inputs["video_grid_thw"].tolist() == [[1, 4, 6]]


def test_several_clips_images_and_numpy_frames(processor):
    text = question(num_clips=2, num_images=1)
    inputs = processor(
        text=[text, question(num_clips=0)],
        videos=[FRAMES.numpy(), FRAMES[:2].permute(0, 3, 1, 2)],
        images=[FRAMES[0].permute(2, 0, 1)],
        video_timestamps=[TIMES[0], [0.0, 1.0]],
        geometry_tokens=True,
        padding=True,
        return_tensors="pt",
    )
    ids = inputs["input_ids"]
    first, other, scale = processor.geometry_token_ids
    assert [(ids == i).sum().item() for i in (first, other, scale)] == [2, 3, 2]
    assert inputs["mm_token_type_ids"].unique().tolist() == [0, 1, 2]


def test_it_round_trips_through_auto_processor(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is type(processor) and loaded.geometry_token_ids == processor.geometry_token_ids
    assert len(loaded.tokenizer) == len(processor.tokenizer)
    arguments = {"videos": [FRAMES], "video_timestamps": TIMES, "geometry_tokens": True}
    before, after = read(processor, **arguments)[0], read(loaded, **arguments)[0]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_plain_checkpoint_s_tokenizer_gets_the_tokens(processor, tmp_path):
    from geovr_hf import GeoVRProcessor

    plain = Qwen3VLProcessor(
        processor.image_processor, processor.tokenizer, processor.video_processor, processor.chat_template
    )
    plain.save_pretrained(tmp_path)
    config = tmp_path / "tokenizer.json"
    stripped = config.read_text()
    for token in ("<|camera_first|>", "<|camera|>", "<|scale|>"):
        stripped = stripped.replace(token, f"<|other_{token[2:-2]}|>")
    config.write_text(stripped)
    loaded = GeoVRProcessor.from_pretrained(tmp_path)
    assert len(set(loaded.geometry_token_ids)) == 3
    assert loaded.tokenizer("<|camera|>")["input_ids"] == [loaded.geometry_token_ids[1]]


def test_chat_template_with_tokenization_reaches_the_geometry_tokens(processor):
    messages = [
        {"role": "user", "content": [{"type": "video", "video": FRAMES}, {"type": "text", "text": "How many?"}]}
    ]
    inputs = processor.apply_chat_template(
        messages,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"geometry_tokens": True, "video_timestamps": TIMES},
    )
    assert (inputs["input_ids"] == processor.geometry_token_ids[2]).sum() == 1


def test_threads_share_a_processor(processor, monkeypatch):
    """Another call comes and goes while one is about to write its clips' text."""
    expected, _ = read(processor, videos=[FRAMES], video_timestamps=TIMES, geometry_tokens=True)
    process = processor._process_videos

    def interrupted(*args, **kwargs):
        monkeypatch.undo()
        with ThreadPoolExecutor() as pool:
            pool.submit(read, processor, videos=[FRAMES], video_timestamps=TIMES).result()
        return process(*args, **kwargs)

    monkeypatch.setattr(processor, "_process_videos", interrupted)
    inputs, _ = read(processor, videos=[FRAMES], video_timestamps=TIMES, geometry_tokens=True)
    assert torch.equal(inputs["input_ids"], expected["input_ids"])


class TestBadInput:
    @pytest.mark.parametrize("videos", [["walk.mp4"], "https://example.org/walk.mp4", [[["0.png", "1.png"]]]])
    @pytest.mark.parametrize("arguments", [{"geometry_tokens": True}, {"video_timestamps": TIMES}])
    def test_clips_that_are_not_read_yet(self, processor, videos, arguments):
        with pytest.raises(ValueError, match="read_clip"):
            read(processor, videos=videos, **arguments)

    def test_a_path_in_a_conversation(self, processor):
        content = [{"type": "video", "path": "walk.mp4"}, {"type": "text", "text": "How many?"}]
        with pytest.raises(ValueError, match="read_clip"):
            processor.apply_chat_template(
                [{"role": "user", "content": content}],
                tokenize=True,
                return_dict=True,
                processor_kwargs={"geometry_tokens": True},
            )

    def test_no_frames(self, processor):
        with pytest.raises(ValueError, match="Clip 0 has no frames"):
            read(processor, videos=[FRAMES[:0]], video_timestamps=[[]], geometry_tokens=True)

    def test_timestamps_of_another_length(self, processor):
        with pytest.raises(ValueError, match="Clip 0 has 3 frames, but 2 timestamps"):
            read(processor, videos=[FRAMES], video_timestamps=[[0, 1]], geometry_tokens=True)

    def test_timestamps_of_another_number_of_clips(self, processor):
        with pytest.raises(ValueError, match="2 entries for 1 clips"):
            read(processor, videos=[FRAMES], video_timestamps=TIMES * 2)

    def test_unknown_frame_times(self, processor):
        with pytest.raises(ValueError, match="video_timestamps"):
            read(processor, videos=[FRAMES], geometry_tokens=True)
