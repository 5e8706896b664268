"""Training: SimA's recipe, data, checkpoints, distillation and metrics, around Transformers' Trainer and Accelerate."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names


# Public name -> file that defines it, imported at first use.
_NAMES = {
    "AttentionMatching": ".attention_matching",
    "BatchAugmentation": ".augmentation",
    "DataArguments": ".arguments",
    "DistillationArguments": ".distillation",
    "LoopArguments": ".arguments",
    "ModelArguments": ".arguments",
    "SimADistillationTrainer": ".distillation",
    "SimATrainer": ".trainer",
    "SimATrainingArguments": ".arguments",
    "Teacher": ".teacher",
    "TopKAccuracy": ".metrics",
    "WeightAverage": ".ema",
    "parameter_groups": ".optimization",
    "synchronize_batch_norm": ".batch_norm",
}

__all__ = [
    "AttentionMatching",
    "BatchAugmentation",
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
    from .arguments import DataArguments, LoopArguments, ModelArguments, SimATrainingArguments
    from .attention_matching import AttentionMatching
    from .augmentation import BatchAugmentation
    from .batch_norm import synchronize_batch_norm
    from .distillation import DistillationArguments, SimADistillationTrainer
    from .ema import WeightAverage
    from .metrics import TopKAccuracy
    from .optimization import parameter_groups
    from .teacher import Teacher
    from .trainer import SimATrainer
