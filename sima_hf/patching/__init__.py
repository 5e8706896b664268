"""The swap: SimA in place of softmax attention, inside vision models that people already have."""

from typing import TYPE_CHECKING

from ..importing.lazy_imports import lazy_names


_NAMES = {
    "certify": ".certificate",
    "describe": ".description",
    "patch_model": ".patch",
    "patched": ".patch",
    "sima_attentions": ".attention_modules",
    "supported_models": ".hosts",
    "unpatch_model": ".patch",
}

__all__ = ["certify", "describe", "patch_model", "patched", "sima_attentions", "supported_models", "unpatch_model"]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)

if TYPE_CHECKING:
    from .attention_modules import sima_attentions
    from .certificate import certify
    from .description import describe
    from .hosts import supported_models
    from .patch import patch_model, patched, unpatch_model
