"""Training: arguments, collator, trainer, metrics and adapters."""

from geovr_hf.trainers.data_collator import GeoVRAnswerCollator, GeoVRDataCollator
from geovr_hf.trainers.evaluation import Answer
from geovr_hf.trainers.geovr_trainer import GeoVRTrainer
from geovr_hf.trainers.geovr_training_args import GeoVRTrainingArguments
from geovr_hf.trainers.peft import geovr_lora_config


__all__ = [
    "Answer",
    "GeoVRAnswerCollator",
    "GeoVRDataCollator",
    "GeoVRTrainer",
    "GeoVRTrainingArguments",
    "geovr_lora_config",
]
