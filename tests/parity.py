"""Numeric fixtures of the published implementation, and the gate within which we must agree with them.

The folder is `tests/fixtures/parity`, or the one that the environment variable `GEOVR_PARITY_DIR` names. Tests run
every case that the JSON files list, with the sizes and hyper-parameters given there: any folder of that form will do.
"""

import json
import os
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file


def parity_dir() -> Path:
    return Path(os.environ.get("GEOVR_PARITY_DIR") or Path(__file__).parent / "fixtures" / "parity")


@cache
def load_facts(name: str) -> dict:
    return json.loads((parity_dir() / f"{name}.json").read_text())


@cache
def load_tensors(name: str) -> dict[str, torch.Tensor]:
    return load_file(parity_dir() / f"{name}.safetensors")


def weights_of(tensors: dict[str, torch.Tensor], module: str) -> dict[str, torch.Tensor]:
    """The state dict of one of our modules out of tensors that hold published weights, with or without a prefix."""
    from geovr_hf.conversion_names import from_published_name

    ours = {from_published_name(name.removeprefix("weights/")): value for name, value in tensors.items()}
    return {name.removeprefix(f"{module}."): value for name, value in ours.items() if name.startswith(f"{module}.")}


def assert_within_gate(actual: torch.Tensor | float, reference: torch.Tensor | float):
    """Assert max |actual - reference| <= 1e-4 max(mean |reference|, 0.2 max |reference|)."""
    actual, reference = (torch.as_tensor(x).detach().double() for x in (actual, reference))
    assert actual.shape == reference.shape, f"shape {tuple(actual.shape)}, reference {tuple(reference.shape)}"
    magnitude = reference.abs()
    gate = 1e-4 * max(magnitude.mean().item(), 0.2 * magnitude.max().item())
    error = (actual - reference).abs().max().item()
    assert error <= gate, f"off by {error:.3e}, gate {gate:.3e}"
