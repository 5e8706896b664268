"""SimA for hosts whose attention is code of their own: a class here is mixed into the host's, and only `forward` is new.

The table of hosts says which class goes where (`Host.forwards`); parameters stay the host's. A mixed class is called
SimA<name of the host's class> and is an attribute of this module, so that models can be pickled. Classes with `attends = False`
change what an attention gets and leave the attention itself to Transformers' interface.
"""

import copyreg
import functools
import importlib

from torch import nn

from ..hosts import HOSTS, Host, modeling_module


def forward_class(forward_path: str) -> type:
    """The class at `forward_path`, "file.Class" of this folder."""
    file, name = forward_path.split(".")
    return getattr(importlib.import_module(f".{file}", __name__), name)


@functools.cache
def replaced_classes(host: Host) -> dict[type[nn.Module], str]:
    """The classes that a host's `forwards` name, those that the installed Transformers has -> the path of the new forward."""
    found = {name: getattr(nn, name, None) or getattr(modeling_module(host), name, None) for name in host.forwards}
    return {cls: host.forwards[name] for name, cls in found.items() if cls is not None}


def replaced_base(cls: type[nn.Module], host: Host) -> type[nn.Module] | None:
    """Which class of `replaced_classes` a module of class `cls` is of, subclasses included; None if none."""
    classes = replaced_classes(host)
    return next((base for base in cls.__mro__ if base in classes), None)


@functools.cache
def mixed_class(original: type[nn.Module], forward_path: str) -> type[nn.Module]:
    """`SimA<Original>`: a subclass of the host's class with the forward of the class at `forward_path`."""
    forward = forward_class(forward_path)
    body = {
        "__module__": __name__,
        "__doc__": f"{original.__name__} with SimA attention; the host's own parameters.",
        "attends": getattr(forward, "attends", True),
        "softmax_class": original,
    }
    made = type(f"SimA{original.__name__}", (forward, original), body)
    globals()[made.__name__] = made  # pickle looks it up here
    return made


def swapped_class(cls: type[nn.Module], original: type[nn.Module], forward_path: str) -> type[nn.Module]:
    """SimA's class for a module of class `cls`: the host's `original`, or a subclass that keeps its forward."""
    held = next(base for base in cls.__mro__ if base is original or not is_made_by_torch(base))
    if held is original:
        return class_over(cls, held, mixed_class(original, forward_path))
    return class_over(cls, held, _mixed_subclass(held, original, forward_path))


def is_made_by_torch(cls: type) -> bool:
    """Whether a class may be one that torch made for a live module, as parametrize and fully_shard do."""
    return cls.__module__.startswith("torch.")


def class_over(cls: type, old: type, new: type) -> type:
    """`cls` with `new` in place of its base `old`, as torch would have made it over that; `new` for `old` itself.

    torch changes and removes a class that it made later by its own attributes and its first base.
    """
    if cls is old or not issubclass(cls, old):
        return new if cls is old else cls
    bases = tuple(class_over(base, old, new) for base in cls.__bases__)
    body = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    return type(cls)(cls.__name__.replace(old.__name__, new.__name__), bases, body)


class _SubclassType(type):
    """The type of classes that no module holds by name: pickle makes them anew from what they were made of."""


@functools.cache
def _mixed_subclass(cls: type[nn.Module], original: type[nn.Module], forward_path: str) -> type[nn.Module]:
    """`SimA<Subclass>`: a user's subclass before `SimA<Original>`, so that a forward that calls `super().forward` calls SimA's."""
    kind = _SubclassType if type(cls) is type else type(cls)
    body = {
        "__module__": __name__,
        "__doc__": f"{cls.__name__} with SimA attention.",
        "softmax_class": cls,
        "made_of": (cls, original, forward_path),
    }
    return kind(f"SimA{cls.__name__}", (cls, mixed_class(original, forward_path)), body)


def _reduce(made: type[nn.Module]):
    own = vars(made).get("made_of")  # a class that torch made over such a one has none of its own, and is not pickled
    return made.__qualname__ if own is None else (_mixed_subclass, own)


copyreg.pickle(_SubclassType, _reduce)


def __getattr__(name: str):
    """A mixed class by its name: what pickle looks up."""
    original = name.removeprefix("SimA")
    for host in HOSTS.values():
        if name.startswith("SimA") and original in host.forwards:
            for cls, forward_path in replaced_classes(host).items():
                if cls.__name__ == original:
                    return mixed_class(cls, forward_path)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
