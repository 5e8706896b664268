"""Patch a live model, in place, and undo it."""

import contextlib
import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import UnsupportedModelError
from ..ops import check_gain
from ..ops.backends import BACKENDS
from .classes import SimAHostModel, adopt_parts, is_host_class, take_class
from .configs import SimAHostConfig, config_class, config_class_in_use
from .hosts import HOSTS, find_host


# Where a patched model remembers what it was. Not a parameter, buffer or module, so it is never saved.
_MEMORY = "_before_sima"


@dataclass(frozen=True)
class Before:
    """What `unpatch_model` restores: each model's class, and each config with the SimA one that took its place."""

    classes: tuple[tuple[PreTrainedModel, type], ...]
    configs: tuple[tuple[PreTrainedConfig, PreTrainedConfig], ...]


def patch_model(model: PreTrainedModel, gain: str = "tokens", backend: str = "auto") -> PreTrainedModel:
    """Swap softmax attention for SimA, in place: the model becomes of class `SimA<Host>...`, with the same parameters.

    Nothing else in the process changes: the model gets a config of its own, other models keep theirs.

    Args:
        model: a Transformers model listed by `supported_models()`. A model that is SimA already takes the new gain and
            backend.
        gain: "tokens" or "none", as for `sima_attention`; saved as `config.attention_gain`.
        backend: "auto" or a name from `sima_hf.ops.backend_report()`.

    Returns:
        The same object.

    Raises:
        UnsupportedModelError (a ValueError): the model cannot be swapped, with the reason; it is left untouched.
        TypeError: it is not a Transformers model.
        ValueError: unknown gain or backend.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"patch_model takes a Transformers model (PreTrainedModel), but {type(model).__name__} came.")
    check_gain(gain)
    known = ("auto", *(row.name for row in BACKENDS))
    if backend not in known:
        raise ValueError(f"`backend` must be one of {', '.join(map(repr, known))}, but {backend!r} came.")
    implementation = "sima" if backend == "auto" else f"sima_{backend}"
    if not isinstance(model, SimAHostModel):
        _swap(model)
    for config in _held_configs(model):
        config.attention_gain = gain
        config._attn_implementation = implementation
    return model


def _swap(model: PreTrainedModel) -> None:
    host = find_host(model.config.model_type)
    if not is_host_class(type(model)):
        raise UnsupportedModelError(
            f"{type(model).__name__} is not one of Transformers' own classes for {host.model_type!r}, so it is not known that "
            "all its attention would be swapped. Patch the Transformers model inside it."
        )
    for name, part in model.named_modules():
        inner = part.config.model_type if isinstance(part, PreTrainedModel) else host.model_type
        if inner != host.model_type:
            raise UnsupportedModelError(
                f"This {type(model).__name__} holds a {inner!r} model as {name!r}, and a {host.model_type!r} config cannot say "
                "that both are SimA. Only models of one piece can be swapped."
            )
    config_class_in_use(host)
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel) and is_host_class(type(part))]
    before = Before(tuple((part, type(part)) for part in parts), _twin_configs(model))
    try:
        _exchange_configs(model, before.configs)
        adopt_parts(model)
    except BaseException:
        _restore(model, before)
        raise
    object.__setattr__(model, _MEMORY, before)


def _twin_configs(model: PreTrainedModel) -> tuple[tuple[PreTrainedConfig, PreTrainedConfig], ...]:
    """A SimA twin for every host config that modules hold; a decoder often has a deep copy of its model's config."""
    held = {id(value): value for module in model.modules() for value in vars(module).values()}
    configs = [value for value in held.values() if isinstance(value, PreTrainedConfig) and value.model_type in HOSTS]
    twins = []
    for config in configs:
        twin = copy.deepcopy(config)
        twin.__class__ = config_class(HOSTS[config.model_type])
        twins.append((config, twin))
    return tuple(twins)


def unpatch_model(model: PreTrainedModel) -> PreTrainedModel:
    """Turn a model that `patch_model` swapped back into what it was, bit for bit. Returns the same object.

    A model that was never patched is returned as it is.

    Raises:
        ValueError: it was loaded as SimA, so that there is nothing to turn back to; the text says what to do.
    """
    before = vars(model).get(_MEMORY) if isinstance(model, nn.Module) else None
    if before is None:
        if isinstance(model, SimAHostModel):
            host = type(model).__mro__[2].__name__
            raise ValueError(
                f"This {type(model).__name__} was made or loaded as SimA, not patched. To run its weights with softmax, "
                f"load its state_dict into a {host}."
            )
        return model
    _restore(model, before)
    object.__delattr__(model, _MEMORY)
    return model


def _restore(model: PreTrainedModel, before: Before) -> None:
    for part, cls in before.classes:
        take_class(part, cls)
    _exchange_configs(model, [(twin, config) for config, twin in before.configs])


@contextlib.contextmanager
def patched(model: PreTrainedModel, gain: str = "tokens", backend: str = "auto") -> Iterator[PreTrainedModel]:
    """`patch_model` for the length of a `with` block; what was before comes back, also when the block fails."""
    was_sima = isinstance(model, SimAHostModel)
    settings = (
        [(config, config.attention_gain, config._attn_implementation) for config in _held_configs(model)]
        if was_sima
        else []
    )
    patch_model(model, gain=gain, backend=backend)
    try:
        yield model
    finally:
        for config, old_gain, old_implementation in settings:
            config.attention_gain, config._attn_implementation = old_gain, old_implementation
        if not was_sima:
            unpatch_model(model)


def _exchange_configs(model: PreTrainedModel, pairs: Iterable[tuple[PreTrainedConfig, PreTrainedConfig]]) -> None:
    """Wherever a module of `model` holds the first of a pair, put the second."""
    exchanged = {id(old): new for old, new in pairs}
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if id(value) in exchanged:
                object.__setattr__(module, name, exchanged[id(value)])


def _held_configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """Every SimA<Host>Config that a module of `model` holds."""
    held = {id(value): value for module in model.modules() for value in vars(module).values()}
    return [value for value in held.values() if isinstance(value, SimAHostConfig)]
