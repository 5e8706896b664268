"""Which code an attention module runs, read from its classes: nothing is run, and no source file is needed."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import nn
from transformers import PreTrainedModel


# An operation is softmax attention, or a part of it, if its name has one of these words.
WORDS = ("softmax", "scaled_dot_product", "multi_head_attention", "flash_attn", "flash_attention", "flex_attention")

# The global through which Transformers' attentions find the function that `attn_implementation` names.
_INTERFACE = "ALL_ATTENTION_FUNCTIONS"

# Attributes by which an attention module of Transformers is recognized, whatever its host calls its projections.
_MARKS = ("q_proj", "k_proj", "query", "qkv", "scaling", "scale")

# Where hosts keep their attention: what someone put there is attention, whatever its class is called.
_PLACES = ("attention", "attn", "self_attn")

_KNOWN = ("transformers.", "torch.")


def is_attention(module: nn.Module, path: str) -> bool:
    """Whether a module at `path` computes attention, as far as its classes, attributes and place tell.

    Wrappers of another attention, such as PEFT's, do not count: the one inside does.
    """
    if isinstance(module, PreTrainedModel):
        return False
    named = _named_attention(module)
    if type(module).__module__.startswith("transformers."):
        return named and any(hasattr(module, mark) for mark in _MARKS)
    placed = path.rpartition(".")[2] in _PLACES and not type(module).__module__.startswith(_KNOWN)
    return (named or placed) and not any(_named_attention(inner) for inner in module.modules() if inner is not module)


def _named_attention(module: nn.Module) -> bool:
    return any("Attention" in cls.__name__ for cls in type(module).__mro__)


def reaches_interface(module: nn.Module) -> bool:
    """Whether a module's forward looks its attention up in Transformers' interface, itself or in what it calls."""
    cls, held = type(module), vars(module)
    # accelerate hangs a forward onto the module that calls `_old_forward`.
    forward = held.get("_old_forward") or held.get("forward") or cls.forward
    return _reaches(cls, _function(forward))


@functools.cache
def _reaches(cls: type[nn.Module], forward: Callable) -> bool:
    queue, seen = [forward], set()
    while queue:
        function = _function(queue.pop())
        if not isinstance(function, FunctionType) or function in seen:
            continue
        seen.add(function)
        names = _names_in(function)
        if _INTERFACE in names:
            return True
        queue += [value for name in names if isinstance(value := getattr(cls, name, None), FunctionType)]
        queue += [
            value
            for name in names
            if getattr(value := function.__globals__.get(name), "__module__", None) == function.__module__
            and isinstance(value, FunctionType)
        ]
        # What a wrapper calls: the variables of the function around it.
        queue += _closure(function)
        if "super" in names:
            queue += [base.forward for base in cls.__mro__ if "forward" in vars(base)]
    return False


def is_own_forward(module: nn.Module, value: Any, cls: type) -> bool:
    """Whether `value` is the forward of `cls`, bound to `module`: what accelerate leaves there when its hooks are removed."""
    return isinstance(value, MethodType) and value.__self__ is module and value.__func__ is cls.forward


def _function(value: Any) -> Any:
    """The plain function inside decorators, bound methods and `functools.partial`; other values as they are."""
    if callable(value):
        value = inspect.unwrap(value)
    if isinstance(value, MethodType):
        return _function(value.__func__)
    return _function(value.func) if isinstance(value, functools.partial) else value


def _closure(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # it is empty
            yield cell.cell_contents


def changes_forward(cls: type[nn.Module], original: type[nn.Module]) -> bool:
    """Whether a subclass of `original` computes something else: by a forward, or a method of it, of its own.

    A forward that only calls `super().forward` and has no softmax attention in its own code does not count.
    """
    used = {"forward", *_names_in(inspect.unwrap(original.forward))}
    return any(
        isinstance(value, FunctionType) and not (name == "forward" and _passes_on(inspect.unwrap(value)))
        for base in cls.__mro__[: cls.__mro__.index(original)]
        for name, value in vars(base).items()
        if name in used and hasattr(original, name)
    )


def _passes_on(forward: FunctionType) -> bool:
    names = _names_in(forward)
    return {"super", "forward"} <= names and not any(word in name for word in WORDS for name in names)


def _names_in(function: FunctionType) -> set[str]:
    """The globals and attributes that a function's code names."""
    return {name for code in _codes(function.__code__) for name in code.co_names}


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _codes(value)
