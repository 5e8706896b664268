"""Makes Transformers' Auto classes know SimA, each as late as it can be.

`import sima_hf` must cost next to nothing, and Transformers' parts take seconds to import. So config classes are registered when
Transformers' own table of configs is imported, and the native model's classes when the first `SimAConfig` is made: no model is
looked up before its config exists. Nothing of Transformers is replaced, only added to.
"""

import functools

from .import_hooks import after_import


def register_lazily() -> None:
    """Have SimA's configs registered as soon as `AutoConfig` can be used, and the native one when it is first imported."""
    after_import("sima_hf.models.sima.configuration_sima", _register_native_config)
    after_import("transformers.models.auto.configuration_auto", _register_configs)


def _register_configs() -> None:
    from ..models.sima import configuration_sima  # noqa: F401 - registered by its own hook
    from ..patching.stand_ins import register_stand_ins

    register_stand_ins()


def _register_native_config() -> None:
    """Register `SimAConfig` with `AutoConfig`, and the model classes when the first instance of it is made."""
    from transformers.models.auto.configuration_auto import AutoConfig

    from ..models.sima.configuration_sima import SimAConfig

    AutoConfig.register(SimAConfig.model_type, SimAConfig, exist_ok=True)
    initialize = SimAConfig.__init__

    @functools.wraps(initialize)
    def initialize_first(self, *args, **kwargs):
        SimAConfig.__init__ = initialize
        register_native_models()
        initialize(self, *args, **kwargs)

    SimAConfig.__init__ = initialize_first


def register_native_models() -> None:
    """Register the native SimA models, their image processor and the attention functions with Transformers."""
    from transformers import AutoBackbone, AutoModel, AutoModelForImageClassification
    from transformers.utils import is_vision_available

    from ..attention import register_attention_functions
    from ..models.sima.configuration_sima import SimAConfig
    from ..models.sima.modeling_sima import SimABackbone, SimAForImageClassification, SimAModel

    AutoModel.register(SimAConfig, SimAModel, exist_ok=True)
    AutoModelForImageClassification.register(SimAConfig, SimAForImageClassification, exist_ok=True)
    AutoBackbone.register(SimAConfig, SimABackbone, exist_ok=True)
    register_attention_functions()
    if is_vision_available():
        # Not from the top: there, older Transformers hide the class where torchvision is missing.
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        from ..models.sima.image_processing_sima import SimAImageProcessor

        AutoImageProcessor.register(SimAConfig, image_processor_classes={"pil": SimAImageProcessor}, exist_ok=True)
