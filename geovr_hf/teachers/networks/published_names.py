"""How parts that several published files have in common are called there."""

import re

from geovr_hf.conversion_names import decoder_names

from .base import PublishedNames


def dense_head_names(ours: str, published: str) -> PublishedNames:
    """Names of a [`DenseHead`], by our prefix.

    Args:
        ours (`str`): Our name of the head.
        published (`str`): Its name in the file.
    """
    return {
        **decoder_names(ours, published),
        f"{ours}.neck": f"{published}.scratch.output_conv1",
        f"{ours}.pixels.conv": f"{published}.scratch.output_conv2.0",
        f"{ours}.pixels.projection": f"{published}.scratch.output_conv2.2",
    }


def dinov2_names(ours: str, published: str, num_layers: int) -> PublishedNames:
    """Names of transformers' DINOv2 with registers, whose queries, keys and values the files hold as one matrix.

    Args:
        ours (`str`): Our name of the network.
        published (`str`): Its name in the file.
        num_layers (`int`): Its layers.
    """
    names: PublishedNames = {
        f"{ours}.embeddings.cls_token": f"{published}.cls_token",
        f"{ours}.embeddings.mask_token": f"{published}.mask_token",
        f"{ours}.embeddings.register_tokens": f"{published}.register_tokens",
        f"{ours}.embeddings.position_embeddings": f"{published}.pos_embed",
        f"{ours}.embeddings.patch_embeddings.projection": f"{published}.patch_embed.proj",
        f"{ours}.layernorm": f"{published}.norm",
    }
    for layer in range(num_layers):
        mine, theirs = f"{ours}.encoder.layer.{layer}", f"{published}.blocks.{layer}"
        names |= {f"{mine}.attention.{name}_proj": (f"{theirs}.attn.qkv", part) for part, name in enumerate("qkv")}
        names |= {
            f"{mine}.attention.o_proj": f"{theirs}.attn.proj",
            f"{mine}.layer_scale1.lambda1": f"{theirs}.ls1.gamma",
            f"{mine}.layer_scale2.lambda1": f"{theirs}.ls2.gamma",
        }
        names |= {f"{mine}.{name}": f"{theirs}.{name}" for name in ("norm1", "norm2", "mlp")}
    return names


def da3_backbone_names(ours: str) -> PublishedNames:
    """Names of Depth Anything 3's backbone, by our prefix.

    Args:
        ours (`str`): Our name of the backbone.
    """
    published = "model.backbone.pretrained"
    return {
        f"{ours}.embedding.cls_token": f"{published}.cls_token",
        f"{ours}.embedding.pos_embed": f"{published}.pos_embed",
        f"{ours}.embedding.proj": f"{published}.patch_embed.proj",
        f"{ours}.blocks": f"{published}.blocks",
        f"{ours}.norm": f"{published}.norm",
    }


def da3_ray_names(ours: str, published: str) -> PublishedNames:
    """Names of Depth Anything 3's ray head, by our prefix.

    Its four levels share one norm, which the file holds under the first; only the finest level is ours.

    Args:
        ours (`str`): Our name of the ray head.
        published (`str`): Name of the dense head in the file.
    """
    fusions = {name: theirs for name, theirs in decoder_names(ours, published).items() if ".fusions." in name}
    return {
        **{name: re.sub(r"(refinenet\d)", r"\1_aux", theirs) for name, theirs in fusions.items()},
        f"{ours}.neck": f"{published}.scratch.output_conv1_aux.3",
        f"{ours}.conv": f"{published}.scratch.output_conv2_aux.3.0",
        f"{ours}.norm": f"{published}.scratch.output_conv2_aux.0.2",
        f"{ours}.projection": f"{published}.scratch.output_conv2_aux.3.5",
    }
