"""Configuration of VGGT."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import Dinov2WithRegistersConfig, PreTrainedConfig


@strict
class VGGTConfig(PreTrainedConfig):
    r"""Configuration of [`VGGTModel`]. The defaults are VGGT-1B (arXiv 2503.11651).

    Args:
        vision_config ([`~transformers.Dinov2WithRegistersConfig`], *optional*):
            The network that embeds patches. Its defaults here: ViT-L/14 for 518 pixels, with 4 registers.
        hidden_size (`int`, *optional*, defaults to 1024):
            Width.
        num_hidden_layers (`int`, *optional*, defaults to 24):
            Pairs of a block within frames and a block over all frames.
        num_attention_heads (`int`, *optional*, defaults to 16):
            Heads of these blocks.
        mlp_ratio (`int`, *optional*, defaults to 4):
            Width of feed-forward layers over `hidden_size`.
        num_register_tokens (`int`, *optional*, defaults to 4):
            Register tokens of a frame, beside its camera token.
        rope_base (`float`, *optional*, defaults to 100):
            Base of the rotary frequencies.
        camera_num_layers (`int`, *optional*, defaults to 4):
            Blocks of the camera head.
        camera_num_heads (`int`, *optional*, defaults to 16):
            Its heads.
        camera_iterations (`int`, *optional*, defaults to 4):
            Refinements of the pose.
        dense_layers (`list[int]`, *optional*, defaults to `(4, 11, 17, 23)`):
            The four layers that the dense heads read.
        dense_hidden_sizes (`list[int]`, *optional*, defaults to `(256, 512, 1024, 1024)`):
            Channels of the dense heads' four maps.
        dense_fusion_size (`int`, *optional*, defaults to 256):
            Channels in which they are fused.
        alignment_layers (`list[int]`, *optional*, defaults to `(4, 11, 17, 23)`):
            Layers whose features are given out.
        point_head (`bool`, *optional*, defaults to `False`):
            Whether to build the point head. GeoVR does without.
    """

    model_type = "geovr_teacher_vggt"
    sub_configs: ClassVar[dict] = {"vision_config": Dinov2WithRegistersConfig}

    vision_config: dict | Dinov2WithRegistersConfig | None = None
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    mlp_ratio: int = 4
    num_register_tokens: int = 4
    rope_base: float | int = 100.0
    camera_num_layers: int = 4
    camera_num_heads: int = 16
    camera_iterations: int = 4
    dense_layers: list[int] | tuple[int, ...] = (4, 11, 17, 23)
    dense_hidden_sizes: list[int] | tuple[int, ...] = (256, 512, 1024, 1024)
    dense_fusion_size: int = 256
    alignment_layers: list[int] | tuple[int, ...] = (4, 11, 17, 23)
    point_head: bool = False
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        if not isinstance(self.vision_config, PreTrainedConfig):
            large = {
                "hidden_size": self.hidden_size,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "image_size": 518,
                "patch_size": 14,
                "num_register_tokens": 4,
                "layer_norm_eps": 1e-6,
            }
            self.vision_config = Dinov2WithRegistersConfig(**(large | (self.vision_config or {})))
        super().__post_init__(**kwargs)

    @property
    def patch_size(self) -> int:
        """Pixels of a patch."""
        return self.vision_config.patch_size
