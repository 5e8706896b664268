"""Undo of a swap: what the model was is recorded, what came into it since is turned back as well, and nothing is half done."""

import contextlib
import copy
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from .attentions import class_over, is_made_by_torch
from .attentions.code_paths import is_own_forward
from .attentions.mechanisms import function_names
from .configs import is_sima, nested
from .models import configs_of, set_model_class


logger = logging.get_logger(__name__)

# Where a patched model keeps its `SwapRecord`, and its parts the name of the whole. Neither parameters, buffers nor modules, so
# they are never saved.
RECORD = "_before_sima"
WHOLE = "_part_of_sima"

# What a config says of SimA, or of the class that has it: not carried over when the swap is undone.
_OF_SIMA = frozenset(
    {"attention_gain", "attention_mechanism", "model_type", "_sima_implementation", "architectures", "auto_map"}
)
_IMPLEMENTATION = "_attn_implementation_internal"


@dataclass
class ModuleState:
    """Class and configs of a module before the swap and after it, and what an earlier swap left on it."""

    module: nn.Module
    cls: type
    configs: dict[str, PreTrainedConfig]
    earlier: dict[str, Any]
    swapped_cls: type | None = None
    swapped_configs: dict[str, PreTrainedConfig] = field(default_factory=dict)


@dataclass(frozen=True)
class ConfigCopy:
    """A config, its copy in the swapped model, and the fields of the copy right after the swap."""

    old: PreTrainedConfig
    new: PreTrainedConfig
    fields: dict[str, Any]


@dataclass(frozen=True)
class SwapRecord:
    """What a model was before it was swapped."""

    modules: list[ModuleState]
    configs: list[ConfigCopy]


@dataclass(frozen=True)
class _Change:
    """What one module becomes: its class, attributes to set, and names of those to drop."""

    module: nn.Module
    cls: type
    attributes: dict[str, Any] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()

    def apply(self) -> None:
        before = type(self.module)
        if self.cls is not before:
            _set_class(self.module, self.cls)
            rebind_forwards(self.module, before)
        for name in self.dropped:
            vars(self.module).pop(name, None)
        vars(self.module).update(self.attributes)


@contextlib.contextmanager
def all_or_nothing(modules: Iterable[nn.Module], configs: Iterable[PreTrainedConfig] = ()) -> Iterator[None]:
    """Restore classes and attributes of modules and configs if the block fails."""
    saved = [(one, type(one), dict(vars(one))) for one in (*modules, *configs)]
    try:
        yield
    except BaseException:
        for one, cls, values in saved:
            _set_class(one, cls)
            vars(one).clear()
            vars(one).update(values)
        raise


def _set_class(one: Any, cls: type) -> None:
    if isinstance(one, PreTrainedModel) and type(one) is not cls:
        set_model_class(one, cls)
    else:
        one.__class__ = cls


def rebind_forwards(module: nn.Module, cls: type) -> None:
    """Have a module that was a `cls` call its new class's forward where accelerate's hooks keep, or left, the old one."""
    for name in ("forward", "_old_forward"):
        if is_own_forward(module, vars(module).get(name), cls):
            vars(module)[name] = types.MethodType(type(module).forward, module)


def states_before(modules: list[nn.Module]) -> list[ModuleState]:
    """The state of each module before a swap; what an earlier swap of a part left on it moves into the state."""
    return [
        ModuleState(
            module,
            type(module),
            configs_of(module),
            {name: vars(module).pop(name) for name in (RECORD, WHOLE) if name in vars(module)},
        )
        for module in modules
    ]


def record_swap(model: nn.Module, states: list[ModuleState], copies: dict[int, PreTrainedConfig]) -> None:
    """Leave on a model that was just swapped what `undo_swap` needs.

    Args:
        model: the swapped model.
        states: of all its modules, before the swap.
        copies: by the identity of a config, its copy in the swapped model.
    """
    for state in states:
        state.swapped_cls, state.swapped_configs = type(state.module), configs_of(state.module)
        if state.module is not model and (state.cls is not state.swapped_cls or state.configs):
            vars(state.module)[WHOLE] = type(model).__name__
    olds = {id(one): one for state in states for config in state.configs.values() for one in nested(config)}
    pairs = [(old, copies[key]) for key, old in olds.items() if key in copies]
    configs = [
        ConfigCopy(old, new, {name: _snapshot(value) for name, value in vars(new).items()}) for old, new in pairs
    ]
    vars(model)[RECORD] = SwapRecord(states, configs)


def _snapshot(value: Any) -> Any:
    return value if isinstance(value, PreTrainedConfig) else copy.deepcopy(value)


def undo_swap(model: nn.Module) -> None:
    """Turn a model with a `SwapRecord` back, with what has been changed since in its configs, layers and their classes.

    Raises:
        ValueError: something in it cannot be turned back; the model is left as it is.
    """
    record = vars(model)[RECORD]
    states = {id(state.module): state for state in record.modules}
    paths = {id(module): path for path, module in model.named_modules()}
    modules = {id(one): one for one in (*(state.module for state in record.modules), *model.modules())}
    configs = _Configs(record.configs)
    changes = [
        _undo_module(states[key], configs, paths.get(key, ""))
        if key in states
        else _undo_newcomer(module, configs, paths[key])
        for key, module in modules.items()
    ]
    with all_or_nothing(modules.values(), [config.old for config in record.configs]):
        configs.carry_over()
        for change in changes:
            change.apply()


def _undo_module(state: ModuleState, configs: "_Configs", path: str) -> _Change:
    """For a module that was there when the model was swapped; what others made of it since stays."""
    cls = type(state.module)
    if state.cls is not state.swapped_cls:
        cls = state.cls if cls is state.swapped_cls else _softmax_class(cls, path)
    attributes, dropped = dict(state.earlier), [RECORD, WHOLE]
    for name, value in configs_of(state.module).items():
        if value is state.swapped_configs.get(name) and name in state.configs:
            attributes[name] = state.configs[name]
        elif name == "sima_config" and name not in state.configs:
            dropped.append(name)
        elif configs.turns(value):
            attributes[name] = configs.turned(value)
    return _Change(state.module, cls, attributes, tuple(dropped))


def _undo_newcomer(module: nn.Module, configs: "_Configs", path: str) -> _Change:
    """For a module that came since: a copy of a swapped one is turned back, too."""
    held = configs_of(module)
    strange = [one for config in held.values() for one in nested(config) if is_sima(one) and not configs.knows(one)]
    if strange:
        raise ValueError(
            f"{path!r} in this model came into it after the swap and was made or loaded as SimA ({strange[0].model_type!r}), so "
            "there is nothing to turn it back to. Take it out, or put one with softmax in its place, and call unpatch_model again."
        )
    cls = type(module)
    if all(configs.turns(config) for config in held.values() if is_sima(config)):
        cls = _softmax_class(cls, path)
    turned = {name: configs.turned(value) for name, value in held.items() if configs.turns(value)}
    own = turned.pop("sima_config", None)
    return _Change(module, cls, turned, (RECORD, WHOLE) if own is None else (RECORD, WHOLE, "sima_config"))


def _softmax_class(cls: type, path: str) -> type:
    """A class as it would be had there been no swap; the class itself where it is none of SimA's.

    Raises:
        ValueError: it is a class of the user's own over one of SimA's.
    """
    swapped = next((one for one in cls.__mro__ if "softmax_class" in vars(one)), None)
    if swapped is None:
        return cls
    own = [one for one in cls.__mro__[: cls.__mro__.index(swapped)] if not is_made_by_torch(one)]
    if own:
        raise ValueError(
            f"{path or 'This model'!r} was given the class {own[0].__name__} after the swap, whose base {swapped.__name__} is SimA. "
            "Take that back, and call unpatch_model again."
        )
    return class_over(cls, swapped, swapped.softmax_class)


class _Configs:
    """Configs as they were before the swap, with what has been changed since."""

    def __init__(self, copies: list[ConfigCopy]):
        self.copies = copies
        self.olds = {id(one.new): one.old for one in copies}
        # A copy of a swapped config is of the type that it was made from.
        self.by_type = {one.new.model_type: one.old for one in copies if is_sima(one.new)}
        self.memo: dict[int, Any] = {}

    def knows(self, config: PreTrainedConfig) -> bool:
        """Whether a config is of a type that the model had when it was swapped."""
        return config.model_type in self.by_type

    def turns(self, config: PreTrainedConfig) -> bool:
        """Whether a config, or one in it, says SimA and did not before the swap."""
        return any(is_sima(one) and self.knows(one) and not is_sima(self._old(one)) for one in nested(config))

    def turned(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """The same config without SimA: the one that was there before, or a copy."""
        if id(config) in self.olds:
            return self.olds[id(config)]
        made = copy.deepcopy(config, self.memo)
        for one in nested(made):
            if is_sima(one) and self.turns(one):
                old = self._old(one)
                for name in (*_OF_SIMA, _IMPLEMENTATION):
                    vars(one).pop(name, None)
                    if name in vars(old):
                        vars(one)[name] = vars(old)[name]
                one.__class__ = type(old)
        return made

    def _old(self, config: PreTrainedConfig) -> PreTrainedConfig:
        return self.olds.get(id(config), self.by_type[config.model_type])

    def carry_over(self) -> None:
        """Bring what was changed in the swapped model's configs since into those that it had."""
        for one in self.copies:
            now = vars(one.new)
            for name in {**one.fields, **now}:
                if name not in _OF_SIMA and not _same(now, one.fields, name):
                    self._carry(one.old, name, now)

    def _carry(self, old: PreTrainedConfig, name: str, now: dict[str, Any]) -> None:
        if name not in now:
            vars(old).pop(name, None)
        elif name == "_output_attentions":
            try:
                old.output_attentions = now[name]
            except ValueError as error:  # maps that fused softmax does not have
                logger.warning(f"`output_attentions` was set while the model was SimA, and is not kept: {error}")
        elif name != _IMPLEMENTATION or now[name] not in function_names():
            value = now[name]
            known = isinstance(value, PreTrainedConfig) and (id(value) in self.olds or self.turns(value))
            vars(old)[name] = self.turned(value) if known else value


def _same(now: dict[str, Any], then: dict[str, Any], name: str) -> bool:
    if name not in now or name not in then:
        return False
    return now[name] is then[name] or (not isinstance(now[name], PreTrainedConfig) and bool(now[name] == then[name]))
