"""What VGGT and VGGT-Omega share: blocks within frames and blocks between frames take turns."""

from collections.abc import Sequence

import torch
from torch import nn

from .base import TeacherNetwork, in_chunks, per_frame, side_by_side
from .rotary import RotaryTable


class AlternatingNetwork(TeacherNetwork):
    r"""Base of networks whose layers have a block within frames and a block between frames.

    A frame's tokens are one camera token, registers and patches. A layer's output is that of its block within frames
    beside that of its block between frames. A subclass makes `frame_blocks`, calls `make_special_tokens`, and says how
    patches are embedded, how tokens are rotated, and how frames look at each other.
    """

    frame_blocks: nn.ModuleList

    def make_special_tokens(self, hidden_size: int, num_registers: int) -> None:
        """Make camera and register tokens: entry 0 for the first frame, entry 1 for the others."""
        self.num_special = 1 + num_registers
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, hidden_size))
        self.register_token = nn.Parameter(torch.zeros(1, 2, num_registers, hidden_size))

    def embed_patches(self, frames: torch.Tensor) -> torch.Tensor:
        """Embed `(rows, 3, H, W)`, RGB in [0, 1], as patch tokens `(rows, patches, hidden_size)`."""
        raise NotImplementedError

    def rotary_tables(
        self, grid: tuple[int, int], num_frames: int, device: torch.device
    ) -> tuple[RotaryTable, RotaryTable | None]:
        """Tables of the rotary embedding within a frame and between frames."""
        raise NotImplementedError

    def between_frames(self, layer: int, x: torch.Tensor, num_clips: int, rotary: RotaryTable | None) -> torch.Tensor:
        """Let the frames of `(B * S, tokens, hidden_size)` look at each other."""
        raise NotImplementedError

    def aggregate(self, images: torch.Tensor, wanted: set[int]) -> dict[int, torch.Tensor]:
        r"""Run the blocks.

        Args:
            images (`torch.FloatTensor` of shape `(B, S, 3, H, W)`): RGB in [0, 1].
            wanted (`set[int]`): Layers to keep.

        Returns:
            `dict[int, torch.FloatTensor]`: By layer, the outputs of its block within frames and of its block between
            frames, side by side, `(B * S, special + patches, 2 * hidden_size)`, in the dtype of the matrices; and
            under -1 the special tokens of the last layer, as they are.
        """
        num_clips, num_frames = images.shape[:2]
        patches = in_chunks(self.embed_patches, self.frames_chunk_size, images.flatten(0, 1))
        special = torch.cat([per_frame(t, num_clips, num_frames) for t in (self.camera_token, self.register_token)], 1)
        x = torch.cat([special.to(patches.dtype), patches], dim=1)
        dtype = self.matrix_dtype  # found by a search among the parameters: once, not for every layer
        within, between = self.rotary_tables(self.grid_size(images), num_frames, images.device)

        kept: dict[int, torch.Tensor] = {}
        for layer, block in enumerate(self.frame_blocks):
            x = local = in_chunks(lambda rows, block=block: block(rows, within), self.frames_chunk_size, x)
            x = self.between_frames(layer, x, num_clips, between)
            if layer in wanted:
                kept[layer] = side_by_side(local, x, dtype)
        kept[-1] = torch.cat([half[:, : self.num_special] for half in (local, x)], dim=-1)
        return kept

    def tokens_chunk(self, tokens_per_frame: int) -> int | None:
        """Tokens of all frames that pass through a feed-forward layer at once."""
        return None if self.frames_chunk_size is None else self.frames_chunk_size * tokens_per_frame

    def patch_map(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """The patches of `(B * S, tokens, C)` as a map `(B * S, rows, columns, C)`."""
        return tokens[:, self.num_special :].unflatten(1, grid)

    def decode(self, head: nn.Module, maps: list[torch.Tensor], image_size: tuple[int, int]) -> torch.Tensor:
        """Run a dense head, some frames at once."""
        return in_chunks(lambda *rows: head(rows, image_size), self.dense_chunk_size, *maps)

    def alignment_features(
        self, layers: dict[int, torch.Tensor], grid: tuple[int, int], clip_shape: Sequence[int]
    ) -> tuple[torch.Tensor, ...]:
        """The patches' half within frames, `(B, S, rows, columns, hidden_size)`, of each alignment layer."""
        maps = (self.patch_map(layers[layer], grid) for layer in self.config.alignment_layers)
        return tuple(features[..., : self.config.hidden_size].unflatten(0, clip_shape) for features in maps)
