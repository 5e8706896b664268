"""SimA<Host>Config classes: subclasses of the host's config, with a model_type of their own.

The type is what keeps a swapped model SimA through save, push and load, and what makes a machine without sima_hf stop
instead of running softmax. No model is imported here.
"""

import copy
import functools
import os
from collections.abc import Iterator

from transformers.configuration_utils import PreTrainedConfig

from .attentions.mechanisms import DEFAULT_ATTENTION, DEFAULT_GAIN, SIMA, check_attention, function_names, title_of
from .hosts import HOME, HOSTS, PREFIX, Host, host_config_class, host_of_config
from .remote_code.model_files import auto_map, write_remote_code


# Written into config.json as `attn_implementation`, and never registered: if a checkpoint is loaded with the host's own class,
# Transformers raises an error with this name instead of running softmax. Our configs read it as None.
IN_FILES = "needs_sima_hf"


def sima_implementation(name: str | None, owner: str, mechanism: str = SIMA) -> str:
    """`name` if it is one of the mechanism's attention functions, the mechanism itself for None.

    Raises:
        ValueError: it is another, which would bring softmax back, or one attention in the place of another.
    """
    if name is None or name == IN_FILES:
        return mechanism
    known = function_names(mechanism)
    if name not in known:
        other = name in function_names()
        become = "make it another attention" if other else "turn it back to softmax"
        chosen = f"Choose among {', '.join(known)}" if known[1:] else "Leave it out"
        remedy = "call sima_hf.patch_model(model, attention=...)" if other else "call sima_hf.unpatch_model first"
        raise ValueError(
            f"{owner} computes {title_of(mechanism)} attention; `attn_implementation={name!r}` would {become}. "
            f"{chosen}, or {remedy}. In a model made of several, a dict such as "
            "{'text_config': 'sdpa'} reaches the parts that are not SimA."
        )
    return name


def build_parts(config: PreTrainedConfig) -> None:
    """Build configs of SimA models inside another's that Transformers does not know: where they came with code of their own.

    With sima_hf imported it knows them all, and there is nothing to do.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    for name, value in list(vars(config).items()):
        model_type = value.get("model_type") if isinstance(value, dict) else None
        host = HOSTS.get(str(model_type).removeprefix("sima_"))
        if host is not None and model_type not in CONFIG_MAPPING:
            fields = {key: entry for key, entry in value.items() if key != "model_type"}
            setattr(config, name, config_class(host)(**fields))


class SimAConfigMixin:
    """What the config of every swapped model has: the way it is saved."""

    def to_dict(self) -> dict:
        """As the host's, with a name of attention that stops whoever reads it as the host's."""
        return {**super().to_dict(), "attn_implementation": IN_FILES}

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """As the host's; a config that `sima_hf.prepare_for_hub` prepared brings its code along, as the installed version has it."""
        if getattr(self, "auto_map", None):
            self.auto_map = auto_map(self)
            write_remote_code(self, save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)


class SimAHostConfig(SimAConfigMixin):
    """What a swapped model's config adds to the host's: which attention it computes, never softmax, and SimA's gain."""

    attention_gain: str = DEFAULT_GAIN
    attention_mechanism: str = DEFAULT_ATTENTION

    def __post_init__(self, **kwargs):
        check_attention(self.attention_mechanism, self.attention_gain)
        build_parts(self)
        super().__post_init__(**kwargs)

    @property
    def output_attentions(self) -> bool:
        """Whether the model returns its attention maps; SimA can always give them, unlike fused softmax."""
        return getattr(self, "_output_attentions", False)

    @output_attentions.setter
    def output_attentions(self, value: bool):
        self._output_attentions = value

    @property
    def _attn_implementation(self) -> str:
        # Checked at every call as well: Transformers sometimes writes past the setter.
        return sima_implementation(self._attn_implementation_internal, type(self).__name__, self.attention_mechanism)

    @_attn_implementation.setter
    def _attn_implementation(self, value: str | dict | None):
        value = value.get("") if isinstance(value, dict) else value
        self._attn_implementation_internal = sima_implementation(value, type(self).__name__, self.attention_mechanism)

    def choose_backend(self, implementation: str | None) -> None:
        """Take one of the mechanism's attention functions; None: the mechanism's own name."""
        self._attn_implementation = implementation

    def validate_output_attentions(self):
        """SimA's maps can always be asked for, unlike those of fused softmax."""


class SimAPartConfig(SimAHostConfig):
    """For a host of which only a part is swapped: the rest keeps the host's choice of attention.

    `of_part()` gives the config that the swapped modules hold.
    """

    _sima_implementation: str = "sima"
    output_attentions = PreTrainedConfig.output_attentions  # the rest may be fused softmax, which has none

    @property
    def _attn_implementation(self) -> str | None:
        return self._attn_implementation_internal

    @_attn_implementation.setter
    def _attn_implementation(self, value: str | dict | None):
        value = value.get("") if isinstance(value, dict) else value
        self._sima_implementation = sima_implementation(value, type(self).__name__, self.attention_mechanism)
        self._attn_implementation_internal = getattr(self, "_attn_implementation_internal", None)

    def of_part(self) -> SimAHostConfig:
        """A copy for the swapped modules, whose attention is SimA."""
        part = object.__new__(part_class(host_of_config(self)))
        part.__dict__.update(self.__dict__)  # none of the values is copied
        part._attn_implementation_internal = self._sima_implementation
        return part

    def to_dict(self) -> dict:
        """As the host's."""
        return {name: value for name, value in super().to_dict().items() if name != "_sima_implementation"}


class SimAParentConfig(SimAConfigMixin):
    """For a model made of several: its towers' configs are SimA ones, however the host would build them."""

    def __post_init__(self, **kwargs):
        for name, cls in self._sima_towers.items():
            value = getattr(self, name, None)
            if value is None or isinstance(value, dict):
                setattr(self, name, cls(**(value or {})))
        super().__post_init__(**kwargs)
        for name, cls in self._sima_towers.items():
            tower = getattr(self, name)
            if not isinstance(tower, SimAHostConfig):  # older Transformers build CLIP's towers anew from their values
                tower.__class__ = cls
                tower.choose_backend(None)

    @property
    def _attn_implementation(self) -> str | None:
        return self._attn_implementation_internal

    @_attn_implementation.setter
    def _attn_implementation(self, value: str | dict | None):
        """A name means SimA's backend in the towers; a dict reaches each part by the name of its config."""
        if isinstance(value, dict):
            PreTrainedConfig._attn_implementation.fset(self, value)
            return
        if value == IN_FILES:
            value = None
        self._attn_implementation_internal = getattr(self, "_attn_implementation_internal", None)
        for name in self._sima_towers:
            tower = getattr(self, name, None)
            if isinstance(tower, SimAHostConfig):
                tower.choose_backend(sima_implementation(value, type(self).__name__, tower.attention_mechanism))


def nested(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A config and all configs in it."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from nested(value)


def is_sima(config: PreTrainedConfig) -> bool:
    """Whether a config is that of a swapped model."""
    return isinstance(config, SimAConfigMixin)


def _class(host: Host, mixin: type, prefix: str, **more) -> type[PreTrainedConfig]:
    base = host_config_class(host)
    body = {
        "__module__": HOME,
        "__doc__": f"{base.__name__} of a model whose attention is SimA.",
        "model_type": f"sima_{host.model_type}",
        **more,
    }
    if issubclass(mixin, SimAHostConfig):
        body |= {"__annotations__": {"attention_gain": str, "attention_mechanism": str}}
        body |= {"attention_gain": DEFAULT_GAIN, "attention_mechanism": DEFAULT_ATTENTION}
        body["__doc__"] += (
            " `attention_gain` is 'none' or 'tokens'; `attention_mechanism` is 'sima', or the name of a peer in its place."
        )
    made = type(f"{prefix}{base.__name__}", (mixin, base), body)
    return globals().setdefault(made.__name__, made)  # pickle looks it up here


@functools.cache
def config_class(host: Host) -> type[PreTrainedConfig]:
    """The SimA<Host>Config of a host."""
    if host.within:
        return _class(host, SimAPartConfig, PREFIX)
    if not host.towers:
        return _class(host, SimAHostConfig, PREFIX)
    base = host_config_class(host)
    towers = {name: config_class(HOSTS[base.sub_configs[name].model_type]) for name in host.towers}
    more = {"_sima_towers": towers}
    if hasattr(base, "sub_configs_defaults"):
        specs = {name: copy.copy(spec) for name, spec in base.sub_configs_defaults.items()}
        for name, cls in towers.items():
            specs[name].config_class = cls
        more["sub_configs_defaults"] = specs
    else:  # Transformers before 5.2x
        more["sub_configs"] = {**base.sub_configs, **towers}
    return _class(host, SimAParentConfig, PREFIX, **more)


@functools.cache
def part_class(host: Host) -> type[PreTrainedConfig]:
    """The class of the config that the swapped modules of a partly swapped host hold."""
    return _class(host, SimAHostConfig, f"{PREFIX}PartOf")
