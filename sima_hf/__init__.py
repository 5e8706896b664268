"""sima_hf: softmax-free vision transformers (SimA, arXiv 2206.08898) for Hugging Face Transformers."""

from typing import TYPE_CHECKING

from .importing.lazy_imports import lazy_names
from .importing.registration import register_lazily
from .importing.requirements import check_versions
from .version import __version__


# Public name -> module that defines it, imported at first use.
_NAMES = {
    "SIMA_VARIANTS": ".models.sima.configuration_sima",
    "SimABackbone": ".models.sima.modeling_sima",
    "SimAConfig": ".models.sima.configuration_sima",
    "SimAForImageClassification": ".models.sima.modeling_sima",
    "SimAImageProcessor": ".models.sima.image_processing_sima",
    "SimAModel": ".models.sima.modeling_sima",
    "calibrate": ".calibration.calibrate",
    "distill": ".training.distillation.distill",
    "export": ".exporting.export",
    "certify": ".patching",
    "convert_original_checkpoint": ".models.sima.convert_sima",
    "convert_original_state_dict": ".models.sima.convert_sima",
    "patch_model": ".patching",
    "prepare_for_hub": ".hub",
    "patched": ".patching",
    "sima_attention": ".ops",
    "split_tokens": ".parallel",
    "supported_models": ".patching",
    "unpatch_model": ".patching",
}

__all__ = [
    "SIMA_VARIANTS",
    "SimABackbone",
    "SimAConfig",
    "SimAForImageClassification",
    "SimAImageProcessor",
    "SimAModel",
    "__version__",
    "calibrate",
    "certify",
    "convert_original_checkpoint",
    "convert_original_state_dict",
    "distill",
    "export",
    "patch_model",
    "patched",
    "prepare_for_hub",
    "sima_attention",
    "split_tokens",
    "supported_models",
    "unpatch_model",
]

check_versions()
register_lazily()

__getattr__, __dir__ = lazy_names(__name__, _NAMES)

if TYPE_CHECKING:
    from .calibration.calibrate import calibrate
    from .exporting.export import export
    from .hub import prepare_for_hub
    from .models.sima.configuration_sima import SIMA_VARIANTS, SimAConfig
    from .models.sima.convert_sima import convert_original_checkpoint, convert_original_state_dict
    from .models.sima.image_processing_sima import SimAImageProcessor
    from .models.sima.modeling_sima import SimABackbone, SimAForImageClassification, SimAModel
    from .ops import sima_attention
    from .parallel import split_tokens
    from .patching import certify, patch_model, patched, supported_models, unpatch_model
    from .training.distillation.distill import distill
