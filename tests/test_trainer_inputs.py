"""What a trainer is given is checked before anything is trained, and said where it would train nothing."""

import logging

import pytest
import torch
from training_support import row, targets, tiny_model, tiny_processor, trainer, training_args, video
from transformers import TrainingArguments

from geovr_hf import GeoVRDataCollator, GeoVRTrainer
from geovr_hf.teachers.synthetic import SyntheticRoomsTeacher


def test_a_processor_of_another_model_is_refused(tmp_path):
    model = tiny_model()
    model.config.scale_token_id -= 10
    with pytest.raises(
        ValueError, match="The processor's geometry tokens have the ids .* Use the `GeoVRProcessor` saved with"
    ):
        trainer(tmp_path, model)


def test_a_teacher_without_frames_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep_frames=True"):
        trainer(tmp_path, collator=GeoVRDataCollator(tiny_processor()), teacher=SyntheticRoomsTeacher())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"args": None}, "`args` must be `GeoVRTrainingArguments`, got `NoneType`"),
        ({"args": TrainingArguments("unused", use_cpu=True)}, "`GeoVRTrainingArguments`, got `TrainingArguments`"),
        ({"model": "Qwen/Qwen3-VL-2B-Instruct"}, "got the text 'Qwen.*Load it by `GeoVRFor"),
        ({"model": None}, "got a NoneType.*`model_init`"),
        ({"model": torch.nn.Linear(1, 1)}, "must be a `GeoVRForConditionalGeneration`, got a Linear"),
        ({"teacher": lambda frames: None}, r"`teacher` must have a method `targets\(frames\)`, got function"),
    ],
)
def test_what_is_of_another_kind_is_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        GeoVRTrainer(
            **{
                "model": tiny_model(),
                "args": training_args(tmp_path),
                "processing_class": tiny_processor(),
                **given,
            }
        )


def test_answers_need_a_collator_that_can_ask(tmp_path):
    with pytest.raises(ValueError, match="eval_answers=False"):
        trainer(tmp_path, collator=lambda rows: rows)


@pytest.mark.parametrize("packing", [True, False])
def test_a_question_with_nothing_but_a_column_for_its_answer_is_evaluated_and_not_trained_on(tmp_path, packing):
    asked = {**row("4", video(2)), "messages": row("4", video(2))["messages"][:1], "answer": "4", "id": "asked"}
    made = trainer(tmp_path, rows=[row("4"), asked], eval_dataset=[asked], packing=packing)
    with pytest.raises(ValueError, match=r"row 'asked' teaches nothing: .* \(a column `answer` is none\).*Add the"):
        made.train()
    made.evaluate()
    assert [answer.answer for answer in made.answers] == ["4"]


def test_rows_need_a_processor(tmp_path):
    with pytest.raises(ValueError, match="Pass a `processing_class`"):
        GeoVRTrainer(model=tiny_model(), args=training_args(tmp_path))


def test_a_loss_function_that_would_be_passed_over_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`compute_loss_func` would be passed over.*Override `compute_loss`"):
        GeoVRTrainer(
            tiny_model(),
            training_args(tmp_path),
            processing_class=tiny_processor(),
            compute_loss_func=lambda outputs, labels, num_items_in_batch=None: outputs.loss,
        )


def test_freezing_everything_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Nothing is left to train"):
        # The backbone alone: no heads, and its geometry tokens are frozen by hand.
        model = tiny_model(objectives=[])
        model.model.geometry_tokens.requires_grad_(False)
        trainer(tmp_path, model, freeze_merger=True, freeze_language_model=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"camera_loss_weight": -1.0}, "`camera_loss_weight` must be zero or positive, got -1.0"),
        ({"depth_loss_weight": float("nan")}, "`depth_loss_weight` must be"),
        ({"geometry_learning_rate": -1e-4}, "`geometry_learning_rate` must be"),
        ({"eval_max_new_tokens": 0}, "`eval_max_new_tokens` must be at least 1"),
        ({"remove_unused_columns": True}, "`remove_unused_columns=True` would drop"),
        ({"use_liger_kernel": True}, "`use_liger_kernel=True` replaces the model's forward"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor=0.1` has no effect"),
        ({"average_tokens_across_devices": False}, "`average_tokens_across_devices=False` would weigh"),
    ],
)
def test_arguments_that_cannot_work_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        training_args(tmp_path, **arguments)


@pytest.mark.parametrize(
    ("taught", "objectives", "warned"),
    [(False, ["camera", "depth"], True), (True, ["camera", "depth"], False), (False, [], False)],
)
def test_objectives_without_any_target_are_told_once(tmp_path, caplog, taught, objectives, warned):
    rows = [row("4", video(2, seed=i), clip_targets=targets(2, seed=i) if taught else None) for i in range(4)]
    with caplog.at_level(logging.WARNING, logger="geovr_hf.trainers.trainer_inputs"):
        trainer(tmp_path, tiny_model(objectives=objectives), rows=rows, max_steps=2).train()
    told = [record for record in caplog.records if "No clip of the first update" in record.getMessage()]
    assert len(told) == warned


def test_the_defaults_are_the_published_recipe(tmp_path):
    from geovr_hf import GeoVRTrainingArguments

    args = GeoVRTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert (args.learning_rate, args.geometry_learning_rate, args.weight_decay) == (2e-5, 1e-4, 0.0)
    assert (args.lr_scheduler_type, args.get_warmup_steps(1000), args.num_train_epochs) == ("cosine", 30, 1)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps, args.max_grad_norm) == (2, 4, 1.0)
    assert args.freeze_vision_tower and not args.freeze_merger
    assert args.activation_checkpointing is None  # the first batch decides
    assert args.bf16 is False  # on the CPU
    # Arguments survive the round trip through their own dictionary, as checkpoints and hyper-parameter search need.
    assert GeoVRTrainingArguments(**{k: v for k, v in args.to_dict().items() if k != "accelerator_config"}) is not None


def test_the_old_name_of_activation_checkpointing_still_switches_it_off(tmp_path):
    from geovr_hf import GeoVRTrainingArguments

    with pytest.warns(FutureWarning):
        args = GeoVRTrainingArguments(output_dir=str(tmp_path), use_cpu=True, gradient_checkpointing=False)
    assert args.activation_checkpointing is False


# ---- the plain trainer ----
