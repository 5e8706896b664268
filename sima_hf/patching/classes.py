"""The SimA<Host> classes by name, and their entries in Transformers' tables.

Every class is an attribute of this module by its name, so that models can be pickled and tested for with `isinstance`.
"""

import functools
import importlib
import itertools

from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import AutoConfig

from ..attention import register_attention_functions
from . import models
from .attentions.mechanisms import function_names
from .configs import config_class, part_class
from .hosts import HOSTS, PREFIX, Host, auto_classes, host_config_class, host_of_config, modeling_module
from .models import SimAHostModel, build_placeholder, model_class


__all__ = ["SimAHostModel"]

# Transformers' tables by config class of what comes beside a model, by their files in `transformers.models.auto`.
_PROCESSOR_TABLES = {
    "tokenization_auto": "TOKENIZER_MAPPING",
    "processing_auto": "PROCESSOR_MAPPING",
    "image_processing_auto": "IMAGE_PROCESSOR_MAPPING",
    "video_processing_auto": "VIDEO_PROCESSOR_MAPPING",
    "feature_extraction_auto": "FEATURE_EXTRACTOR_MAPPING",
}


@functools.cache
def register_host(host: Host) -> type[PreTrainedConfig]:
    """Enter the SimA<Host> classes in Transformers' tables, towers first, and return the config class."""
    made = config_class(host)
    for tower in getattr(made, "_sima_towers", {}).values():
        register_host(host_of_config(tower))
    AutoConfig.register(made.model_type, made, exist_ok=True)
    register_attention_functions()
    register_auto_classes(host)
    register_processors(host)
    return made


def register_auto_classes(host: Host) -> None:
    """Enter the SimA<Host> classes wherever Transformers' Auto classes have the host's, and in the host's own table."""
    for auto, classes in auto_classes(host_config_class(host)):
        made = tuple(model_class(one, host) for one in classes)
        auto._model_mapping.register(config_class(host), made if len(made) > 1 else made[0], exist_ok=True)
    if host.class_table:
        register_attention_table(host)


def register_attention_table(host: Host) -> None:
    """Enter the names of SimA and of its peers in a host's own table of attention classes."""
    table, entry = host.class_table
    classes = getattr(modeling_module(host), table)
    classes.update(dict.fromkeys(function_names(), functools.partial(build_placeholder, classes[entry])))


def register_processors(host: Host) -> None:
    """Enter the SimA<Host>Config in Transformers' tables of tokenizers and processors that have the host's."""
    base = host_config_class(host)
    for file, name in _PROCESSOR_TABLES.items():
        auto = importlib.import_module(f"transformers.models.auto.{file}")
        table = getattr(auto, name, ())
        if base in table:
            # Image processors by name: without torchvision their classes warn as soon as they are looked at.
            names = getattr(auto, "IMAGE_PROCESSOR_MAPPING_NAMES", {}).get(host.model_type)
            table.register(config_class(host), dict(names) if names else table[base], exist_ok=True)


def __getattr__(name: str):
    """A SimA<Host> config or model class by its name."""
    if name.startswith(PREFIX) and name in vars(models):  # made already, of a host that the name alone may not tell
        return vars(models)[name]
    for prefix, make in ((f"{PREFIX}PartOf", part_class), (PREFIX, register_host)):
        host = next((host for host in HOSTS.values() if name == prefix + host.config), None)
        if host is not None:
            return make(host)
    if name.startswith(PREFIX):
        for host in _hosts_by_name_prefix(name.removeprefix(PREFIX)):
            base = getattr(modeling_module(host), name.removeprefix(PREFIX), None)
            if isinstance(base, type) and issubclass(base, PreTrainedModel) and _owns_model_class(base, host):
                register_host(host)
                return model_class(base, host)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _owns_model_class(base: type[PreTrainedModel], host: Host) -> bool:
    """Whether a model class takes the host's config. Inner parts of towers may name their parent's, which they never get."""
    row = HOSTS.get(getattr(base.config_class, "model_type", None))
    inner = row is None or bool(row.towers)
    return row is host or (inner and base.__name__.startswith(host.config.removesuffix("Config")))


def _hosts_by_name_prefix(name: str) -> list[Host]:
    """Hosts whose config's name begins as a model's does, the longest beginning first: looking into each costs an import."""

    def alike(host: Host) -> int:
        pairs = zip(name, host.config)  # noqa: B905 - as far as the shorter goes
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    return sorted((host for host in HOSTS.values() if alike(host) > 1), key=alike, reverse=True)
