"""Training: SimA's recipe, data, checkpoints, distillation and metrics, around Transformers' Trainer and Accelerate."""

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

__all__ = sorted(_NAMES)

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
