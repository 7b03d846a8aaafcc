"""Configurations of Depth Anything 3: the any-view networks and the metric one."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class DepthAnything3BackboneConfig(PreTrainedConfig):
    r"""What both kinds of Depth Anything 3 have: a DINOv2 backbone and a dense head.

    Args:
        image_size (`int`, *optional*, defaults to 518):
            Side of the square image that the table of positions is for.
        patch_size (`int`, *optional*, defaults to 14):
            Pixels of a patch.
        hidden_size (`int`, *optional*, defaults to 1024):
            Width.
        num_hidden_layers (`int`, *optional*, defaults to 24):
            Blocks.
        num_attention_heads (`int`, *optional*, defaults to 16):
            Heads.
        mlp_ratio (`int`, *optional*, defaults to 4):
            Width of feed-forward layers over `hidden_size`; gated ones have two thirds of it.
        gated_mlp (`bool`, *optional*, defaults to `False`):
            Whether feed-forward layers are gated (SwiGLU).
        dense_layers (`list[int]`, *optional*, defaults to `(4, 11, 17, 23)`):
            The four layers that the dense head reads.
        dense_hidden_sizes (`list[int]`, *optional*, defaults to `(256, 512, 1024, 1024)`):
            Channels of the dense head's four maps.
        dense_fusion_size (`int`, *optional*, defaults to 256):
            Channels in which they are fused.
    """

    image_size: int = 518
    patch_size: int = 14
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    mlp_ratio: int = 4
    gated_mlp: bool = False
    dense_layers: list[int] | tuple[int, ...] = (4, 11, 17, 23)
    dense_hidden_sizes: list[int] | tuple[int, ...] = (256, 512, 1024, 1024)
    dense_fusion_size: int = 256
    initializer_range: float = 0.02


@strict
class DepthAnything3MetricConfig(DepthAnything3BackboneConfig):
    """Configuration of [`DepthAnything3MetricModel`]. The defaults are DA3METRIC-LARGE (arXiv 2511.10647)."""

    model_type = "geovr_teacher_da3_metric"


@strict
class DepthAnything3Config(DepthAnything3BackboneConfig):
    r"""Configuration of [`DepthAnything3Model`]. The defaults are DA3-LARGE (arXiv 2511.10647).

    Arguments that are not listed are those of [`DepthAnything3BackboneConfig`].

    Args:
        alternation_start (`int`, *optional*, defaults to 8):
            Block from which on odd blocks look at all frames. There queries and keys are normalised and rotated, and
            the camera tokens enter.
        rope_base (`float`, *optional*, defaults to 100):
            Base of the rotary frequencies.
        alignment_layers (`list[int]`, *optional*):
            Blocks whose features are given out; by default those before the dense layers.
        ray_head (`bool`, *optional*, defaults to `False`):
            Whether to build the head that predicts rays. GeoVR does without.
        camera_encoder (`bool`, *optional*, defaults to `False`):
            Whether to build the encoder of known cameras. GeoVR does without.
        camera_encoder_num_layers (`int`, *optional*, defaults to 4):
            Its blocks.
        camera_encoder_num_heads (`int`, *optional*, defaults to 16):
            Its heads.
    """

    model_type = "geovr_teacher_da3"

    dense_layers: list[int] | tuple[int, ...] = (11, 15, 19, 23)
    alternation_start: int = 8
    rope_base: float | int = 100.0
    alignment_layers: list[int] | tuple[int, ...] | None = None
    ray_head: bool = False
    camera_encoder: bool = False
    camera_encoder_num_layers: int = 4
    camera_encoder_num_heads: int = 16

    def __post_init__(self, **kwargs):
        if self.alignment_layers is None:
            self.alignment_layers = tuple(layer - 1 for layer in self.dense_layers)
        super().__post_init__(**kwargs)
