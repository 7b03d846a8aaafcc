"""What the host computes in a training step, told by a model on the meta device: whatever is not there is the host's.

On a machine of many cores each large operation of the host wakes them all, dozens of times in a step if it may.
"""

from contextlib import nullcontext

import torch
from test_packing import about, packed_model
from torch.utils._python_dispatch import TorchDispatchMode
from training_support import targets, tiny_processor, video

from geovr_hf import GeoVRDataCollator


class HostWork(TorchDispatchMode):
    """Collects the operations that give tensors on the host, with their largest result."""

    def __init__(self):
        super().__init__()
        self.largest: dict[str, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                name = str(function)
                self.largest[name] = max(self.largest.get(name, 0), tensor.numel())
        return result


def test_the_host_computes_lengths_and_no_more(monkeypatch):
    autocast, enabled = torch.autocast, torch.is_autocast_enabled
    monkeypatch.setattr(torch, "autocast", lambda kind, **k: nullcontext() if kind == "meta" else autocast(kind, **k))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind="cuda": kind != "meta" and enabled(kind))
    model = packed_model().to("meta")
    frames, questions = 4, 3
    rows = [r for seed in (1, 2) for r in about(video(frames, seed=seed), targets(frames, seed=seed), questions)]

    def step():
        batch = GeoVRDataCollator(tiny_processor()).for_packing()(rows)
        batch.pop("id", None)
        clips = [clip.to("meta") for clip in batch.pop("geometry_targets")]
        batch = {name: value.to("meta") for name, value in batch.items()}
        with HostWork() as work:
            model(**batch, geometry_targets=clips).loss.backward()
        return work.largest

    step()  # remembers where the patches of such frames lie
    assert max(step().values()) <= 2 * frames + 1
