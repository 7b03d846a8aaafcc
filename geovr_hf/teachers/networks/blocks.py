"""The transformer block that all teachers are made of.

Parameters carry the names that DINO and its descendants gave them (`norm1`, `attn.qkv`, `ls1.gamma`, ...).
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .bounded_attention import bounded_attention
from .rotary import RotaryTable, rotate


class LayerScale(nn.Module):
    """Scales a branch, channel by channel."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(hidden_size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(..., hidden_size)` to the same shape."""
        return x * self.gamma


class MaskedBiasLinear(nn.Linear):
    """A linear layer whose bias counts as far as a stored mask lets it (VGGT-Omega's `qkv`)."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features)
        self.register_buffer("bias_mask", torch.ones(out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(..., in_features)` to `(..., out_features)`."""
        return F.linear(x, self.weight, self.bias * self.bias_mask)


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them.

    Attributes:
        fuse_gelu (`bool`):
            Compute the GELU inside the first matrix product, on a GPU. There it is the tanh form, which differs from
            the exact one by less than half a thousandth: less than bfloat16 rounds.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, output_size: int | None = None):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, hidden_size if output_size is None else output_size)
        self.fuse_gelu = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(..., hidden_size)` to `(..., output_size)`."""
        if not self.fuse_gelu:
            return self.fc2(F.gelu(self.fc1(x)))
        weight, bias = self.fc1.weight, self.fc1.bias.to(self.fc1.weight.dtype)
        rows = x.flatten(0, -2).to(weight.dtype)
        hidden = torch._addmm_activation(bias, rows, weight.t(), use_gelu=True)
        return self.fc2(hidden.unflatten(0, x.shape[:-1]))


class SwiGLU(nn.Module):
    """A gated feed-forward layer; gate and value come out of one matrix."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.w12 = nn.Linear(hidden_size, 2 * intermediate_size)
        self.w3 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(..., hidden_size)` to the same shape."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class Attention(nn.Module):
    r"""Bidirectional self-attention through transformers' attention interface.

    Args:
        config (`PreTrainedConfig`):
            Configuration of the model, which names the attention implementation.
        hidden_size (`int`):
            Width.
        num_heads (`int`):
            Heads.
        qk_norm (`bool`, *optional*, defaults to `False`):
            Normalise queries and keys, each over a head, before they are rotated.
        masked_bias (`bool`, *optional*, defaults to `False`):
            Whether the checkpoint masks the bias of queries, keys and values.
        rotary_groups (`int`, *optional*, defaults to 2):
            Layout of the rotary embedding, see [`rotate`].

    Attributes:
        use_bounded_attention (`bool`):
            Go past the interface to [`bounded_attention`]. The same function, for a GPU.
    """

    is_causal = False
    num_key_value_groups = 1  # what some attention implementations ask of a module

    def __init__(
        self,
        config: PreTrainedConfig,
        hidden_size: int,
        num_heads: int,
        qk_norm: bool = False,
        masked_bias: bool = False,
        rotary_groups: int = 2,
    ):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.rotary_groups = rotary_groups
        head_dim = hidden_size // num_heads
        self.scaling = head_dim**-0.5
        self.qkv = (MaskedBiasLinear if masked_bias else nn.Linear)(hidden_size, 3 * hidden_size)
        self.q_norm = nn.LayerNorm(head_dim) if qk_norm else None
        self.k_norm = nn.LayerNorm(head_dim) if qk_norm else None
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.use_bounded_attention = False

    def forward(self, x: torch.Tensor, rotary: RotaryTable | None = None) -> torch.Tensor:
        """Attend within each row of `(batch, tokens, hidden_size)`."""
        qkv = self.qkv(x)
        if self.use_bounded_attention:
            arguments = (self.q_norm, self.k_norm, rotary, self.num_heads, self.rotary_groups, self.scaling)
            return self.proj(bounded_attention(qkv, *arguments))
        query, key, value = qkv.unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        if self.q_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if rotary is not None:
            query, key = (rotate(states, rotary, self.rotary_groups) for states in (query, key))
        # Autocast's norm and the rotation leave float32; attention runs in the dtype of the matrices.
        query, key, value = (states.to(value.dtype).transpose(1, 2) for states in (query, key, value))
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        attended, _ = attend(self, query, key, value, None, dropout=0.0, scaling=self.scaling)
        return self.proj(attended.flatten(-2))


def eager_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Attention spelled out: what `attn_implementation="eager"` means."""
    weights = (scaling * query @ key.transpose(-1, -2)).softmax(-1)
    return (weights @ value).transpose(1, 2), weights


class Block(nn.Module):
    r"""A pre-norm transformer block: attention, then a feed-forward layer, each scaled and added.

    Args:
        config (`PreTrainedConfig`):
            Configuration of the model, which names the attention implementation.
        hidden_size (`int`):
            Width.
        num_heads (`int`):
            Heads.
        feed_forward (`nn.Module`):
            The feed-forward layer.
        eps (`float`):
            Epsilon of the block's norms. Those of queries and keys have 1e-5.
        options:
            `qk_norm`, `masked_bias`, `rotary_groups` of [`Attention`].
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        hidden_size: int,
        num_heads: int,
        feed_forward: nn.Module,
        eps: float,
        **options,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=eps)
        self.attn = Attention(config, hidden_size, num_heads, **options)
        self.ls1 = LayerScale(hidden_size)
        self.norm2 = nn.LayerNorm(hidden_size, eps=eps)
        self.mlp = feed_forward
        self.ls2 = LayerScale(hidden_size)

    def forward(
        self, x: torch.Tensor, rotary: RotaryTable | None = None, tokens_chunk_size: int | None = None
    ) -> torch.Tensor:
        r"""Attend within each row.

        Args:
            x (`torch.FloatTensor` of shape `(batch, tokens, hidden_size)`):
                Tokens.
            rotary (`tuple[torch.FloatTensor, torch.FloatTensor]`, *optional*):
                Table of the rotary embedding.
            tokens_chunk_size (`int`, *optional*):
                Tokens of a row that pass through the feed-forward layer at once; by default all. It bounds memory and
                does not change results.

        Returns:
            `torch.FloatTensor` of shape `(batch, tokens, hidden_size)`.
        """
        x = x + self.ls1(self.attn(self.norm1(x), rotary))
        pieces = [x] if tokens_chunk_size is None else x.split(tokens_chunk_size, dim=1)
        pieces = [piece + self.ls2(self.mlp(self.norm2(piece))) for piece in pieces]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
