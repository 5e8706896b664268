"""Makes Transformers' Auto classes know SimA, each as late as it can be.

`import sima_hf` must cost next to nothing, and Transformers' parts take seconds to import. So the config class is
registered when Transformers' own table of configs is imported, and the model classes when the first `SimAConfig` is
made: no model is looked up before its config exists. Nothing of Transformers is replaced, only added to.
"""

import functools
import importlib

from .import_hooks import after_import


def register_lazily() -> None:
    """Have `SimAConfig` registered as soon as `AutoConfig` can be used."""
    after_import("transformers.models.auto.configuration_auto", _register_configs)


def _register_configs() -> None:
    importlib.import_module("sima_hf.models.sima")
    importlib.import_module("sima_hf.patching.configs").register_hosts()


def register_config(config_class: type) -> None:
    """Register `SimAConfig` with `AutoConfig`, and the model classes when the first instance of it is made."""
    from transformers.models.auto.configuration_auto import AutoConfig

    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    initialize = config_class.__init__

    @functools.wraps(initialize)
    def initialize_first(self, *args, **kwargs):
        config_class.__init__ = initialize
        register_models()
        initialize(self, *args, **kwargs)

    config_class.__init__ = initialize_first


def register_models() -> None:
    """Register the SimA models, their image processor and their attention functions with Transformers."""
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
