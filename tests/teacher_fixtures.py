"""The tiny networks of the parity fixtures, as tests load them."""

from functools import cache

import torch
from parity import load_facts, parity_dir
from transformers import PreTrainedConfig

from geovr_hf.teachers.networks import (
    DepthAnything3Config,
    DepthAnything3MetricConfig,
    DepthAnything3MetricModel,
    DepthAnything3Model,
    VGGTConfig,
    VGGTModel,
    VGGTOmegaConfig,
    VGGTOmegaModel,
)
from geovr_hf.teachers.networks.base import TeacherNetwork
from geovr_hf.teachers.networks.loading import load_published


def vggt_config(sizes: dict) -> VGGTConfig:
    aggregator, vit, camera, dense = (
        sizes[part] for part in ("aggregator", "patch_embed_vit", "camera_head", "dpt_head")
    )
    return VGGTConfig(
        vision_config={
            "hidden_size": sizes["embed_dim"],
            "image_size": sizes["img_size"],
            "patch_size": sizes["patch_size"],
            "num_hidden_layers": vit["depth"],
            "num_attention_heads": vit["num_heads"],
            "num_register_tokens": vit["num_register_tokens"],
            "mlp_ratio": int(vit["mlp_ratio"]),
        },
        hidden_size=sizes["embed_dim"],
        num_hidden_layers=aggregator["depth"],
        num_attention_heads=aggregator["num_heads"],
        mlp_ratio=int(aggregator["mlp_ratio"]),
        num_register_tokens=aggregator["num_register_tokens"],
        rope_base=aggregator["rope_freq"],
        camera_num_layers=camera["trunk_depth"],
        camera_num_heads=camera["num_heads"],
        camera_iterations=camera["num_iterations"],
        dense_layers=dense["intermediate_layer_idx"],
        dense_hidden_sizes=dense["out_channels"],
        dense_fusion_size=dense["features"],
        alignment_layers=sizes["distill_layers"],
        point_head=True,
    )


def omega_config(sizes: dict) -> VGGTOmegaConfig:
    aggregator, vit, camera, dense = (
        sizes[part] for part in ("aggregator", "patch_embed_vit", "camera_head", "dense_head")
    )
    return VGGTOmegaConfig(
        patch_size=sizes["patch_size"],
        hidden_size=sizes["embed_dim"],
        mlp_ratio=int(aggregator["mlp_ratio"]),
        vision_num_layers=vit["depth"],
        vision_num_heads=vit["num_heads"],
        num_storage_tokens=vit["n_storage_tokens"],
        num_hidden_layers=aggregator["depth"],
        num_attention_heads=aggregator["num_heads"],
        num_register_tokens=aggregator["num_register_tokens"],
        register_attention_layers=aggregator["register_attention_block_indices"],
        camera_num_layers=camera["trunk_depth"],
        camera_num_heads=camera["num_heads"],
        dense_layers=dense["intermediate_layer_idx"],
        dense_hidden_sizes=dense["out_channels"],
        dense_fusion_size=dense["features"],
        alignment_layers=sizes["distill_layers"],
    )


def da3_sizes(sizes: dict) -> dict:
    backbone, head = sizes["backbone"], sizes["head"]
    return {
        "image_size": sizes["img_size"],
        "patch_size": sizes["patch_size"],
        "hidden_size": backbone["embed_dim"],
        "num_hidden_layers": backbone["depth"],
        "num_attention_heads": backbone["num_heads"],
        "mlp_ratio": int(backbone["mlp_ratio"]),
        "gated_mlp": backbone["ffn_layer"].startswith("swiglu"),
        "dense_layers": backbone["out_layers"],
        "dense_hidden_sizes": head["out_channels"],
        "dense_fusion_size": head["features"],
    }


def da3_config(sizes: dict) -> DepthAnything3Config:
    return DepthAnything3Config(
        **da3_sizes(sizes),
        alternation_start=sizes["backbone"]["alt_start"],
        alignment_layers=sizes["export_feat_layers"],
        ray_head=True,
        camera_encoder=True,
        camera_encoder_num_layers=sizes["cam_enc"]["trunk_depth"],
        camera_encoder_num_heads=sizes["cam_enc"]["num_heads"],
    )


NETWORKS = {
    "vggt": (VGGTModel, vggt_config),
    "vggt_omega": (VGGTOmegaModel, omega_config),
    "da3": (DepthAnything3Model, da3_config),
    "da3_metric": (DepthAnything3MetricModel, lambda sizes: DepthAnything3MetricConfig(**da3_sizes(sizes))),
}


def tiny_config(name: str, **fields) -> PreTrainedConfig:
    """Configuration of the network `name` ("vggt", "vggt_omega", "da3", "da3_metric") of the fixtures."""
    _, make_config = NETWORKS[name]
    config = make_config(load_facts(f"{name}_tiny_config")["hyper_parameters"])
    for field, value in fields.items():
        setattr(config, field, value)
    return config


def tiny_weights(name: str):
    return parity_dir() / f"{name}_tiny_weights.safetensors"


def tiny_network(name: str, dtype: torch.dtype = torch.float32, device: str = "cpu", **fields) -> TeacherNetwork:
    network_class, _ = NETWORKS[name]
    return load_published(network_class, tiny_config(name, **fields), tiny_weights(name), dtype=dtype, device=device)


@cache
def shared_network(name: str) -> TeacherNetwork:
    """A float32 network on the CPU, for tests that do not change it."""
    return tiny_network(name)
