"""SimA<Host>Config classes: subclasses of the host's config, with a model_type of their own.

The type is what keeps a swapped model SimA through save, push and load, and what makes a machine without sima_hf stop
instead of running softmax. This file imports no model, because `AutoConfig` needs it as soon as it is imported itself.
"""

import functools
import importlib

import transformers
from transformers.configuration_utils import PreTrainedConfig

from ..attention import attention_function_names
from ..ops import check_gain
from .hosts import HOSTS, Host


PREFIX = "SimA"


class SimAHostConfig:
    """What a swapped model's config adds to the host's: a gain, and an attention that is never softmax."""

    attention_gain: str = "tokens"

    def __post_init__(self, **kwargs):
        check_gain(self.attention_gain)
        super().__post_init__(**kwargs)

    @property
    def _attn_implementation(self) -> str:
        return self._attn_implementation_internal

    @_attn_implementation.setter
    def _attn_implementation(self, value: str | dict | None):
        value = value.get("") if isinstance(value, dict) else value
        self._attn_implementation_internal = sima_implementation(value, type(self).__name__)

    def validate_output_attentions(self):
        """SimA's maps can always be asked for, unlike those of fused softmax."""


def sima_implementation(name: str | None, owner: str) -> str:
    """`name` if it is one of SimA's attention functions, "sima" for None.

    Raises:
        ValueError: it is another, which would bring softmax back.
    """
    if name is None:
        return "sima"
    if name not in attention_function_names():
        raise ValueError(
            f"{owner} computes SimA attention; `attn_implementation={name!r}` would turn it back to softmax. Choose among "
            f"{', '.join(attention_function_names())}, or call sima_hf.unpatch_model first."
        )
    return name


@functools.cache
def config_class(host: Host) -> type[PreTrainedConfig]:
    """The SimA<Host>Config of a host."""
    base = getattr(transformers, host.config)
    return type(
        f"{PREFIX}{base.__name__}",
        (SimAHostConfig, base),
        {
            "__module__": __name__,
            "__doc__": f"{base.__name__} of a model whose attention is SimA; `attention_gain` is 'none' or 'tokens'.",
            "__annotations__": {"attention_gain": str},
            "attention_gain": "tokens",
            "model_type": f"sima_{host.model_type}",
        },
    )


def config_class_in_use(host: Host) -> type[PreTrainedConfig]:
    """The same, entered in Transformers' tables in place of its stand-in, with the models that belong to it."""
    from transformers.models.auto.configuration_auto import AutoConfig

    made = config_class(host)
    AutoConfig.register(made.model_type, made, exist_ok=True)
    importlib.import_module(".classes", __package__).register_models_of(host)
    return made


def register_hosts() -> None:
    """Make AutoConfig know every SimA<Host> type by a stand-in, which costs nothing until a config of the type is met."""
    from transformers.models.auto.configuration_auto import AutoConfig

    for host in HOSTS.values():
        cls = _stand_in(host)
        AutoConfig.register(cls.model_type, cls, exist_ok=True)


def _stand_in(host: Host) -> type[PreTrainedConfig]:
    """A class that makes configs of the real one. The real one needs the host's file, which AutoConfig must not load."""

    class StandIn(PreTrainedConfig):
        model_type = f"sima_{host.model_type}"

        def __new__(cls, *args, **kwargs):
            return config_class_in_use(host)(*args, **kwargs)

        @classmethod
        def from_dict(cls, config_dict, **kwargs):
            return config_class_in_use(host).from_dict(config_dict, **kwargs)

    return StandIn


def __getattr__(name: str):
    """A SimA<Host>Config by its name: what pickle looks up."""
    host = next((host for host in HOSTS.values() if name == PREFIX + host.config), None)
    if host is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return config_class_in_use(host)
