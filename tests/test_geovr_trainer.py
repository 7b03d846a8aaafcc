import pytest
import torch
from training_support import (
    row,
    targets,
    text,
    tiny_model,
    tiny_processor,
    trainer,
    training_args,
    uneven_rows,
    video,
)
from transformers import Trainer, TrainingArguments

from geovr_hf import GeoVRDataCollator, GeoVRForConditionalGeneration, GeoVRTrainer
from geovr_hf.teachers.synthetic import SyntheticRoomsTeacher
from geovr_hf.trainers import geovr_lora_config
from geovr_hf.trainers.geovr_trainer import LOSS_ITEMS
from geovr_hf.trainers.parameter_groups import is_geometry_parameter


GEOMETRY_LOSSES = [name for name in LOSS_ITEMS if name != "lm_loss"]


def parameters(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def moved(before, model):
    return {name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)}


def train_logs(trained):
    return [log for log in trained.state.log_history if "loss" in log]


# ---- what is trained ----


def test_heads_merger_and_language_model_are_trained_and_the_vision_tower_is_not(tmp_path):
    model = tiny_model()
    before = parameters(model)
    trainer(tmp_path, model, max_steps=3).train()
    changed = moved(before, model)
    for part in (
        "geometry_tokens",
        "camera_head",
        "depth_head",
        "scale_head",
        "alignment_heads.0",
        "alignment_heads.1",
    ):
        assert any(part in name for name in changed), part
    assert any(name.startswith("model.language_model.layers") for name in changed)
    assert any(name.startswith("model.visual.merger.") for name in changed)
    assert not any("deepstack_merger_list" in name or "visual.blocks" in name for name in changed)


@pytest.mark.parametrize(
    ("frozen", "prefixes"),
    [
        ("freeze_merger", ["model.visual."]),
        ("freeze_language_model", ["model.language_model.", "lm_head.", "model.visual.blocks."]),
    ],
)
def test_more_can_be_frozen(tmp_path, frozen, prefixes):
    model = tiny_model()
    before = parameters(model)
    trainer(tmp_path, model, max_steps=1, **{frozen: True}).train()
    changed = moved(before, model)
    assert changed and not any(name.startswith(tuple(prefixes)) for name in changed)


def test_the_vision_tower_can_be_trained(tmp_path):
    model = tiny_model()
    before = parameters(model)
    trainer(tmp_path, model, max_steps=1, freeze_vision_tower=False).train()
    changed = moved(before, model)
    assert any("visual.blocks" in name for name in changed)
    assert any("deepstack_merger_list" in name for name in changed)


def test_every_trained_parameter_is_in_one_group_with_its_own_rate(tmp_path):
    made = trainer(tmp_path, weight_decay=0.1)
    groups = made.create_optimizer().param_groups
    names = {id(parameter): name for name, parameter in made.model.named_parameters()}
    seen = [names[id(parameter)] for group in groups for parameter in group["params"]]
    assert len(seen) == len(set(seen))
    assert set(seen) == {name for name, parameter in made.model.named_parameters() if parameter.requires_grad}
    for group in groups:
        for name in (names[id(parameter)] for parameter in group["params"]):
            assert group["lr"] == (2e-3 if is_geometry_parameter(name) else 1e-3), name
            assert group["weight_decay"] == (0.0 if "norm" in name or "bias" in name else 0.1), name
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {
        (1e-3, 0.1), (1e-3, 0.0), (2e-3, 0.1), (2e-3, 0.0)
    }  # fmt: skip


@pytest.mark.parametrize("adapted", [False, True])
def test_a_model_that_is_made_for_every_training_is_prepared_like_one_that_is_passed(tmp_path, adapted):
    def made(**options):
        args = training_args(tmp_path, camera_loss_weight=3.0)
        config = geovr_lora_config(tiny_model(), r=2) if adapted else None
        return GeoVRTrainer(
            args=args, train_dataset=uneven_rows(), processing_class=tiny_processor(), peft_config=config, **options
        )

    passed, once = made(model=tiny_model()), made(model_init=lambda: tiny_model())
    passed.train()
    once.teacher = SyntheticRoomsTeacher()
    for _ in range(2):  # each training starts anew
        before = once.model
        once.train()
        assert once.model is not before and once.model.config.camera_loss_weight == 3.0
        assert "geovr" in once.model.model_tags
        assert train_logs(once)[-1]["loss"] == pytest.approx(train_logs(passed)[-1]["loss"])
    assert once.teacher.spec.name in once.model.config.teacher
    trained = {name for name, parameter in once.model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in passed.model.named_parameters() if parameter.requires_grad}
    with pytest.raises(ValueError, match="must be a `GeoVRForConditionalGeneration`"):
        made(model_init=lambda: torch.nn.Linear(1, 1))


# ---- logs ----


def test_the_logged_loss_is_the_weighted_sum_of_the_logged_components(tmp_path):
    trained = trainer(tmp_path, per_device_train_batch_size=4, max_steps=4, logging_steps=2)
    trained.train()
    config = trained.model.config
    assert len(train_logs(trained)) == 2
    for log in train_logs(trained):
        weighted = sum(
            getattr(config, f"{name}_loss_weight") * log[f"{name}_loss"]
            for name in ("lm", "camera", "depth", "scale", "alignment")
        )
        assert log["loss"] == pytest.approx(weighted, rel=1e-5)
        assert set(LOSS_ITEMS) < set(log)


def test_components_are_averaged_over_the_logging_window(tmp_path):
    every, window = trainer(tmp_path, max_steps=4), trainer(tmp_path, max_steps=4, logging_steps=4)
    every.train()
    window.train()
    steps, (mean,) = train_logs(every), train_logs(window)
    for name in LOSS_ITEMS:
        # A step without the target, here every second one for alignment and scale, does not dilute the mean.
        values = [log[name] for log in steps if name in log]
        assert mean[name] == pytest.approx(sum(values) / len(values), rel=1e-5), name


def test_an_objective_that_no_clip_has_is_not_logged(tmp_path):
    rows = [row("4", video(2), clip_targets=targets(2, without=("features", "metric_scale"))), row("5")]
    trained = trainer(tmp_path, rows=rows, max_steps=1)
    trained.train()
    (log,) = train_logs(trained)
    assert "camera_loss" in log and "alignment_loss" not in log and "scale_loss" not in log


def test_text_alone_can_be_trained_on(tmp_path):
    trained = trainer(tmp_path, rows=[row("4"), row("five")], max_steps=1)
    trained.train()
    (log,) = train_logs(trained)
    assert log["loss"] == pytest.approx(log["lm_loss"]) and not set(GEOMETRY_LOSSES) & set(log)


def test_geometry_alone_can_be_trained_on(tmp_path):
    question = [{"role": "user", "content": [video(2), text("Look.")]}]
    trained = trainer(tmp_path, rows=[{"messages": question, "geometry_targets": targets(2)}] * 2, max_steps=1)
    trained.train()
    (log,) = train_logs(trained)
    assert log["camera_loss"] > 0 and "lm_loss" not in log and log["loss"] > 0


def test_both_learning_rates_are_logged_at_the_same_point_of_the_schedule(tmp_path):
    trained = trainer(tmp_path, max_steps=4, lr_scheduler_type="linear")
    trained.train()
    assert [log["learning_rate"] for log in train_logs(trained)] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
    assert [log["geometry_learning_rate"] for log in train_logs(trained)] == pytest.approx([2e-3, 1.5e-3, 1e-3, 5e-4])


def test_loss_weights_reach_the_configuration_and_the_loss(tmp_path):
    trained = trainer(tmp_path, max_steps=1, per_device_train_batch_size=4, camera_loss_weight=7.0, lm_loss_weight=0.0)
    trained.train()
    (log,) = train_logs(trained)
    assert trained.model.config.camera_loss_weight == 7.0 and trained.model.config.depth_loss_weight == 1.0
    geometry = log["depth_loss"] + log["scale_loss"] + log["alignment_loss"]
    assert log["loss"] == pytest.approx(7 * log["camera_loss"] + geometry, rel=1e-5)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(uneven_rows())


def test_rows_may_come_as_a_stream(tmp_path):
    stored, streamed = (trainer(tmp_path, rows=rows, max_steps=3) for rows in (uneven_rows(), Stream()))
    stored.train()
    streamed.train()
    assert train_logs(streamed)[-1]["loss"] == pytest.approx(train_logs(stored)[-1]["loss"])
    metrics = streamed.evaluate(Stream())
    assert len(streamed.answers) == 4 and "eval_depth_abs_rel" in metrics


def test_mixed_precision_trains_and_evaluates(tmp_path):
    # Two tokens wide: on the CPU, PyTorch 2.14 reads memory that nobody wrote when it computes the gradient of a
    # bfloat16 convolution of stride 2 whose map is one cell wide.
    rows = uneven_rows()
    for part in (part for each in rows for message in each["messages"] for part in message["content"]):
        if part["type"] == "video":
            part["video"] = part["video"].repeat(1, 1, 2, 1)
    trained = trainer(tmp_path, rows=rows, max_steps=3, bf16=True, eval_dataset=rows)
    trained.train()
    assert all(parameter.dtype == torch.float32 for parameter in trained.model.parameters())
    logs = train_logs(trained)
    assert logs[-1]["loss"] < logs[0]["loss"]
    assert trained.evaluate()["eval_scale_ratio"] >= 1


# ---- teacher ----


class Teacher:
    def __init__(self):
        self.asked = []

    def targets(self, frames):
        self.asked.append(tuple(frames.shape))
        assert frames.dtype == torch.uint8
        return targets(len(frames), seed=len(frames))


def test_a_teacher_is_asked_for_the_clips_without_targets_alone(tmp_path):
    rows = uneven_rows()
    rows[0]["geometry_targets"] = None
    teacher = Teacher()
    online = trainer(tmp_path, rows=rows, per_device_train_batch_size=4, max_steps=1, teacher=teacher)
    online.train()
    assert teacher.asked == [(2, 64, 32, 3)]

    rows[0]["geometry_targets"] = targets(2, seed=2)
    stored = trainer(tmp_path, rows=rows, per_device_train_batch_size=4, max_steps=1)
    stored.train()
    for name, parameter in stored.model.named_parameters():
        assert torch.equal(parameter, online.model.get_parameter(name)), name


def test_a_teacher_is_asked_in_evaluation_too(tmp_path):
    rows = [row("4", video(2))]
    metrics = trainer(tmp_path, rows=rows, teacher=Teacher(), eval_answers=False).evaluate(rows)
    assert metrics["eval_depth_loss"] > 0 and "eval_depth_abs_rel" in metrics


class WrongTeacher:
    def __init__(self, wrong):
        self.wrong = wrong

    def targets(self, frames):
        given = targets(len(frames))
        self.wrong(given)
        return given


def spoil(name, value):
    def wrong(given):
        field = getattr(given, name)
        (field[0] if name == "features" else field).view(-1)[0] = value

    return wrong


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (spoil("features", float("nan")), r"`features\[0\]` of clip 0 of the batch, set by the teacher `Wrong"),
        (spoil("depth", 0.0), "`depth` of clip 0 of the batch, set by the teacher `WrongTeacher`, has 1 pixels"),
        (lambda given: setattr(given, "pose_enc", given.pose_enc[:1]), "different numbers of frames"),
    ],
)
def test_what_a_teacher_says_is_checked_before_it_is_learnt(tmp_path, wrong, message):
    model = tiny_model(depth_loss_type="silog")
    before = parameters(model)
    made = trainer(tmp_path, model, rows=[row("4", video(2))], teacher=WrongTeacher(wrong), eval_answers=False)
    for use in (made.train, lambda: made.evaluate(made.train_dataset), lambda: made.check_row(made.train_dataset[0])):
        with pytest.raises(ValueError, match=message):
            use()
    assert not moved(before, model)


def test_a_teacher_of_another_clip_is_refused(tmp_path):
    class Other:
        def targets(self, frames):
            return targets(len(frames) + 1)

    with pytest.raises(ValueError, match="clip 0 of the batch.*`Other`, have 3 frames, but the clip has 2"):
        trainer(tmp_path, rows=[row("4", video(2))], teacher=Other()).train()


# ---- evaluation ----


def test_evaluation_reports_losses_geometry_and_answers(tmp_path):
    made = trainer(tmp_path, eval_dataset=uneven_rows())
    metrics = made.evaluate()
    expected = ["loss", *LOSS_ITEMS]
    expected += ["depth_abs_rel", "depth_delta_1.25", "rotation_error_deg", "translation_error", "scale_ratio"]
    expected += ["answer_accuracy", "count", "talk", "nearest"]
    assert not [name for name in expected if f"eval_{name}" not in metrics]
    assert metrics["eval_scale_ratio"] >= 1 and 0 <= metrics["eval_depth_delta_1.25"] <= 1
    # What was measured is what was logged, in one entry.
    (log,) = made.state.log_history
    assert set(metrics) - set(log) == set()


def test_the_reported_geometry_is_that_of_the_models_own_prediction(tmp_path):
    clip = targets(2)
    made = trainer(tmp_path, eval_answers=False)
    metrics = made.evaluate([row("4", video(2), clip_targets=clip)])
    batch = GeoVRDataCollator(tiny_processor())([row("4", video(2))])
    del batch["labels"], batch["geometry_targets"]
    (geometry,) = made.model.predict_geometry(**batch)
    measured = clip.depth_confidence > 0
    true = (clip.depth * clip.metric_scale)[measured]
    abs_rel = ((geometry.depth[measured] - true).abs() / true).mean()
    assert metrics["eval_depth_abs_rel_metric"] == pytest.approx(abs_rel.item(), rel=1e-4)


def test_training_learns_and_answers_learnt_by_heart_are_found_again(tmp_path):
    rows = [
        row("4", video(2, seed=1), clip_targets=targets(2), id="a", question_type="count"),
        row("B", question="Which is nearest to the sofa? A. lamp B. door", id="b", question_type="nearest"),
        {**row("left", question="Where?", id="c", question_type="direction"), "answer": "right"},
    ]
    trained = trainer(
        tmp_path, rows=rows, max_steps=30, per_device_train_batch_size=3, learning_rate=5e-3, eval_geometry_tokens=True
    )
    trained.train()
    first, last = train_logs(trained)[0], train_logs(trained)[-1]
    for name in ("loss", "lm_loss", "camera_loss", "depth_loss", "scale_loss", "alignment_loss"):
        assert last[name] < 0.9 * first[name], name

    metrics = trained.evaluate(rows)
    assert [(answer.id, answer.prediction, answer.score) for answer in trained.answers] == [
        ("a", "4", 1.0),
        ("b", "B", 1.0),
        ("c", "left", 0.0),
    ]
    assert metrics["eval_count"] == metrics["eval_nearest"] == 1 and metrics["eval_direction"] == 0
    assert metrics["eval_answer_accuracy"] == pytest.approx(2 / 3)


def test_evaluation_does_not_depend_on_the_batch_size_nor_change_the_model(tmp_path):
    model = tiny_model(camera_loss_weight=0.5)
    before = parameters(model)
    rows = [
        *uneven_rows(),
        row("a lamp", video(2), clip_targets=targets(2), question="Which?", question_type="nearest"),
    ]
    by_size = [trainer(tmp_path, model, per_device_eval_batch_size=size).evaluate(rows) for size in (5, 1, 2, 4)]
    assert not moved(before, model)
    names = ("loss", *LOSS_ITEMS, "depth_abs_rel", "rotation_error_deg", "scale_ratio", "answer_accuracy")
    for metrics in by_size:
        assert [metrics[f"eval_{name}"] for name in names] == pytest.approx(
            [by_size[0][f"eval_{name}"] for name in names], rel=1e-4
        )
    batch = GeoVRDataCollator(tiny_processor())(rows)
    with torch.no_grad():
        outputs = model(**batch)  # all at once: the means that the losses are
    assert by_size[1]["eval_loss"] == pytest.approx(outputs.loss.item(), rel=1e-4)
    assert by_size[1]["eval_lm_loss"] == pytest.approx(outputs.lm_loss.item(), rel=1e-4)


def test_a_loss_of_a_subclass_stays_in_the_loss_of_evaluation(tmp_path):
    class Raised(GeoVRTrainer):
        def compute_loss(self, *args, **kwargs):
            loss, outputs = super().compute_loss(*args, **{**kwargs, "return_outputs": True})
            return loss + 100, outputs

    by_size = []
    for size in (1, 3):
        args = training_args(tmp_path, eval_answers=False, per_device_eval_batch_size=size)
        made = Raised(model=tiny_model(), args=args, processing_class=tiny_processor())
        by_size.append(made.evaluate(uneven_rows(), metric_key_prefix="mine"))
    assert all(metrics["mine_loss"] > 100 for metrics in by_size)
    parts = [[metrics[f"mine_{name}"] for name in LOSS_ITEMS] for metrics in by_size]
    assert parts[0] == pytest.approx(parts[1], rel=1e-4)  # means over the set, which `loss` is not


def test_several_evaluation_sets_are_told_apart(tmp_path):
    sets = {"rooms": uneven_rows()[:1], "talk": uneven_rows()[1:2]}
    made = trainer(tmp_path, eval_dataset=sets)
    for metrics in (made.evaluate(), made.evaluate(sets)):
        assert "eval_rooms_depth_abs_rel" in metrics and "eval_talk_answer_accuracy" in metrics
        assert "eval_talk_depth_abs_rel" not in metrics
        assert [answer.id for answer in made.answers] == ["one clip", "text"]
    made.evaluate(sets["talk"])
    assert [answer.id for answer in made.answers] == ["text"]


def test_evaluation_during_training_does_not_disturb_it(tmp_path):
    plain = trainer(tmp_path, max_steps=3)
    watched = trainer(tmp_path, max_steps=3, eval_dataset=uneven_rows()[:2], eval_strategy="steps", eval_steps=1)
    plain.train()
    watched.train()
    assert train_logs(plain)[-1]["loss"] == train_logs(watched)[-1]["loss"]
    assert sum("eval_answer_accuracy" in log for log in watched.state.log_history) == 3


def test_a_metric_function_sees_the_logits_of_every_position(tmp_path):
    seen = {}

    def compute_metrics(prediction):
        seen["shapes"] = prediction.predictions.shape, prediction.label_ids.shape
        return {"mine": 1.0}

    made = GeoVRTrainer(
        model=tiny_model(),
        args=training_args(tmp_path, eval_answers=False),
        processing_class=tiny_processor(),
        compute_metrics=compute_metrics,
    )
    assert made.evaluate([row("4", video(2), clip_targets=targets(2)), row("5")])["eval_mine"] == 1.0
    logits, labels = seen["shapes"]
    assert logits[:2] == labels and logits[2] == made.model.config.text_config.vocab_size


def test_predictions_are_logits_and_evaluation_alone_keeps_none(tmp_path):
    kept = []
    made = GeoVRTrainer(
        model=tiny_model(),
        args=training_args(tmp_path, eval_answers=False),
        processing_class=tiny_processor(),
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
    )
    made.model.register_forward_hook(lambda module, inputs, outputs: kept.append(outputs.logits is not None))
    rows = [row("4", video(2), clip_targets=targets(2)), row("5")]
    for ignored in (None, ["hidden_states"], ["camera_loss"]):
        predicted = made.predict(rows, ignore_keys=ignored)
        assert predicted.predictions.shape == predicted.label_ids.shape and "test_lm_loss" in predicted.metrics
    made.preprocess_logits_for_metrics = None
    assert made.predict(rows).predictions.shape[2] == made.model.config.text_config.vocab_size
    assert all(kept)
    kept.clear()
    made.evaluate(rows)
    assert not any(kept)


# ---- saving ----


def test_a_checkpoint_holds_the_processor_and_loads_by_itself(tmp_path):
    trained = trainer(tmp_path, max_steps=1)
    trained.train()
    trained.save_model(str(tmp_path / "saved"))
    loaded = GeoVRForConditionalGeneration.from_pretrained(tmp_path / "saved")
    for name, parameter in trained.model.named_parameters():
        assert torch.equal(parameter, loaded.get_parameter(name)), name
    assert (tmp_path / "saved" / "tokenizer.json").exists()


def test_a_plain_trainer_trains_the_model_with_our_collator(tmp_path):
    model = tiny_model()
    before = parameters(model)
    args = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        remove_unused_columns=False,
        label_names=["labels"],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
    )
    plain = Trainer(
        model=model, args=args, data_collator=GeoVRDataCollator(tiny_processor()), train_dataset=uneven_rows()
    )
    plain.train()
    changed = moved(before, model)
    assert any("depth_head" in name for name in changed) and any("language_model" in name for name in changed)
    assert "eval_loss" in plain.evaluate(uneven_rows())
