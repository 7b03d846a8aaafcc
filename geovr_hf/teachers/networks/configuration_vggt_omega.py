"""Configuration of VGGT-Omega."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class VGGTOmegaConfig(PreTrainedConfig):
    r"""Configuration of [`VGGTOmegaModel`]. The defaults are VGGT-Omega-1B-512.

    Args:
        patch_size (`int`, *optional*, defaults to 16):
            Pixels of a patch. A multiple of 4.
        hidden_size (`int`, *optional*, defaults to 1024):
            Width.
        mlp_ratio (`int`, *optional*, defaults to 4):
            Width of feed-forward layers over `hidden_size`.
        vision_num_layers (`int`, *optional*, defaults to 24):
            Blocks of the network that embeds patches.
        vision_num_heads (`int`, *optional*, defaults to 16):
            Its heads.
        num_storage_tokens (`int`, *optional*, defaults to 4):
            Its storage tokens, beside the class token.
        num_hidden_layers (`int`, *optional*, defaults to 24):
            Pairs of a block within frames and a block between frames.
        num_attention_heads (`int`, *optional*, defaults to 16):
            Heads of these blocks.
        num_register_tokens (`int`, *optional*, defaults to 16):
            Register tokens of a frame, beside its camera token.
        register_attention_layers (`list[int]`, *optional*, defaults to `(2, 6, 9, 14, 20)`):
            Layers where only camera and register tokens look at other frames.
        camera_num_layers (`int`, *optional*, defaults to 4):
            Blocks of the camera head.
        camera_num_heads (`int`, *optional*, defaults to 16):
            Its heads.
        dense_layers (`list[int]`, *optional*, defaults to `(4, 11, 17, 23)`):
            The four layers that the dense head reads.
        dense_hidden_sizes (`list[int]`, *optional*, defaults to `(256, 512, 1024, 1024)`):
            Channels of the dense head's four maps.
        dense_fusion_size (`int`, *optional*, defaults to 256):
            Channels in which they are fused.
        alignment_layers (`list[int]`, *optional*, defaults to `(4, 11, 17, 23)`):
            Layers whose features are given out.
    """

    model_type = "geovr_teacher_vggt_omega"

    patch_size: int = 16
    hidden_size: int = 1024
    mlp_ratio: int = 4
    vision_num_layers: int = 24
    vision_num_heads: int = 16
    num_storage_tokens: int = 4
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_register_tokens: int = 16
    register_attention_layers: list[int] | tuple[int, ...] = (2, 6, 9, 14, 20)
    camera_num_layers: int = 4
    camera_num_heads: int = 16
    dense_layers: list[int] | tuple[int, ...] = (4, 11, 17, 23)
    dense_hidden_sizes: list[int] | tuple[int, ...] = (256, 512, 1024, 1024)
    dense_fusion_size: int = 256
    alignment_layers: list[int] | tuple[int, ...] = (4, 11, 17, 23)
    initializer_range: float = 0.02
