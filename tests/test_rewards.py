"""Rewards score as the evaluation does, take what TRL hands them, and need nothing else of ours."""

import doctest

import numpy as np
import pytest
from training_support import tiny_processor
from transformers import Qwen3Config, Qwen3ForCausalLM

from geovr_hf.trainers import rewards
from geovr_hf.trainers.metrics import score_answer
from geovr_hf.trainers.rewards import (
    REWARDS,
    answer_reward,
    exact_choice_reward,
    final_answer,
    format_reward,
    mean_relative_accuracy_reward,
)


def said(text):
    return [{"role": "assistant", "content": text}]


def test_numbers_are_scored_by_the_published_rule_and_other_questions_left_out():
    # The rule of VSI-Bench, written out: thresholds 0.5 to 0.95 by 0.05, a hit where the relative error is smaller.
    thresholds = np.linspace(0.5, 0.95, 10)
    for found, truth in [(4.5, 5), (5, 5), (7.4, 5), (9, 10), (0, 3), (-2, 3)]:
        expected = np.mean([abs(found - truth) / truth <= 1 - threshold for threshold in thresholds])
        assert mean_relative_accuracy_reward([f"about {found} m"], [str(truth)]) == [pytest.approx(expected)]
    assert mean_relative_accuracy_reward(["many", "B", "two"], ["3", "B", "2"]) == [0.0, None, 1.0]


def test_words_for_too_large_a_number_earn_nothing():
    assert answer_reward(["hundred " * 160], ["3"]) == [0.0]
    assert mean_relative_accuracy_reward(["hundred " * 160], ["3"]) == [0.0]


def test_choices_are_right_or_wrong():
    found = ["B", "b.", "B. lamp", "A", "The answer is B", "", "3"]
    assert exact_choice_reward(found, ["B"] * 6 + ["3"]) == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, None]


def test_the_format_is_kept_by_what_was_asked_for_alone_right_or_wrong():
    found = ["7", "7.5", "7 chairs", "A", "a.", "A. lamp", "the sofa", "one\ntwo", ""]
    asked = ["3", "3", "3", "B", "B", "B", "the bed", "the bed", "the bed"]
    assert format_reward(found, asked) == [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0]


def test_the_answer_reward_is_the_evaluations_score():
    cases = [("4.5", "5"), ("B.", "B"), ("left", "Left."), ("", "B"), ("x", "3"), ("nine", "10")]
    found, truth = zip(*cases, strict=True)
    assert answer_reward(found, truth) == [score_answer(f, t) for f, t in cases]


@pytest.mark.parametrize("reward", REWARDS.values(), ids=REWARDS)
def test_messages_and_text_are_rewarded_alike_and_further_columns_ignored(reward):
    texts, answers = ["4", "<think>Maybe A.</think>\n<answer> B </answer>"], ["4", "B"]
    messages = [said(texts[0]), said([{"type": "text", "text": texts[1]}])]
    plain = reward(
        completions=texts, answer=answers, prompts=["?", "?"], completion_ids=[[1], [2]], trainer_state=None
    )
    assert plain == reward(completions=messages, answer=answers, question_type=["t", "t"])
    assert all(value in (1.0, None) for value in plain) and 1.0 in plain


def test_reasoning_counts_for_nothing():
    assert final_answer("<think>It is A. <answer>A</answer></think> B") == "B"
    assert final_answer("<answer>1</answer> no, <answer>2</answer>") == "2"
    assert final_answer("</think>") == ""


def test_the_examples_are_true():
    assert doctest.testmod(rewards).failed == 0


def test_they_serve_trl_s_own_trainer_on_text_alone(tmp_path):
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    processor = tiny_processor()
    tokenizer = processor.tokenizer
    tokenizer.chat_template = processor.chat_template
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), **sizes, **heads))
    rows = [{"prompt": [{"role": "user", "content": "How many?"}], "answer": answer} for answer in ("4", "B")]
    options = {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 4, "max_steps": 1}
    quiet = {"report_to": "none", "save_strategy": "no", "logging_steps": 1, "use_cpu": True, "bf16": False}
    arguments = trl.GRPOConfig(str(tmp_path), **options, **quiet)
    trainer = trl.GRPOTrainer(
        model, list(REWARDS.values()), arguments, datasets.Dataset.from_list(rows * 4), processing_class=tokenizer
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    assert {f"rewards/{reward.__name__}/mean" for reward in REWARDS.values()} <= logged.keys()
