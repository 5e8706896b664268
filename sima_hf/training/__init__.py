"""Training: SimA's recipe, data, checkpoints, distillation and metrics, around Transformers' Trainer and Accelerate."""

import importlib


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


def __getattr__(name: str):
    """Imported at first use: a trainer needs accelerate, a metric evaluate, and neither is needed for the rest."""
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_NAMES))}")
    value = globals()[name] = getattr(importlib.import_module(_NAMES[name], __name__), name)
    return value
