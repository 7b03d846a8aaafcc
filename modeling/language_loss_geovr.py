"""The language-model head, which also computes the loss of supervised tokens without ever holding all their logits."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from .idle_modules_geovr import is_sharded


CHUNK_LOGITS = 2**25  # of a chunk: 128 MiB in float32


class LanguageHead(nn.Linear):
    """`nn.Linear` that, given the tokens to predict, returns their loss: so FSDP and ZeRO see a module at work."""

    def forward(self, states: torch.Tensor, next_tokens: torch.Tensor | None = None) -> torch.Tensor:
        r"""Compute logits, or a loss.

        Args:
            states (`torch.FloatTensor` of shape `(..., hidden_size)`): Hidden states.
            next_tokens (`torch.LongTensor` of shape `(...)`, *optional*): The tokens to predict.

        Returns:
            `torch.FloatTensor`: Logits `(..., vocab_size)`; with `next_tokens`, the [`language_loss`] `()`.
        """
        if next_tokens is None:
            return super().forward(states)
        return language_loss(states, self.weight, next_tokens)


def language_loss(states: torch.Tensor, weight: torch.Tensor, next_tokens: torch.Tensor) -> torch.Tensor:
    r"""Sum of the cross-entropies of tokens, computed chunk by chunk.

    Logits, and in training their gradients, exist for one chunk of tokens at a time: the gradients with respect to
    states and weight are made in the forward pass, as the loss is a sum.

    Args:
        states (`torch.FloatTensor` of shape `(num_tokens, hidden_size)`): Hidden states that predict the tokens.
        weight (`torch.FloatTensor` of shape `(vocab_size, hidden_size)`): Weight of the language-model head.
        next_tokens (`torch.LongTensor` of shape `(num_tokens,)`): The tokens to predict.

    Returns:
        `torch.FloatTensor` of shape `()`, float32: The sum; 0 for no token.
    """
    return _LanguageLoss.apply(states, weight, next_tokens)


def adapted_language_loss(
    head: nn.Module, states: torch.Tensor, next_tokens: torch.Tensor, vocab_size: int
) -> torch.Tensor:
    r"""[`language_loss`] of a head that an adapter is wrapped around: logits are computed again in the backward pass.

    Args:
        head (`nn.Module`): From states to logits.
        states (`torch.FloatTensor` of shape `(num_tokens, hidden_size)`): Hidden states that predict the tokens.
        next_tokens (`torch.LongTensor` of shape `(num_tokens,)`): The tokens to predict.
        vocab_size (`int`): Number of logits of a token.

    Returns:
        `torch.FloatTensor` of shape `()`, float32: The sum; 0 for no token.
    """

    def chunk_loss(chunk: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(head(chunk).float(), targets, reduction="sum")

    # Processes that share out the head must call it equally often, and have different numbers of tokens.
    if is_sharded(head):
        return chunk_loss(states, next_tokens)
    size = max(CHUNK_LOGITS // vocab_size, 1)
    chunks = zip(states.split(size), next_tokens.split(size), strict=True)
    return sum(checkpoint(chunk_loss, *chunk, use_reentrant=False) for chunk in chunks)


class _LanguageLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, weight, next_tokens):
        # In autocast the head's product is one of the half-precision ones, as it is for `nn.Linear`.
        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        needs_states, needs_weight = ctx.needs_input_grad[:2]
        ctx.dtypes = states.dtype, weight.dtype
        cast_states, cast_weight = states.to(dtype), weight.to(dtype)
        total = states.new_zeros((), dtype=torch.float32)
        states_grad = torch.empty_like(cast_states) if needs_states else None
        weight_grad = torch.zeros_like(cast_weight) if needs_weight else None
        size = max(CHUNK_LOGITS // weight.shape[0], 1)
        with torch.autocast(device, enabled=False):
            for start in range(0, len(states), size):
                chunk, targets = cast_states[start : start + size], next_tokens[start : start + size]
                log_probabilities = F.log_softmax((chunk @ cast_weight.T).float(), dim=-1)
                total -= log_probabilities.gather(1, targets[:, None]).sum()
                if needs_states or needs_weight:
                    grad = log_probabilities.exp_()
                    grad.scatter_add_(1, targets[:, None], grad.new_full((len(targets), 1), -1.0))
                    grad = grad.to(dtype)
                    if needs_states:
                        torch.mm(grad, cast_weight, out=states_grad[start : start + size])
                    if needs_weight:
                        weight_grad.addmm_(grad.T, chunk)
        ctx.save_for_backward(states_grad, weight_grad)
        return total

    @staticmethod
    def backward(ctx, grad):
        states_grad, weight_grad = ctx.saved_tensors
        states_dtype, weight_dtype = ctx.dtypes
        return (
            None if states_grad is None else (states_grad * grad).to(states_dtype),
            None if weight_grad is None else (weight_grad * grad).to(weight_dtype),
            None,
        )
