"""Training: arguments, collator, trainer, metrics and adapters."""

from geovr_hf.trainers.data_collator import GeoVRAnswerCollator, GeoVRDataCollator
from geovr_hf.trainers.evaluation import Answer
from geovr_hf.trainers.geovr_trainer import GeoVRTrainer
from geovr_hf.trainers.geovr_training_args import GeoVRTrainingArguments
from geovr_hf.trainers.peft import geovr_lora_config, load_peft_model
from geovr_hf.trainers.quantization import geovr_4bit_config, geovr_int8_config


__all__ = [
    "Answer",
    "GeoVRAnswerCollator",
    "GeoVRDataCollator",
    "GeoVRTrainer",
    "GeoVRTrainingArguments",
    "geovr_4bit_config",
    "geovr_int8_config",
    "geovr_lora_config",
    "load_peft_model",
]
