"""Turn a swapped model back: all that it was is remembered, what came since is turned as well, and nothing is half done."""

import contextlib
import copy
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..attention import attention_function_names
from . import attentions
from .configs import SimAHostConfig, SimAParentConfig
from .eligibility import is_config, is_own_forward, nested
from .models import SimAHostModel, take_class


logger = logging.get_logger(__name__)

# Where a patched model remembers what it was, and its parts of what they are a part. Neither parameters, buffers nor modules, so
# they are never saved.
MEMORY = "_before_sima"
WHOLE = "_part_of_sima"

# What a config says of SimA, or of the class that has it: not carried over when the model is turned back.
_OF_SIMA = frozenset({"attention_gain", "model_type", "_sima_implementation", "architectures", "auto_map"})
_IMPLEMENTATION = "_attn_implementation_internal"


@dataclass(frozen=True)
class Before:
    """What a module was: class and configs before the swap and after it, and what an earlier swap of this part remembers."""

    module: nn.Module
    classes: tuple[type, type]
    configs: dict[str, tuple[PreTrainedConfig, PreTrainedConfig]]
    earlier: dict[str, Any]


@dataclass(frozen=True)
class Twin:
    """A config, the copy that the swapped model has in its place, and what the copy said when it was swapped."""

    old: PreTrainedConfig
    new: PreTrainedConfig
    values: dict[str, Any]


@dataclass(frozen=True)
class Memory:
    """What a model was before it was swapped."""

    modules: list[Before]
    twins: list[Twin]


@dataclass(frozen=True)
class _Step:
    """What one module becomes: its class, attributes to set, and names of those to drop."""

    module: nn.Module
    cls: type
    attributes: dict[str, Any] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()


def configs_of(module: nn.Module) -> dict[str, PreTrainedConfig]:
    """The configs that a module itself holds, by attribute."""
    return {name: value for name, value in vars(module).items() if is_config(value)}


@contextlib.contextmanager
def all_or_nothing(modules: Iterable[nn.Module], configs: Iterable[PreTrainedConfig] = ()) -> Iterator[None]:
    """Put classes and attributes of modules and configs back where the block fails."""
    kept = [(one, type(one), dict(vars(one))) for one in (*modules, *configs)]
    try:
        yield
    except BaseException:
        for one, cls, values in kept:
            _give_class(one, cls)
            vars(one).clear()
            vars(one).update(values)
        raise


def _give_class(one: Any, cls: type) -> None:
    if isinstance(one, PreTrainedModel) and type(one) is not cls:
        take_class(one, cls)
    else:
        one.__class__ = cls


def rebind_forwards(module: nn.Module, cls: type) -> None:
    """Have a module that was a `cls` call its new class's forward where accelerate's hooks keep, or left, the old one."""
    for name in ("forward", "_old_forward"):
        if is_own_forward(module, vars(module).get(name), cls):
            vars(module)[name] = types.MethodType(type(module).forward, module)


def twins_of(olds: Iterable[PreTrainedConfig], copies: dict[int, PreTrainedConfig]) -> list[Twin]:
    """Every config in `olds` with its copy, which deepcopy's memo knows."""
    found = {id(config): config for old in olds for config in nested(old)}
    return [
        Twin(old, new, {name: x if is_config(x) else copy.deepcopy(x) for name, x in vars(new).items()})
        for key, old in found.items()
        if (new := copies.get(key)) is not None
    ]


def turn_back(model: nn.Module, memory: Memory) -> None:
    """Make `model` what it was, with what has been changed since in its configs, layers, and their classes.

    Raises:
        ValueError: something in it cannot be turned; the model is left as it is.
    """
    known = {id(was.module): was for was in memory.modules}
    paths = {id(module): path for path, module in model.named_modules()}
    modules = {id(one): one for one in (*(was.module for was in memory.modules), *model.modules())}
    configs, classes = _Configs(memory.twins), _Classes()
    steps = [
        _remembered(known[key], configs, classes, paths.get(key, ""))
        if key in known
        else _since(module, configs, classes, paths[key])
        for key, module in modules.items()
    ]
    with all_or_nothing(modules.values(), [twin.old for twin in memory.twins]):
        configs.carry_over()
        for step in steps:
            before = type(step.module)
            if step.cls is not before:
                _give_class(step.module, step.cls)
                rebind_forwards(step.module, before)
            for name in step.dropped:
                vars(step.module).pop(name, None)
            vars(step.module).update(step.attributes)


def _remembered(was: Before, configs: "_Configs", classes: "_Classes", path: str) -> _Step:
    """A module that was there when the model was swapped; what others made of it since stays."""
    cls, (old, new) = type(was.module), was.classes
    if old is not new:
        cls = old if cls is new else classes.without_sima(cls, path)
    attributes, dropped = dict(was.earlier), [MEMORY, WHOLE]
    for name, value in configs_of(was.module).items():
        before, swapped = was.configs.get(name, (None, None))
        if value is swapped:
            attributes[name] = before
        elif name == "sima_config" and name not in was.configs:
            dropped.append(name)
        elif configs.turns(value):
            attributes[name] = configs.turned(value)
    return _Step(was.module, cls, attributes, tuple(dropped))


def _since(module: nn.Module, configs: "_Configs", classes: "_Classes", path: str) -> _Step:
    """A module that came since: as a copy of a swapped one it is turned, too."""
    held = configs_of(module)
    strange = [one for config in held.values() for one in nested(config) if _is_sima(one) and not configs.knows(one)]
    if strange:
        raise ValueError(
            f"{path!r} in this model came into it after the swap and was made or loaded as SimA ({strange[0].model_type!r}), so "
            "there is nothing to turn it back to. Take it out, or put one with softmax in its place, and call unpatch_model again."
        )
    cls = type(module)
    if all(configs.turns(config) for config in held.values() if _is_sima(config)):
        cls = classes.without_sima(cls, path)
    turned = {name: configs.turned(value) for name, value in held.items() if configs.turns(value)}
    own = turned.pop("sima_config", None)
    return _Step(module, cls, turned, (MEMORY, WHOLE) if own is None else (MEMORY, WHOLE, "sima_config"))


def _is_sima(config: PreTrainedConfig) -> bool:
    return isinstance(config, (SimAHostConfig, SimAParentConfig))


def _original(cls: type) -> type | None:
    """The class that a SimA<Host> class or a mixed one was made from; None for any other."""
    made = SimAHostModel in cls.__bases__ or (
        cls.__module__ == attentions.__name__ and issubclass(cls, nn.Module) and len(cls.__bases__) == 2
    )
    if not made:
        return None
    first, last = (
        cls.__bases__
    )  # a user's subclass of an attention comes before SimA's class of it, else the host's class last
    return last if _original(last) is None else first


class _Classes:
    """Classes that torch made over a swapped one (parametrize, fully_shard), made again over the host's."""

    def __init__(self):
        self.made: dict[type, type] = {}

    def without_sima(self, cls: type, path: str) -> type:
        """A class as it would be had there been no swap; the class itself where it is none of SimA's."""
        swapped = next((one for one in cls.__mro__ if _original(one) is not None), None)
        return cls if swapped is None else self.exchanged(cls, swapped, _original(swapped), path)

    def exchanged(self, cls: type, old: type, new: type, path: str) -> type:
        """`cls` with `new` in place of `old` among its bases; the class itself where it is none of `old`'s."""
        if cls is old or not issubclass(cls, old):
            return new if cls is old else cls
        if cls not in self.made:
            bases = tuple(self.exchanged(base, old, new, path) for base in cls.__bases__)
            body = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
            try:
                if any(map(_knows_its_class, body.values())):
                    raise TypeError("a method of it calls super()")
                self.made[cls] = type(cls)(cls.__name__.replace(old.__name__, new.__name__), bases, body)
            except TypeError as error:
                raise ValueError(
                    f"{path or 'This model'!r} was given the class {cls.__name__} after the swap, which cannot be made over "
                    f"{new.__name__}: {error}. Take that back, and call unpatch_model again."
                ) from error
        return self.made[cls]


def _knows_its_class(value: Any) -> bool:
    """Whether a function is bound to the class that it was written in, as `super()` is."""
    parts = (value.fget, value.fset, value.fdel) if isinstance(value, property) else (value,)
    found = [getattr(getattr(one, "__func__", one), "__code__", None) for one in parts]
    return any("__class__" in code.co_freevars for code in found if code is not None)


class _Configs:
    """Configs as they were before the swap, with what has been changed since."""

    def __init__(self, twins: list[Twin]):
        self.twins = twins
        self.olds = {id(twin.new): twin.old for twin in twins}
        # A copy of a swapped config is of the type that it was made from.
        self.by_type = {twin.new.model_type: twin.old for twin in twins if _is_sima(twin.new)}
        self.memo: dict[int, Any] = {}

    def knows(self, config: PreTrainedConfig) -> bool:
        """Whether a config is of a type that the model had when it was swapped."""
        return config.model_type in self.by_type

    def turns(self, config: PreTrainedConfig) -> bool:
        """Whether a config, or one in it, says SimA and did not before the swap."""
        return any(_is_sima(one) and self.knows(one) and not _is_sima(self._old(one)) for one in nested(config))

    def turned(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """The same config without SimA: the one that was there before, or a copy."""
        if id(config) in self.olds:
            return self.olds[id(config)]
        made = copy.deepcopy(config, self.memo)
        for one in nested(made):
            if _is_sima(one) and self.turns(one):
                old = self._old(one)
                vars(one).update({name: vars(old)[name] for name in (*_OF_SIMA, _IMPLEMENTATION) if name in vars(old)})
                for name in (*_OF_SIMA, _IMPLEMENTATION):
                    if name not in vars(old):
                        vars(one).pop(name, None)
                one.__class__ = type(old)
        return made

    def _old(self, config: PreTrainedConfig) -> PreTrainedConfig:
        return self.olds.get(id(config), self.by_type[config.model_type])

    def carry_over(self) -> None:
        """Bring what was changed in the swapped model's configs since into those that it had."""
        for twin in self.twins:
            now = vars(twin.new)
            for name in {**twin.values, **now}:
                if name not in _OF_SIMA and not _same(now, twin.values, name):
                    self._carry(twin.old, name, now)

    def _carry(self, old: PreTrainedConfig, name: str, now: dict[str, Any]) -> None:
        if name not in now:
            vars(old).pop(name, None)
        elif name == "_output_attentions":
            try:
                old.output_attentions = now[name]
            except ValueError as error:  # maps that fused softmax does not have
                logger.warning(f"`output_attentions` was set while the model was SimA, and is not kept: {error}")
        elif name != _IMPLEMENTATION or now[name] not in attention_function_names():
            value = now[name]
            known = is_config(value) and (id(value) in self.olds or self.turns(value))
            vars(old)[name] = self.turned(value) if known else value


def _same(now: dict[str, Any], then: dict[str, Any], name: str) -> bool:
    if name not in now or name not in then:
        return False
    return now[name] is then[name] or (not is_config(now[name]) and bool(now[name] == then[name]))
