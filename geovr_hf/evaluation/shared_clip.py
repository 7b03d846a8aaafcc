"""Several questions about one clip: the clip is read once, and each question goes on from there.

A clip of 128 frames is tens of thousands of tokens, a question a few dozen, and VSI-Bench asks 18 questions a clip.
The prefix is causal and comes first, so what follows it changes nothing in it: answers are those that each question
would get alone, up to rounding.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from geovr_hf.modeling import GeoVRProcessor


# What the processor returns of each token, and not of each clip.
_PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids")


def split_prompt(processor: GeoVRProcessor, text: str) -> tuple[str, str] | None:
    """What stands before and behind the one clip of a prompt.

    Args:
        processor ([`GeoVRProcessor`]): Knows how the chat template writes a clip.
        text (`str`): A prompt.

    Returns:
        `tuple[str, str]` or `None`: `None` if the prompt has no clip, or several.
    """
    wrapped = f"{processor.vision_start_token}{processor.video_token}{processor.vision_end_token}"
    before, *behind = text.split(wrapped)
    return (before, behind[0]) if len(behind) == 1 else None


@torch.inference_mode()
def generate_after_clip(
    model: PreTrainedModel,
    processor: GeoVRProcessor,
    inputs: dict[str, torch.Tensor],
    tails: Sequence[str],
    options: dict[str, Any],
    seeds: Sequence[int],
) -> Iterator[torch.Tensor]:
    r"""Answer questions about one clip, one after the other.

    Args:
        model ([`~transformers.PreTrainedModel`]): A model in evaluation mode.
        processor ([`GeoVRProcessor`]): Its processor.
        inputs (`dict[str, torch.Tensor]`): One prompt about the clip, on the model's device.
        tails (`Sequence[str]`): What stands behind the clip in each prompt; what stands before it is the same.
        options (`dict`): Arguments of `generate`, without beams.
        seeds (`Sequence[int]`): Of sampling, one for each question.

    Yields:
        `torch.LongTensor` of shape `(length,)`: The prompt and its answer, for each question in turn.
    """
    ids = inputs["input_ids"]
    length = int((ids[0] == processor.vision_end_token_id).nonzero().max()) + 1
    prefix = {name: value[:, :length] if name in _PER_TOKEN else value for name, value in inputs.items()}
    cache = model(**prefix, use_cache=True, logits_to_keep=1).past_key_values
    rope_deltas = model.model.rope_deltas
    for tail, seed in zip(tails, seeds, strict=True):
        # A special token ends the prefix, so that its text and the tail's are tokenized apart as they are together.
        tail_ids = processor.tokenizer(tail, add_special_tokens=False, return_tensors="pt")["input_ids"].to(ids.device)
        prompt = torch.cat([ids[:, :length], tail_ids], dim=1)
        model.model.rope_deltas = rope_deltas
        if options["do_sample"]:
            torch.manual_seed(seed)
        yield model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), past_key_values=cache, **options
        )[0]
        cache.crop(length - cache.get_seq_length())
