"""Training: arguments, collator, trainer, metrics and adapters, and reinforcement by TRL when it is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING

from geovr_hf.trainers.adapter_files import load_peft_model
from geovr_hf.trainers.data_collator import GeoVRAnswerCollator, GeoVRDataCollator
from geovr_hf.trainers.evaluation import Answer
from geovr_hf.trainers.geovr_trainer import GeoVRTrainer
from geovr_hf.trainers.geovr_training_args import GeoVRTrainingArguments
from geovr_hf.trainers.peft import geovr_lora_config
from geovr_hf.trainers.quantization import geovr_4bit_config, geovr_int8_config


if TYPE_CHECKING:
    from geovr_hf.trainers.grpo_config import GeoVRGRPOConfig
    from geovr_hf.trainers.grpo_trainer import GeoVRGRPOTrainer

__all__ = [
    "Answer",
    "GeoVRAnswerCollator",
    "GeoVRDataCollator",
    "GeoVRGRPOConfig",
    "GeoVRGRPOTrainer",
    "GeoVRTrainer",
    "GeoVRTrainingArguments",
    "geovr_4bit_config",
    "geovr_int8_config",
    "geovr_lora_config",
    "load_peft_model",
]

# TRL takes seconds to import.
_LOADED_ON_DEMAND = {
    "GeoVRGRPOConfig": "geovr_hf.trainers.grpo_config",
    "GeoVRGRPOTrainer": "geovr_hf.trainers.grpo_trainer",
}


def __getattr__(name: str):
    if name not in _LOADED_ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LOADED_ON_DEMAND[name]), name)
