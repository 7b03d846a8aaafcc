"""The rule that decides whether activations are kept or computed again in the backward pass."""

import torch
from torch import nn

from geovr_hf.trainers.sharding import held_elements


# Values that a decoder layer keeps per token, in multiples of its hidden and of its feed-forward size. The inputs of
# its matrix products, norms and activation; compiled layers keep about two thirds of it.
KEPT_HIDDEN, KEPT_INTERMEDIATE = 13, 5
# Share of the free memory that activations may take: the rest is for heads, the vision tower, and larger batches.
USABLE = 0.6


def activation_bytes(config, num_tokens: int, itemsize: int) -> int:
    """Estimate what the layers of a language model keep for the backward pass.

    Args:
        config (`PreTrainedConfig`): The text configuration.
        num_tokens (`int`): Tokens of a forward.
        itemsize (`int`): Bytes of a value in the compute dtype.

    Returns:
        `int`: Bytes.
    """
    per_token = KEPT_HIDDEN * config.hidden_size + KEPT_INTERMEDIATE * config.intermediate_size
    return config.num_hidden_layers * num_tokens * per_token * itemsize


def must_checkpoint(model: nn.Module, num_tokens: int, itemsize: int) -> bool:
    """Whether a forward's activations would not fit beside what training needs anyway.

    The rule: keep activations if [`activation_bytes`] is at most 60 % of the GPU memory that is left after gradients
    and two optimizer states of every trained parameter. Without a GPU, whose memory can be asked for, checkpoint.

    Args:
        model (`nn.Module`): The model, in memory.
        num_tokens (`int`): Tokens of a forward.
        itemsize (`int`): Bytes of a value in the compute dtype.

    Returns:
        `bool`.
    """
    free = free_memory(next(model.parameters()).device)
    if free is None:
        return True
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    free -= sum(3 * held_elements(parameter) * parameter.element_size() for parameter in trained)
    return activation_bytes(model.config.text_config, num_tokens, itemsize) > USABLE * free


def free_memory(device: torch.device) -> int | None:
    """Bytes that a GPU has left, what PyTorch holds and does not use included; `None` if it cannot be asked."""
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
