"""Several GPUs through accelerate: what DDP, FSDP2 and DeepSpeed ZeRO are told about a GeoVR model."""

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from transformers import TrainerCallback, TrainingArguments
from transformers.utils import logging

from geovr_hf.modeling.depth_head_geovr import DepthHead


logger = logging.get_logger(__name__)

# FSDP2 gathers one layer of these at a time. All else, heads included, is small and stays gathered through a step.
GATHERED_ONE_BY_ONE = ["Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock"]


def prepare_sharding(accelerator: Accelerator, model: nn.Module) -> None:
    """Complete the configuration of FSDP2 or ZeRO-3, if it is one of them, before the model is wrapped.

    Args:
        accelerator ([`~accelerate.Accelerator`]): Holds the configuration. Changed in place.
        model (`nn.Module`): The model, perhaps with adapters.

    Raises:
        ValueError: The configuration is of FSDP1.
    """
    fsdp = getattr(accelerator.state, "fsdp_plugin", None)
    deepspeed = getattr(accelerator.state, "deepspeed_plugin", None)
    if fsdp is not None:
        if fsdp.fsdp_version != 2:
            raise ValueError(
                "FSDP1 cannot mix frozen and trained parameters in one layer. Set `fsdp_version: 2`, or take the "
                "configuration that `geovr launch-config fsdp2` names."
            )
        if fsdp.transformer_cls_names_to_wrap is None:
            fsdp.transformer_cls_names_to_wrap = list(GATHERED_ONE_BY_ONE)
        fsdp.mixed_precision_policy = _exact_policy(fsdp.mixed_precision_policy)
        _leave_meta_device(model)
    elif deepspeed is not None and deepspeed.zero_stage == 3:
        from deepspeed.utils import set_z3_leaf_modules

        # Gathered as a whole: how often its layers are called depends on the clips of the batch.
        set_z3_leaf_modules(model, [DepthHead], raise_if_not_found=False)


class PrefetchTrainedLayers(TrainerCallback):
    """In the backward pass, FSDP2 gathers ahead only layers that are trained.

    By itself it gathers the layer that was called before, whatever that is: the last frozen block of the vision tower,
    which no backward pass needs. Nothing waits for it, and what arrives late lands in memory that is already used
    again: with PyTorch 2.11, two GPUs and a busy host, in the weights of the next forward pass, which then are wrong
    (tests/test_gpu_multi.py).

    Args:
        layers (`list[str]`): Names of the classes that FSDP2 gathers one at a time.
    """

    def __init__(self, layers: list[str]):
        self.layers = set(layers)

    def on_train_begin(self, args, state, control, model: nn.Module | None = None, **kwargs):
        """Tell each layer which one to gather ahead: the one before, or itself, which costs nothing."""
        before = None
        for module in model.modules():
            if isinstance(module, FSDPModule) and not self.layers.isdisjoint(c.__name__ for c in type(module).__mro__):
                needed = before is not None and any(parameter.requires_grad for parameter in before.parameters())
                module.set_modules_to_backward_prefetch([before if needed else module])
                before = module


def may_compile(args: TrainingArguments) -> bool:
    """Whether layers can be compiled. ZeRO-3's hooks, which are inside of them, would be compiled anew in each layer.

    Args:
        args ([`~transformers.TrainingArguments`]): The arguments.

    Returns:
        `bool`: `False` with a warning.
    """
    if getattr(args.deepspeed_plugin, "zero_stage", None) != 3:
        return True
    logger.warning("Layers are not compiled with ZeRO-3. FSDP2 shares out as much, and compiles.")
    return False


def _leave_meta_device(model: nn.Module) -> None:
    """Give memory to parameters that the checkpoint lacks, in processes that wait for the first one's.

    With `fsdp_cpu_ram_efficient_loading` fresh heads are on the meta device there, and accelerate, which tells
    parameters by their address, would hand the optimizer the last of them in place of each.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                empty = torch.empty_like(parameter, device="cpu")
                setattr(module, name, nn.Parameter(empty, requires_grad=parameter.requires_grad))


def _exact_policy(policy: MixedPrecisionPolicy | None) -> MixedPrecisionPolicy | None:
    """In place of accelerate's default: losses stay float32, gradients add up in it, rotary tables are not rounded."""
    if policy is None or policy != MixedPrecisionPolicy(*[policy.param_dtype] * 3):
        return policy
    return MixedPrecisionPolicy(policy.param_dtype, torch.float32, output_dtype=None, cast_forward_inputs=False)


def save_gradient_copies(handler: DistributedDataParallelKwargs | None) -> None:
    """Let gradients lie in the buckets that DDP sends: no second copy of them in memory, and none to be made.

    Args:
        handler ([`~accelerate.utils.DistributedDataParallelKwargs`], *optional*): DDP's options. Changed in place.
    """
    if handler is not None:
        handler.gradient_as_bucket_view = True


def held_elements(parameter: nn.Parameter) -> int:
    """Elements of a parameter that this process holds, and has gradients and optimizer states of.

    Args:
        parameter (`nn.Parameter`): The parameter, perhaps sharded by FSDP2 or ZeRO-3.

    Returns:
        `int`.
    """
    if hasattr(parameter, "ds_tensor"):
        return parameter.ds_tensor.numel()
    return (parameter.to_local() if hasattr(parameter, "to_local") else parameter).numel()
