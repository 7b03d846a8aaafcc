"""What the teachers' networks have in common as transformers models."""

from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from .blocks import LayerScale, MaskedBiasLinear
from .unsharded import whole_in_every_process


DENSE_CHUNK = 32
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Our prefix -> the prefix in the published file. With a number, the n-th third of the published rows.
PublishedNames = dict[str, str | tuple[str, int]]


class TeacherNetwork(PreTrainedModel):
    r"""Base of the teachers' networks.

    In half precision (`dtype=torch.bfloat16`) only matrices and convolutions are rounded: norms, biases, the residual
    stream, the camera head and the last layer of each dense head stay in float32, as the published programs run them.
    `forward` sets the autocast that this needs by itself.

    Attributes:
        frames_chunk_size (`int` or `None`):
            Frames that pass at once through what treats every frame by itself. It bounds memory and does not change
            results. `None`: all of them, but 32 in the dense heads, whose activations are far larger.
    """

    main_input_name = "images"
    input_modalities = ("video",)
    base_model_prefix = ""
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules: ClassVar[list[str]] = ["Block"]
    # Matched with the components of parameter names.
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = [
        *("bias", "bias_mask", "periods", "gamma", "lambda1", "camera_head"),
        *("norm", "norm1", "norm2", "q_norm", "k_norm", "token_norm", "trunk_norm", "layernorm"),
        *("pixels.projection", "sky_pixels.projection", "value", "confidence"),
    ]
    # Parameters of the published file that nothing here needs, by prefix.
    unneeded: ClassVar[tuple[str, ...]] = ()
    # Whether the network's poses are camera-to-world.
    world_from_cam: ClassVar[bool] = False

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.frames_chunk_size: int | None = None

    @property
    def dense_chunk_size(self) -> int:
        """Frames that pass through a dense head at once."""
        return DENSE_CHUNK if self.frames_chunk_size is None else min(self.frames_chunk_size, DENSE_CHUNK)

    @classmethod
    def from_pretrained(cls, source: str | Path, *arguments, output_loading_info: bool = False, **options):
        """As in transformers, for what `save_pretrained` wrote, but strictly: no weight may be missing or left over.

        Raises:
            ValueError: One is. A teacher with random weights would teach nonsense.
        """
        with whole_in_every_process():
            network, report = super().from_pretrained(source, *arguments, output_loading_info=True, **options)
        problems = {what: sorted(map(str, names))[:10] for what, names in report.items() if names}
        if problems:
            raise ValueError(
                f"{source} does not hold the weights of a {cls.__name__} under its names: {problems}. Published files "
                "have names of their own: `load_teacher(...).network` loads them."
            )
        return (network, report) if output_loading_info else network

    @staticmethod
    def published_names(config: PreTrainedConfig) -> PublishedNames:
        """Names in the published file, by our prefix."""
        raise NotImplementedError

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, LayerScale):
            init.ones_(module.gamma)
        if isinstance(module, MaskedBiasLinear):
            init.ones_(module.bias_mask)
        for name, parameter in module.named_parameters(recurse=False):
            if name.endswith(("_token", "_tokens", "pos_embed")):
                init.normal_(parameter, std=self.config.initializer_range)

    def keeps_float32(self, name: str) -> bool:
        """Whether the parameter or buffer `name` stays in float32 in half precision."""
        return any(f".{kept}." in f".{name}." for kept in self._keep_in_fp32_modules_strict)

    @property
    def matrix_dtype(self) -> torch.dtype:
        """Dtype in which matrices are multiplied."""
        return next(p.dtype for n, p in self.named_parameters() if n.endswith("attn.proj.weight"))

    @contextmanager
    def mixed_precision(self, device: torch.device):
        """Multiply in the dtype of the matrices, keep the rest in the dtype of the norms."""
        dtype = self.matrix_dtype
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            yield

    def grid_size(self, images: torch.Tensor) -> tuple[int, int]:
        """Rows and columns of patches of `(B, S, 3, H, W)`.

        Raises:
            ValueError: The images have another shape, or sides that are no multiples of the patch.
        """
        patch = self.config.patch_size
        if images.ndim != 5 or images.shape[2] != 3 or images.shape[-2] % patch or images.shape[-1] % patch:
            raise ValueError(
                f"`images` must have shape (clips, frames, 3, height, width) with sides that are multiples of "
                f"{patch}, got {tuple(images.shape)}."
            )
        return images.shape[-2] // patch, images.shape[-1] // patch


def normalize_images(images: torch.Tensor) -> torch.Tensor:
    """ImageNet normalisation of `(..., 3, H, W)`, RGB in [0, 1]."""
    mean, std = _imagenet_statistics(images.device)
    return (images.float() - mean) / std


@cache
def _imagenet_statistics(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    # Kept: a copy to a GPU waits for all that was started there before.
    return tuple(torch.tensor(values, device=device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))


def per_frame(token: torch.Tensor, num_clips: int, num_frames: int) -> torch.Tensor:
    """Lay out tokens that differ between the first frame and the others.

    Args:
        token (`torch.FloatTensor` of shape `(1, 2, n, C)`): Entry 0 for the first frame, entry 1 for the others.
        num_clips (`int`): Clips `B`.
        num_frames (`int`): Frames `S`.

    Returns:
        `torch.FloatTensor` of shape `(B * S, n, C)`.
    """
    frames = torch.cat([token[:, :1], token[:, 1:].expand(-1, num_frames - 1, -1, -1)], dim=1)
    return frames.expand(num_clips, -1, -1, -1).flatten(0, 1)


def side_by_side(first: torch.Tensor, second: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Join `(..., C)` and `(..., C)` to `(..., 2 * C)`, in `dtype`: casting and joining at once."""
    width = first.shape[-1]
    joined = first.new_empty(*first.shape[:-1], 2 * width, dtype=dtype)
    joined[..., :width], joined[..., width:] = first, second
    return joined


def in_chunks(function: Callable, chunk_size: int | None, *tensors: torch.Tensor):
    """Apply a function to equal shares of the rows, at most `chunk_size` each, and join the results.

    Args:
        function (`Callable`): From tensors to a tensor, each row by itself.
        chunk_size (`int`, *optional*): Most rows at once; `None` for all.
        tensors (`torch.Tensor` of shapes `(rows, ...)`): Arguments.

    Returns:
        `torch.Tensor`: What `function` gives for all rows.
    """
    rows = len(tensors[0])
    if chunk_size is None or rows <= chunk_size:
        return function(*tensors)
    # Equal shares rather than full ones and a rest: compiled code then sees at most two sizes.
    count = -(-rows // chunk_size)
    sizes = [rows // count + (index < rows % count) for index in range(count)]
    starts = [0, *accumulate(sizes)]
    return torch.cat(
        [function(*(t[start : start + size] for t in tensors)) for start, size in zip(starts, sizes, strict=False)]
    )
