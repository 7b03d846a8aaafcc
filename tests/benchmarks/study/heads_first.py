"""Heads that learn alone before what they learn from learns with them."""

import torch
from transformers import TrainerCallback

from geovr_hf.modeling import GeoVRForConditionalGeneration


class HeadsFirst(TrainerCallback):
    """For the first steps, geometric losses train the heads and leave the backbone alone.

    Heads start from random weights, and what they send back at first says nothing about the geometry.

    Args:
        model ([`GeoVRForConditionalGeneration`]): The model.
        steps (`int`): For so many steps.
    """

    def __init__(self, model: GeoVRForConditionalGeneration, steps: int):
        self.steps, self.alone = steps, steps > 0
        self._predict = model._predict_geometry
        model._predict_geometry = self._predict_geometry

    def on_step_begin(self, args, state, control, **kwargs):
        """Count, also after a run was gone on with."""
        self.alone = state.global_step < self.steps

    def _predict_geometry(self, states: dict[int, torch.Tensor], *arguments):
        if self.alone:
            states = {index: state.detach() for index, state in states.items()}
        return self._predict(states, *arguments)
