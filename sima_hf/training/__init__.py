"""Training: SimA's recipe, data, checkpoints, distillation, self-supervision and metrics, around Transformers' Trainer and Accelerate."""

from typing import TYPE_CHECKING

from ..importing.lazy_imports import lazy_names


# Public name -> file that defines it, imported at first use.
_NAMES = {
    "AttentionMatching": ".distillation.attention_matching",
    "BatchAugmentation": ".recipe.augmentation",
    "DINOTrainer": ".self_supervision.trainer",
    "DINOTrainingArguments": ".self_supervision.arguments",
    "DataArguments": ".arguments",
    "DistillationArguments": ".distillation.trainer",
    "LoopArguments": ".arguments",
    "ModelArguments": ".arguments",
    "SimADistillationTrainer": ".distillation.trainer",
    "SimATrainer": ".trainer",
    "SimATrainingArguments": ".arguments",
    "Teacher": ".distillation.teacher",
    "TopKAccuracy": "..evaluation.top_k_accuracy",
    "WeightAverage": ".recipe.ema",
    "parameter_groups": ".recipe.optimization",
    "synchronize_batch_norm": ".recipe.batch_norm",
}

__all__ = [
    "AttentionMatching",
    "BatchAugmentation",
    "DINOTrainer",
    "DINOTrainingArguments",
    "DataArguments",
    "DistillationArguments",
    "LoopArguments",
    "ModelArguments",
    "SimADistillationTrainer",
    "SimATrainer",
    "SimATrainingArguments",
    "Teacher",
    "TopKAccuracy",
    "WeightAverage",
    "parameter_groups",
    "synchronize_batch_norm",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)

if TYPE_CHECKING:
    from ..evaluation.top_k_accuracy import TopKAccuracy
    from .arguments import DataArguments, LoopArguments, ModelArguments, SimATrainingArguments
    from .distillation.attention_matching import AttentionMatching
    from .distillation.teacher import Teacher
    from .distillation.trainer import DistillationArguments, SimADistillationTrainer
    from .recipe.augmentation import BatchAugmentation
    from .recipe.batch_norm import synchronize_batch_norm
    from .recipe.ema import WeightAverage
    from .recipe.optimization import parameter_groups
    from .self_supervision.arguments import DINOTrainingArguments
    from .self_supervision.trainer import DINOTrainer
    from .trainer import SimATrainer
