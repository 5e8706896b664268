"""SimA<Host> model classes: subclasses of the host's own, made when first asked for.

Every class is an attribute of this module by its name, so that models can be pickled and tested for with `isinstance`.
"""

import functools

import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from .configs import PREFIX, config_class, config_class_in_use, sima_implementation
from .hosts import HOSTS, Host


class SimAHostModel:
    """What a swapped model adds to the host's: its parts are SimA as well, and it cannot be turned back by name."""

    def __init__(self, config: PreTrainedConfig, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        adopt_parts(self)

    def save_pretrained(self, save_directory, *args, save_original_format: bool = False, **kwargs) -> None:
        """Save as any Transformers model, under the names that `state_dict()` has.

        By default Transformers writes most ViTs under the names of their first releases. It reads both, but its Trainer
        does not translate them when it resumes, and goes on without the weights (seen with 5.23).
        """
        super().save_pretrained(save_directory, *args, save_original_format=save_original_format, **kwargs)

    def get_correct_attn_implementation(self, requested_attention: str | None, *args, **kwargs) -> str:
        """Transformers' choice of attention, restricted to SimA's."""
        return sima_implementation(requested_attention, type(self).__name__)

    def set_attn_implementation(self, attn_implementation: str | dict, *args, **kwargs) -> None:
        """Choose among SimA's backends; ValueError for any other."""
        wanted = attn_implementation.get("") if isinstance(attn_implementation, dict) else attn_implementation
        super().set_attn_implementation(sima_implementation(wanted, type(self).__name__), *args, **kwargs)


@functools.cache
def model_class(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The SimA<Host> class of one of a host's model classes; its checkpoint keys are converted as the host's are."""
    host = HOSTS[base.config_class.model_type]
    made = type(
        f"{PREFIX}{base.__name__}",
        (SimAHostModel, base),
        {
            "__module__": __name__,
            "__doc__": f"{base.__name__} with SimA attention; the host's own parameters and methods.",
            "config_class": config_class(host),
        },
    )
    # Without this a base model loaded from a classifier's folder would be random where the host renames keys.
    for ours, theirs in ((made.__name__, base.__name__), (made.config_class.model_type, host.model_type)):
        mapping = get_checkpoint_conversion_mapping(theirs)
        if mapping is not None:
            register_checkpoint_conversion_mapping(ours, mapping, overwrite=True)
    return made


def is_host_class(cls: type) -> bool:
    """Whether `cls` is one of Transformers' own model classes of a host: no SimA<Host> one, no subclass from elsewhere."""
    config = getattr(cls, "config_class", None)
    return cls.__module__.startswith("transformers.") and getattr(config, "model_type", None) in HOSTS


def adopt_parts(model: PreTrainedModel) -> None:
    """Turn the host's models inside `model`, such as the encoder of a classifier, into SimA<Host> ones too."""
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and is_host_class(type(part)):
            take_class(part, model_class(type(part)))


def take_class(model: PreTrainedModel, cls: type[PreTrainedModel]) -> None:
    """Give a live model another class, and tell Transformers' recorder of hidden states and attentions about it."""
    from transformers.utils import output_capturing

    recordable = model._can_record_outputs
    model.__class__ = cls
    registry = output_capturing._CAN_RECORD_REGISTRY
    key = model if type(registry) is not dict else str(cls)  # older Transformers keep a plain dict by name
    registry[key] = recordable


def __getattr__(name: str):
    """Any SimA<Host> model class by its name."""
    base = getattr(transformers, name.removeprefix(PREFIX), None) if name.startswith(PREFIX) else None
    if isinstance(base, type) and issubclass(base, PreTrainedModel) and is_host_class(base):
        config_class_in_use(HOSTS[base.config_class.model_type])
        return model_class(base)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def register_models_of(host: Host) -> None:
    """Enter the SimA<Host> classes wherever Transformers' Auto classes have the host's."""
    from transformers.models.auto import modeling_auto

    from ..registration import register_models

    register_models()
    base = getattr(transformers, host.config)
    for name, auto in vars(modeling_auto).items():
        mapping = getattr(auto, "_model_mapping", None)
        if not name.startswith("Auto") or mapping is None or base not in mapping:
            continue
        classes = mapping[base]
        made = tuple(model_class(one) for one in (classes if isinstance(classes, tuple) else (classes,)))
        mapping.register(config_class(host), made if isinstance(classes, tuple) else made[0], exist_ok=True)
