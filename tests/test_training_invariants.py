"""What must not change a training run: how its batch is cut, an interruption, recomputed activations."""

import os
import subprocess
import sys

import pytest
import torch
from multi_process import free_port
from training_support import row, tiny_model, tiny_processor, trainer, uneven_rows

from geovr_hf import GeoVRDataCollator
from geovr_hf.trainers.geovr_trainer import LOSS_ITEMS


# Plain gradient descent: Adam would hide a wrongly scaled gradient.
DESCENT = {"optim": "sgd", "learning_rate": 0.05, "geometry_learning_rate": 0.05, "max_grad_norm": 0.0}


def losses(trained):
    names = ("loss", *LOSS_ITEMS)
    return [{name: log[name] for name in names if name in log} for log in trained.state.log_history if "loss" in log]


def assert_same_update(start, one, other, tolerance=2e-6):
    """Compare two models by how far each parameter has moved from a common start."""
    for name, parameter in one.items():
        moved, difference = (parameter - start[name]).abs().max(), (parameter - other[name]).abs().max()
        assert difference <= tolerance + 1e-3 * moved, f"{name}: {difference} of {moved}"


def state(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.fixture(scope="module")
def whole_batch(tmp_path_factory):
    """Two updates, each from one batch of all four rows."""
    trained = trainer(tmp_path_factory.mktemp("whole"), per_device_train_batch_size=4, **DESCENT)
    trained.train()
    return state(trained.model), losses(trained)


@pytest.mark.parametrize("rows_at_once", [1, 2, 3])
def test_how_a_batch_is_accumulated_changes_nothing(tmp_path, whole_batch, rows_at_once):
    # 3 + 1: with an uneven last part, no per-batch mean can come out right.
    trained = trainer(
        tmp_path,
        per_device_train_batch_size=rows_at_once,
        gradient_accumulation_steps=-(-4 // rows_at_once),
        **DESCENT,
    )
    trained.train()
    assert_same_update(state(tiny_model()), whole_batch[0], state(trained.model))
    for mine, whole in zip(losses(trained), whole_batch[1], strict=True):
        assert mine == pytest.approx(whole, rel=1e-5)


def test_a_wrong_normalisation_would_be_seen(whole_batch):
    """The comparison above has teeth: the same update from three of the four rows is told apart."""
    start = state(tiny_model())
    shrunk = {name: start[name] + 0.99 * (moved - start[name]) for name, moved in whole_batch[0].items()}
    with pytest.raises(AssertionError):
        assert_same_update(start, whole_batch[0], shrunk)


def test_recomputed_activations_change_nothing(tmp_path, whole_batch):
    trained = trainer(tmp_path, per_device_train_batch_size=4, activation_checkpointing=True, **DESCENT)
    trained.train()
    assert_same_update(state(tiny_model()), whole_batch[0], state(trained.model))


PROGRAM = """
import importlib.util
import sys
import weakref
import torch
from test_training_invariants import DESCENT, evaluated, losses, state
from training_support import trainer, uneven_rows

if __name__ == "__main__":
    # Row by row. In the forward that exchanges gradients, one process has clips and the other text alone.
    one, text, two, few = uneven_rows()
    cut = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "ddp_backend": "gloo"}
    trained = trainer(sys.argv[1], rows=[one, two, few, text], **cut, **DESCENT)
    trained.train()
    metrics = evaluated(trained)
    if trained.is_world_process_zero():
        torch.save((state(trained.model), losses(trained), metrics), sys.argv[1] + "/result.pt")
    group = weakref.ref(torch.distributed.group.WORLD)
    trained.end()
    # DeepSpeed, where it is installed, holds on to the group.
    if importlib.util.find_spec("deepspeed") is None:
        assert group() is None, "a group that outlives end() leaves threads that may abort the exit of the process"
"""


def evaluated(trained):
    """What must not depend on the processes. Three rows: two processes have to repeat one."""
    metrics = trained.evaluate(uneven_rows()[:3])
    names = ["depth_abs_rel", "rotation_error_deg", "translation_error_m", "scale_ratio", "answer_accuracy"]
    names += ["loss", *LOSS_ITEMS]
    return {name: metrics[f"eval_{name}"] for name in names} | {"answers": len(trained.answers)}


@pytest.mark.slow
def test_two_processes_change_nothing(tmp_path, project_root):
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(project_root), str(project_root / "tests")]),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path)]
    processes = [
        subprocess.Popen(command, env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    parameters, logs, metrics = torch.load(tmp_path / "result.pt")

    alone = trainer(tmp_path, per_device_train_batch_size=4, **DESCENT)
    alone.train()
    assert_same_update(state(tiny_model()), state(alone.model), parameters)
    for mine, whole in zip(logs, losses(alone), strict=True):
        assert mine == pytest.approx(whole, rel=1e-5)
    assert metrics == pytest.approx(evaluated(alone), rel=1e-4)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    rows = [*uneven_rows(), row("five", question="And sofas?")]
    run = {
        "rows": rows,
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "lr_scheduler_type": "cosine",
        "train_sampling_strategy": "random",
        "logging_steps": 2,
    }
    straight = trainer(tmp_path / "straight", **run)
    straight.train()
    resumed = trainer(tmp_path / "resumed", model=tiny_model(seed=1), **run)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2"))
    for name, parameter in straight.model.named_parameters():
        assert torch.equal(parameter, resumed.model.get_parameter(name)), name
    assert losses(straight)[-1] == losses(resumed)[-1]


def test_a_rows_loss_does_not_depend_on_its_company():
    """Padding, other rows' clips and their order leave the losses of a batch the means over its rows."""
    model, collator = tiny_model().eval(), GeoVRDataCollator(tiny_processor())
    rows = uneven_rows()
    with torch.no_grad():
        forward = model(**collator(rows))
        backward = model(**collator(rows[::-1]))
    for name in LOSS_ITEMS:
        torch.testing.assert_close(forward[name], backward[name], rtol=1e-5, atol=1e-6)
