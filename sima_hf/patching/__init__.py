"""The swap: SimA in place of softmax attention, inside vision models that people already have."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names


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

__getattr__, __dir__ = lazy_names(__name__, _NAMES)

if TYPE_CHECKING:
    from .calibration import calibrate
    from .certificate import certify
    from .description import describe
    from .hosts import supported_models
    from .swap import patch_model, patched, unpatch_model
