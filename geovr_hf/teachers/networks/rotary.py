"""Two-dimensional rotary position embedding (RoPE), in the two layouts that the teachers use.

A table is a pair of cosines and sines of shape `(tokens, head_dim)`. A token that is not to be rotated has angle 0.
The layouts differ in which channels are paired: VGGT and Depth Anything 3 give one half of a head to the row and one
to the column and pair channels within each half (`groups=2`); VGGT-Omega pairs across the whole head (`groups=1`).
"""

import math

import torch


RotaryTable = tuple[torch.Tensor, torch.Tensor]


def axial_table(positions: torch.Tensor, head_dim: int, base: float) -> RotaryTable:
    r"""Table of VGGT's and Depth Anything 3's layout.

    Args:
        positions (`torch.LongTensor` of shape `(tokens, 2)`): Row and column of each token.
        head_dim (`int`): Channels of a head, a multiple of 4.
        base (`float`): Base of the frequencies.

    Returns:
        `tuple[torch.FloatTensor, torch.FloatTensor]` of shape `(tokens, head_dim)`: Cosines and sines.
    """
    half = head_dim // 2
    exponents = torch.arange(0, half, 2, dtype=torch.float32, device=positions.device) / half
    angles = positions.float()[..., None] * base**-exponents  # (tokens, 2, half / 2)
    angles = torch.cat([angles, angles], dim=-1).flatten(-2)
    return angles.cos(), angles.sin()


def grid_positions(grid_size: tuple[int, int], num_special: int, device=None) -> torch.Tensor:
    """Positions of a frame's tokens: special ones at (0, 0), then patches from (1, 1) on.

    Args:
        grid_size (`tuple[int, int]`): Rows and columns of patches.
        num_special (`int`): Tokens before the patches.
        device (`torch.device`, *optional*): Where to make them.

    Returns:
        `torch.LongTensor` of shape `(num_special + rows * columns, 2)`.
    """
    rows, columns = (torch.arange(1, size + 1, device=device) for size in grid_size)
    patches = torch.cartesian_prod(rows, columns)
    return torch.cat([patches.new_zeros(num_special, 2), patches])


def normalized_table(grid_size: tuple[int, int], num_special: int, periods: torch.Tensor) -> RotaryTable:
    r"""Table of VGGT-Omega's layout: both axes divided by the longer side, so that one patch is equally far in each.

    Args:
        grid_size (`tuple[int, int]`): Rows and columns of patches.
        num_special (`int`): Tokens before the patches; they are not rotated.
        periods (`torch.FloatTensor` of shape `(head_dim / 4,)`): Wave lengths; a checkpoint holds them.

    Returns:
        `tuple[torch.FloatTensor, torch.FloatTensor]` of shape `(num_special + rows * columns, head_dim)`.
    """
    centres = [
        2 * (torch.arange(size, dtype=torch.float32, device=periods.device) + 0.5) / max(grid_size) - 1
        for size in grid_size
    ]
    angles = 2 * math.pi * torch.cartesian_prod(*centres)[..., None] / periods.float()
    angles = angles.flatten(-2).repeat(1, 2)
    angles = torch.cat([angles.new_zeros(num_special, angles.shape[-1]), angles])
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, table: RotaryTable, groups: int) -> torch.Tensor:
    r"""Rotate queries or keys, in float32.

    Args:
        x (`torch.FloatTensor` of shape `(batch, tokens, heads, head_dim)`): Queries or keys.
        table (`tuple[torch.FloatTensor, torch.FloatTensor]` of shape `(tokens, head_dim)`): Cosines and sines.
        groups (`int`): Parts of a head within which the first half of the channels is paired with the second.

    Returns:
        `torch.FloatTensor` of the shape of `x`, float32.
    """
    cos, sin = (values[:, None] for values in table)
    first, second = x.unflatten(-1, (groups, 2, -1)).unbind(-2)
    turned = torch.stack([-second, first], dim=-2).flatten(-3)
    return x * cos + turned * sin
