"""The teachers' networks: 3D foundation models as transformers models, without what GeoVR does not need."""

from .configuration_depth_anything3 import DepthAnything3Config, DepthAnything3MetricConfig
from .configuration_vggt import VGGTConfig
from .configuration_vggt_omega import VGGTOmegaConfig
from .modeling_depth_anything3 import DepthAnything3Model
from .modeling_depth_anything3_metric import DepthAnything3MetricModel
from .modeling_vggt import VGGTModel
from .modeling_vggt_omega import VGGTOmegaModel
from .outputs import GeometryOutput, MetricDepthOutput


__all__ = [
    "DepthAnything3Config",
    "DepthAnything3MetricConfig",
    "DepthAnything3MetricModel",
    "DepthAnything3Model",
    "GeometryOutput",
    "MetricDepthOutput",
    "VGGTConfig",
    "VGGTModel",
    "VGGTOmegaConfig",
    "VGGTOmegaModel",
]
