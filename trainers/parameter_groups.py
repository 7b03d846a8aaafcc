"""Which parameters are trained, and at which learning rate."""

import torch
from torch import nn

from geovr_hf.trainers.geovr_training_args import GeoVRTrainingArguments


# The modules GeoVR adds to the backbone, as path components of parameter names, which wrappers prefix and extend.
GEOMETRY_MODULES = ("geometry_tokens", "camera_head", "depth_head", "scale_head", "alignment_heads")


def is_geometry_parameter(name: str) -> bool:
    """Whether a parameter belongs to the geometric heads or the geometry-token embedding.

    Args:
        name (`str`): Name of the parameter, also as PEFT, DDP or FSDP wrappers spell it.

    Returns:
        `bool`.
    """
    return any(part in GEOMETRY_MODULES for part in name.split("."))


def frozen_part(name: str, args: GeoVRTrainingArguments) -> str | None:
    """Name the argument that freezes a parameter.

    Args:
        name (`str`): Name of the parameter, also as wrappers spell it.
        args (`GeoVRTrainingArguments`): The arguments.

    Returns:
        `str` or `None`: `"freeze_vision_tower"`, `"freeze_merger"`, `"freeze_language_model"`, or `None` if the
        parameter is to be trained.
    """
    parts = name.split(".")
    if "visual" in parts:
        # `deepstack_merger_list` is another component: the published recipe freezes it with the tower.
        argument = "freeze_merger" if "merger" in parts else "freeze_vision_tower"
    elif "language_model" in parts or "lm_head" in parts:
        argument = "freeze_language_model"
    else:
        return None
    return argument if getattr(args, argument) else None


def freeze_parameters(model: nn.Module, args: GeoVRTrainingArguments):
    """Freeze what the arguments say. Nothing is unfrozen: what was frozen before stays so.

    Args:
        model (`nn.Module`): The model, not yet wrapped by PEFT.
        args (`GeoVRTrainingArguments`): The arguments.
    """
    for name, parameter in model.named_parameters():
        if frozen_part(name, args):
            parameter.requires_grad_(False)


def split_parameter_groups(optimizer: torch.optim.Optimizer, model: nn.Module, geometry_learning_rate: float):
    r"""Give the geometric parameters of a new optimizer groups and a learning rate of their own.

    Each group is cut in two, so that decaying and not decaying parameters stay apart. Empty groups vanish. Geometric
    groups are marked by the entry `"geometry": True`. They follow the backbone's, because the first group's learning
    rate is the one logged as `learning_rate`.

    Args:
        optimizer (`torch.optim.Optimizer`): An optimizer that has not stepped. Changed in place.
        model (`nn.Module`): The model whose parameters it holds.
        geometry_learning_rate (`float`): The learning rate of the geometric parameters.
    """
    geometric = {id(p) for name, p in model.named_parameters() if is_geometry_parameter(name)}
    backbone_groups, geometry_groups = [], []
    for group in optimizer.param_groups:
        backbone_groups.append({**group, "params": [p for p in group["params"] if id(p) not in geometric]})
        geometry_groups.append(
            {
                **group,
                "params": [p for p in group["params"] if id(p) in geometric],
                "lr": geometry_learning_rate,
                "geometry": True,
            }
        )
    optimizer.param_groups = [group for group in backbone_groups + geometry_groups if group["params"]]
