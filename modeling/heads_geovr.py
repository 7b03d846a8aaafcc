"""The light heads on hidden states: camera, metric scale, and alignment with the teacher's features.

`last_layers` start small, see `GeoVRForConditionalGeneration._init_weights`. A head computes in the dtype of
its parameters; what leaves it is float32.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class CameraHead(nn.Module):
    r"""Reads a pose encoding from the hidden state of a frame's camera token.

    Args:
        hidden_size (`int`): Width of the hidden states.
        head_size (`int`): Width of the head, 1536 as published.
    """

    last_layers = ("translation", "rotation", "field_of_view")

    def __init__(self, hidden_size: int, head_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.fc1 = nn.Linear(hidden_size, head_size)
        self.fc2 = nn.Linear(head_size, head_size)
        self.translation = nn.Linear(head_size, 3)
        self.rotation = nn.Linear(head_size, 4)
        self.field_of_view = nn.Linear(head_size, 2)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        r"""Predict pose encodings.

        Args:
            states (`torch.FloatTensor` of shape `(..., hidden_size)`): Hidden states of camera tokens.

        Returns:
            `torch.FloatTensor` of shape `(..., 9)`, float32: Translation, quaternion x, y, z, w (not normalised),
            vertical and horizontal field of view (radians, >= 0).
        """
        x = F.gelu(self.fc1(self.norm(states.to(self.norm.weight.dtype))))
        x = F.gelu(self.fc2(x))
        return torch.cat([self.translation(x), self.rotation(x), F.relu(self.field_of_view(x))], dim=-1).float()


class ScaleHead(nn.Module):
    r"""Reads the metric scale from the hidden state of a clip's scale token.

    Args:
        hidden_size (`int`): Width of the hidden states.
        head_size (`int`): Width of the head, 512 as published.
    """

    last_layers = ("fc2",)

    def __init__(self, hidden_size: int, head_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.fc1 = nn.Linear(hidden_size, head_size)
        self.fc2 = nn.Linear(head_size, 1)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        r"""Predict metric scales.

        Args:
            states (`torch.FloatTensor` of shape `(..., hidden_size)`): Hidden states of scale tokens.

        Returns:
            `torch.FloatTensor` of shape `(...)`, float32: Metres in one unit of the clip's geometry, > 0.
        """
        return self.fc2(F.gelu(self.fc1(self.norm(states.to(self.norm.weight.dtype))))).squeeze(-1).float().exp()


class AlignmentHead(nn.Module):
    r"""Projects the hidden states of a clip's visual tokens to the features of one teacher layer.

    Args:
        hidden_size (`int`): Width of the hidden states.
        teacher_hidden_size (`int`): Width of the teacher's features.
    """

    last_layers = ()

    def __init__(self, hidden_size: int, teacher_hidden_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.fc1 = nn.Linear(hidden_size, teacher_hidden_size)
        self.fc2 = nn.Linear(teacher_hidden_size, teacher_hidden_size)

    def forward(self, states: torch.Tensor, grid_size: tuple[int, int] | None = None) -> torch.Tensor:
        r"""Predict teacher features.

        Args:
            states (`torch.FloatTensor` of shape `(T, h, w, hidden_size)`):
                Hidden states of the visual tokens.
            grid_size (`tuple[int, int]`, *optional*):
                Height and width of the teacher's grid. As published, the states are resized to it, not the result.

        Returns:
            `torch.FloatTensor` of shape `(T, *grid_size, teacher_hidden_size)`, float32: Predicted features.
        """
        if grid_size is not None:
            states = resize_feature_grid(states, grid_size)
        return self.fc2(F.gelu(self.fc1(self.norm(states.to(self.norm.weight.dtype))))).float()


def fan_in(layer: nn.Module) -> int:
    """Values of which one output is a weighted sum. Not read from the weight, which may be shared out (ZeRO-3).

    Args:
        layer (`nn.Linear`, `nn.Conv2d` or `nn.ConvTranspose2d`): The layer. The stride of a transposed convolution is
            its kernel's size.

    Returns:
        `int`.
    """
    if isinstance(layer, nn.Linear):
        return layer.in_features
    return layer.in_channels * (1 if isinstance(layer, nn.ConvTranspose2d) else math.prod(layer.kernel_size))


def pool_feature_grid(features: torch.Tensor, pool_size: int) -> torch.Tensor:
    r"""Average features over square windows of the grid. Rows and columns that fill no window are dropped.

    Args:
        features (`torch.FloatTensor` of shape `(T, h, w, C)`): Features.
        pool_size (`int`): Side of a window.

    Returns:
        `torch.FloatTensor` of shape `(T, h // pool_size, w // pool_size, C)`: Averaged features.

    Raises:
        ValueError: `features` does not have four dimensions, or its grid is smaller than a window.
    """
    if features.ndim != 4 or min(features.shape[1:3]) < pool_size:
        raise ValueError(
            f"`features` must have shape (frames, height, width, channels) with sides of at least {pool_size}, got "
            f"{tuple(features.shape)}."
        )
    return F.avg_pool2d(features.permute(0, 3, 1, 2), pool_size).permute(0, 2, 3, 1)


def resize_feature_grid(features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    r"""Resize a grid of features bilinearly, with the borders of both grids on each other.

    Args:
        features (`torch.FloatTensor` of shape `(T, h, w, C)`): Features.
        size (`tuple[int, int]`): Wanted height and width.

    Returns:
        `torch.FloatTensor` of shape `(T, *size, C)`: Resized features; the input itself if it has the size already.

    Raises:
        ValueError: `features` does not have four dimensions.
    """
    if features.ndim != 4:
        raise ValueError(f"`features` must have shape (frames, height, width, channels), got {tuple(features.shape)}.")
    if tuple(features.shape[1:3]) == tuple(size):
        return features
    resized = F.interpolate(features.permute(0, 3, 1, 2), tuple(size), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1)
