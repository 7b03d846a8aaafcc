"""GeoVR for Hugging Face: a video MLLM that learns 3D sense from geometric objectives.

`import geovr_hf` registers the classes with transformers, so that `AutoConfig`, `AutoModel`,
`AutoModelForImageTextToText`, `AutoModelForMultimodalLM` and `AutoProcessor` know `model_type = "geovr"`. The trainer
and the teachers are loaded when they are first asked for.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING


if not Path(__file__).with_name("modeling").is_dir():  # a source checkout: the rooms lie beside this folder, not in it
    __path__.append(str(Path(__file__).parents[1]))

from geovr_hf.modeling import GeometryTargets, GeoVRConfig, GeoVRForConditionalGeneration, GeoVRProcessor


if TYPE_CHECKING:
    from geovr_hf.teachers import load_teacher
    from geovr_hf.trainers import GeoVRDataCollator, GeoVRTrainer, GeoVRTrainingArguments

__version__ = "0.1.0"

__all__ = [
    "GeoVRConfig",
    "GeoVRDataCollator",
    "GeoVRForConditionalGeneration",
    "GeoVRProcessor",
    "GeoVRTrainer",
    "GeoVRTrainingArguments",
    "GeometryTargets",
    "load_teacher",
]

_LOADED_ON_DEMAND = {
    "GeoVRDataCollator": "geovr_hf.trainers",
    "GeoVRTrainer": "geovr_hf.trainers",
    "GeoVRTrainingArguments": "geovr_hf.trainers",
    "load_teacher": "geovr_hf.teachers",
}


def __getattr__(name: str):
    if name not in _LOADED_ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LOADED_ON_DEMAND[name]), name)


def __dir__():
    return sorted({*globals(), *__all__})
