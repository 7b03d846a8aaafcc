"""All that travels to the Hub with a checkpoint. Importing it registers the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

from .backbone_geovr import GeoVRModel
from .configuration_geovr import GeoVRConfig
from .modeling_geovr import GeoVRForConditionalGeneration, GeoVROutput
from .prediction_geovr import GeoVRGeometry
from .processing_geovr import GeoVRProcessor
from .targets_geovr import GeometryTargets


AutoConfig.register(GeoVRConfig.model_type, GeoVRConfig)
AutoModel.register(GeoVRConfig, GeoVRForConditionalGeneration)
AutoModelForImageTextToText.register(GeoVRConfig, GeoVRForConditionalGeneration)
AutoModelForMultimodalLM.register(GeoVRConfig, GeoVRForConditionalGeneration)
AutoProcessor.register(GeoVRConfig, GeoVRProcessor)

# From here on `save_pretrained` puts these files beside the weights, for `trust_remote_code=True` without geovr_hf.
GeoVRConfig.register_for_auto_class()
GeoVRForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
GeoVRProcessor.register_for_auto_class()

__all__ = [
    "GeoVRConfig",
    "GeoVRForConditionalGeneration",
    "GeoVRGeometry",
    "GeoVRModel",
    "GeoVROutput",
    "GeoVRProcessor",
    "GeometryTargets",
]
