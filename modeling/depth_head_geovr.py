"""The depth head: a dense prediction transformer (DPT) decoder on four hidden states of the visual tokens.

After docs/numerics.md: the dense head of VGGT-Omega, without confidence, on the language model's states.
"""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from .dense_decoder_geovr import DenseDecoder, add_position, resize_map


class DepthHead(DenseDecoder):
    r"""Predicts a depth map per frame from the hidden states of its visual tokens.

    Four states, shallow to deep, become maps of 4, 2, 1 and 1/2 times the token grid, which are fused from the deepest
    up. The result has a quarter of the depth map's resolution; its channels are unfolded into the pixels.

    Frames are independent, so they can pass in chunks: that bounds the memory of the activations to one chunk's in
    inference, and with `gradient_checkpointing` in training too. `model.gradient_checkpointing_enable()` sets that
    attribute.

    Args:
        hidden_size (`int`):
            Width of the hidden states.
        out_channels (`Sequence[int]`):
            Channels of the four maps, shallow to deep. Multiples of 4.
        fusion_size (`int`):
            Channels in which maps are fused. A multiple of 4.
        patch_size (`int`, *optional*, defaults to 32):
            Pixels of the language model's frame per visual token, along each axis.
        tile (`int`, *optional*, defaults to 28):
            Pixels of the depth map per cell of the target's grid, along each axis. A multiple of 4.
        frames_chunk_size (`int`, *optional*):
            Frames that pass at once; all of them by default. It does not change results.

    Raises:
        ValueError: There are not four `out_channels`, or a size is not a multiple of 4.
    """

    last_layers = ("projection",)

    def __init__(
        self,
        hidden_size: int,
        out_channels: Sequence[int],
        fusion_size: int,
        patch_size: int = 32,
        tile: int = 28,
        frames_chunk_size: int | None = None,
    ):
        super().__init__(hidden_size, out_channels, fusion_size)
        if tile % 4:
            raise ValueError(f"`tile` must be one of the multiples of 4, got {tile}.")
        self.patch_size = patch_size
        self.tile = tile
        self.frames_chunk_size = frames_chunk_size
        self.gradient_checkpointing = False
        self.projection = nn.Conv2d(fusion_size, (tile // 4) ** 2, 1)

    def forward(
        self,
        states: Sequence[torch.Tensor],
        image_size: tuple[int, int] | list[tuple[int, int]],
        target_size: tuple[int, int] | list[tuple[int, int]],
        num_frames: list[int] | None = None,
    ) -> torch.Tensor:
        r"""Predict depth, of one clip or, with `num_frames`, of several in one call.

        Processes that share parameters must call the head equally often, see `idle_modules_geovr`; and ZeRO-3 hangs
        its hooks on tensors, of which there must be equally many.

        Args:
            states (`Sequence[torch.FloatTensor]` of four shapes `(T, h, w, hidden_size)`):
                Hidden states of a clip's visual tokens, shallow to deep.
            image_size (`tuple[int, int]`):
                Height and width of the frames that the language model saw: `patch_size` times the token grid.
            target_size (`tuple[int, int]`):
                Height and width of the depth maps. Multiples of `tile`.
            num_frames (`list[int]`, *optional*):
                Frames of each clip. `states` is then one tensor `(4, tokens, hidden_size)`, the clips behind each
                other, and the sizes are lists.

        Returns:
            `torch.FloatTensor` of shape `(T, *target_size)`, float32: Depth, > 0, in the teacher's unit. Of several
            clips, their pixels behind each other: `(pixels,)`.

        Raises:
            ValueError: There are not four states of one shape, or a size does not fit its grid.
        """
        if num_frames is None:
            return self._predict(states, image_size, target_size)
        # Frames know nothing of each other: neighbours of one size are decoded at once, whatever clip they are of.
        sizes = zip(num_frames, image_size, target_size, strict=True)
        runs = [
            (sum(clip[0] for clip in clips), *size) for size, clips in itertools.groupby(sizes, lambda clip: clip[1:])
        ]
        grids = [(count, *(side // self.patch_size for side in image)) for count, image, _ in runs]
        depths = [
            self._predict(part.unflatten(1, grid), image, target).flatten()
            for part, grid, (_, image, target) in zip(
                states.split([math.prod(grid) for grid in grids], dim=1), grids, runs, strict=True
            )
        ]
        return torch.cat(depths)

    def _predict(self, states, image_size, target_size) -> torch.Tensor:
        self._check_sizes(states, image_size, target_size)
        # In training without checkpointing all activations are kept, and chunks would bound nothing.
        in_chunks = self.frames_chunk_size and (self.gradient_checkpointing or not self.training)
        size = self.frames_chunk_size if in_chunks else len(states[0])
        chunks = zip(*(state.split(size) for state in states), strict=True)
        return torch.cat([self._decode_chunk(chunk, image_size, target_size) for chunk in chunks])

    def compile_decoding(self):
        """Compile what a chunk of frames goes through, in place."""
        self._decode = torch.compile(self._decode)

    def _decode_chunk(self, states, image_size, target_size) -> torch.Tensor:
        if self.gradient_checkpointing and self.training:
            return checkpoint(
                self._decode, states, image_size, target_size, use_reentrant=False, preserve_rng_state=False
            )
        return self._decode(states, image_size, target_size)

    def _decode(self, states, image_size, target_size) -> torch.Tensor:
        fused = resize_map(self.fuse(states, image_size), [4 * side // self.tile for side in target_size])
        folded = self.projection(add_position(fused, target_size))
        # float32 before the exponential: in bfloat16 its steps would be 1 % of the depth.
        return F.pixel_shuffle(folded.float(), self.tile // 4).squeeze(1).exp()

    def _check_sizes(self, states, image_size, target_size):
        shapes = [tuple(state.shape) for state in states]
        if len(shapes) != 4 or len(set(shapes)) > 1 or len(shapes[0]) != 4:
            raise ValueError(
                f"`states` must be four tensors of one shape (frames, height, width, channels), got {shapes}."
            )
        grid = shapes[0][1:3]
        if tuple(image_size) != tuple(self.patch_size * side for side in grid):
            raise ValueError(
                f"`image_size` must be {self.patch_size} times the token grid {grid}, got {tuple(image_size)}."
            )
        if any(side <= 0 or side % self.tile for side in target_size):
            raise ValueError(
                f"`target_size` must be multiples of {self.tile}, got {tuple(target_size)}. Resize the depth target."
            )
