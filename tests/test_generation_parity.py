"""GeoVR generates what plain Qwen3-VL with the same weights generates, in every way `generate` offers."""

import pytest
import torch
from tiny import random_frames, tiny_config, tiny_inputs, tiny_model
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, set_seed


PICTURE = random_frames(1, seed=9)[0]

# Prompts, by the clips and the pictures of each row; rows of unequal length are padded on the left.
PROMPTS = {
    "text": ([[], []], None),
    "pictures": ([[], []], [[PICTURE], [PICTURE, PICTURE]]),
    "clips": ([[random_frames(2)], [random_frames(4, seed=1), random_frames(2, 32, 64, seed=2)]], None),
    "a mixture": ([[random_frames(4)], []], [[PICTURE], []]),
}

MODES = {
    "greedy search": {},
    "greedy search without a cache": {"use_cache": False},
    "sampling": {"do_sample": True, "temperature": 2.0, "top_k": 40},
    "sampling several answers": {"do_sample": True, "num_return_sequences": 3},
    "beam search": {"num_beams": 3},
    "beam search for several answers": {"num_beams": 4, "num_return_sequences": 2},
    "beam sampling": {"num_beams": 3, "do_sample": True},
    "a static cache": {"cache_implementation": "static"},
    "a prompt read in chunks": {"prefill_chunk_size": 7},
    "a repetition penalty": {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
}

# One prompt at a time.
ASSISTED_MODES = {
    "prompt lookup": {"prompt_lookup_num_tokens": 2},
    "an assistant": {"assistant_model": "native"},
    "an assistant, with sampling": {"assistant_model": "native", "do_sample": True},
    "itself as the assistant": {"assistant_model": "self"},
}


def with_geometry_tokens(clips):
    return tiny_inputs(clips, geometry_tokens=True, padding_side="left")


def inputs_of(prompt: str, rows: slice = slice(None)) -> dict:
    clips, pictures = PROMPTS[prompt]
    return tiny_inputs(clips[rows], geometry_tokens=False, images=pictures and pictures[rows], padding_side="left")


@pytest.fixture(scope="module")
def geovr():
    model = tiny_model()
    # Weights so wide that the next token depends on the whole prompt, and is seldom the same twice.
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.model.named_parameters():
        if parameter.ndim > 1:
            gain = 3 if ".layers." in name else 1
            parameter.data.normal_(std=gain * parameter[0].numel() ** -0.5, generator=generator)
    # A placeholder in an answer asks for pixels that are not there, and prompt lookup likes to propose them.
    config = model.config
    model.generation_config.suppress_tokens = [config.image_token_id, config.video_token_id]
    return model


@pytest.fixture(scope="module")
def native(geovr):
    config = tiny_config()
    shared = {name: getattr(config, name) for name in config.to_dict() if hasattr(Qwen3VLConfig, name)}
    plain = Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            **{
                **shared,
                "text_config": config.text_config.to_dict(),
                "vision_config": config.vision_config.to_dict(),
            }
        )
    ).eval()
    missing = plain.load_state_dict(geovr.state_dict(), strict=False).missing_keys
    assert not missing
    plain.generation_config = geovr.generation_config
    return plain


def generate(model, inputs: dict, max_new_tokens: int = 6, **mode):
    set_seed(0)
    # No end before its time: every answer is compared to its last token.
    arguments = {"do_sample": False, "max_new_tokens": max_new_tokens, "min_new_tokens": max_new_tokens, **mode}
    return model.generate(**inputs, **arguments)


def new_tokens(model, inputs: dict, **mode):
    return generate(model, inputs, **mode)[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_generates_what_plain_qwen3_vl_generates(geovr, native, prompt, mode):
    inputs = inputs_of(prompt)
    assert torch.equal(generate(geovr, inputs, **MODES[mode]), generate(native, inputs, **MODES[mode]))


@pytest.mark.parametrize("mode", ASSISTED_MODES)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_assisted_decoding_generates_what_plain_qwen3_vl_generates(geovr, native, prompt, mode):
    inputs = inputs_of(prompt, slice(1))
    answers = []
    for model in (geovr, native):
        arguments = dict(ASSISTED_MODES[mode])
        if "assistant_model" in arguments:
            arguments["assistant_model"] = model if arguments["assistant_model"] == "self" else native
        answers.append(new_tokens(model, inputs, **arguments))
    assert torch.equal(*answers)
    if not ASSISTED_MODES[mode].get("do_sample"):
        assert torch.equal(answers[0], new_tokens(geovr, inputs))


def test_the_answers_compared_here_depend_on_the_prompt(geovr):
    answers = [new_tokens(geovr, inputs_of(prompt)) for prompt in PROMPTS]
    assert len({tuple(answer.flatten().tolist()) for answer in answers}) == len(PROMPTS)
    assert all(len(set(row.tolist())) > 2 for answer in answers for row in answer)


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize("use_cache", [True, False])
def test_everything_generate_returns_is_that_of_plain_qwen3_vl(geovr, native, num_beams, use_cache):
    inputs = inputs_of("a mixture")
    outputs = []
    for model in (geovr, native):
        model.set_attn_implementation("eager")
        outputs.append(
            generate(
                model,
                inputs,
                max_new_tokens=3,
                num_beams=num_beams,
                use_cache=use_cache,
                return_dict_in_generate=True,
                output_scores=True,
                output_logits=True,
                output_hidden_states=True,
                output_attentions=True,
            )
        )
        model.set_attn_implementation("sdpa")
    ours, theirs = outputs
    assert type(ours) is type(theirs)
    assert ours.keys() == theirs.keys()
    for name in ("sequences", "scores", "logits", "hidden_states", "attentions"):
        torch.testing.assert_close(ours[name], theirs[name], msg=lambda message, name=name: f"{name}: {message}")
    assert len(ours.scores) == len(ours.hidden_states) == len(ours.attentions) == 3
    assert len(ours.hidden_states[0]) == geovr.config.text_config.num_hidden_layers + 1
    assert len(ours.attentions[0]) == geovr.config.text_config.num_hidden_layers


@pytest.mark.parametrize("keeps_mask", [True, False])
@pytest.mark.parametrize("name", ["native", "geovr", "geovr with geometry tokens"])
def test_an_answer_can_be_continued_from_its_cache(geovr, native, name, keeps_mask):
    model = native if name == "native" else geovr
    inputs = with_geometry_tokens([[random_frames(3)]]) if "tokens" in name else inputs_of("clips", slice(1))
    in_one_go = generate(model, inputs, max_new_tokens=7)
    first = generate(model, inputs, max_new_tokens=3, return_dict_in_generate=True)
    continuation = {"input_ids": first.sequences, "past_key_values": first.past_key_values}
    if keeps_mask:
        continuation["attention_mask"] = torch.ones_like(first.sequences)
    assert torch.equal(generate(model, continuation, max_new_tokens=4), in_one_go)


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_generation_from_embeddings_is_that_of_plain_qwen3_vl(geovr, native, prompt, num_beams):
    inputs = inputs_of(prompt)
    answers = []
    for model in (geovr, native):
        embeddings = model.get_input_embeddings()(inputs["input_ids"])
        answers.append(new_tokens(model, {**inputs, "inputs_embeds": embeddings}, num_beams=num_beams))
    assert torch.equal(*answers)
    assert torch.equal(answers[0], new_tokens(geovr, inputs, num_beams=num_beams))


@pytest.mark.parametrize("kept", [1, 3, torch.tensor([0, -2]), 0])
def test_logits_to_keep_selects_positions_as_in_plain_qwen3_vl(geovr, native, kept):
    inputs = inputs_of("a mixture")
    with torch.no_grad():
        ours, theirs = (model(**inputs, logits_to_keep=kept).logits for model in (geovr, native))
    torch.testing.assert_close(ours, theirs)


def test_left_padding_changes_nothing_with_geometry_tokens(geovr):
    alone = with_geometry_tokens([[random_frames(2)]])
    beside_a_longer_one = with_geometry_tokens([[random_frames(2)], [random_frames(5, seed=1)]])
    assert beside_a_longer_one["attention_mask"][0, 0] == 0
    assert torch.equal(new_tokens(geovr, alone)[0], new_tokens(geovr, beside_a_longer_one)[0])


@pytest.mark.parametrize("mode", ["greedy search without a cache", "a static cache"])
def test_caches_change_nothing_with_geometry_tokens(geovr, mode):
    inputs = with_geometry_tokens([[random_frames(3)], [random_frames(2, 32, 64), random_frames(4)]])
    assert torch.equal(generate(geovr, inputs), generate(geovr, inputs, **MODES[mode]))


@pytest.mark.parametrize("mode", ["prompt lookup", "itself as the assistant"])
def test_assistance_changes_nothing_with_geometry_tokens(geovr, mode):
    inputs = with_geometry_tokens([[random_frames(3)]])
    arguments = {**ASSISTED_MODES[mode], **({"assistant_model": geovr} if "assistant" in mode else {})}
    assert torch.equal(generate(geovr, inputs), generate(geovr, inputs, **arguments))


def test_embeddings_in_place_of_ids_change_nothing_with_geometry_tokens(geovr):
    inputs = with_geometry_tokens([[random_frames(3)], [random_frames(2, 32, 64), random_frames(4)]])
    embeddings = geovr.get_input_embeddings()(inputs["input_ids"])
    assert torch.equal(generate(geovr, {**inputs, "inputs_embeds": embeddings}), generate(geovr, inputs))


def test_a_prompt_with_geometry_tokens_is_not_read_in_chunks(geovr):
    inputs = with_geometry_tokens([[random_frames(3)]])
    with pytest.raises(ValueError, match="prefill_chunk_size"):
        generate(geovr, inputs, prefill_chunk_size=7)


def test_beams_and_several_answers_repeat_clips_with_geometry_tokens(geovr):
    row = [random_frames(2, 32, 64), random_frames(3)]
    inputs = with_geometry_tokens([row, [random_frames(5), random_frames(2)]])
    greedy = generate(geovr, inputs)
    coldest = generate(geovr, inputs, do_sample=True, top_k=1, num_return_sequences=2)
    assert torch.equal(coldest, greedy.repeat_interleave(2, dim=0))
    alone = new_tokens(geovr, with_geometry_tokens([row]), num_beams=3)
    assert torch.equal(alone[0], new_tokens(geovr, inputs, num_beams=3)[0])


def test_a_prompt_owes_nothing_to_the_one_before(geovr, native):
    first, second = with_geometry_tokens([[random_frames(5)]]), inputs_of("a mixture")
    generate(geovr, first)
    assert torch.equal(generate(geovr, second), generate(native, second))


def test_a_geometry_token_in_an_answer_is_a_word_as_in_plain_qwen3_vl(geovr, native):
    inputs = inputs_of("clips")
    words = list(geovr.config.geometry_token_ids)
    answers = [generate(model, inputs, prefix_allowed_tokens_fn=lambda batch, ids: words) for model in (geovr, native)]
    assert torch.equal(*answers)
    assert set(answers[0][:, inputs["input_ids"].shape[1] :].flatten().tolist()) <= set(words)
