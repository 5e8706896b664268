"""The swap: SimA in place of softmax attention, inside vision models that people already have."""

import importlib


_NAMES = {
    "calibrate": ".calibration",
    "certify": ".certificate",
    "describe": ".description",
    "patch_model": ".swap",
    "patched": ".swap",
    "supported_models": ".hosts",
    "unpatch_model": ".swap",
}

__all__ = ["calibrate", "certify", "describe", "patch_model", "patched", "supported_models", "unpatch_model"]


def __getattr__(name: str):
    """Imported at first use: the swap needs Transformers' models, the configs beside it must not."""
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_NAMES[name], __name__), name)
    return value
