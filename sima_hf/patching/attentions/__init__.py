"""SimA for hosts whose attention is code of their own: a class here is mixed into the host's, and only `forward` is new.

The table of hosts says which class goes where (`Host.modules`); parameters stay the host's. A mixed class is called
SimA<name of the host's class> and is an attribute of this module, so that models can be pickled. Classes with `attends = False`
change what an attention gets and leave the attention itself to Transformers' interface.
"""

import copyreg
import functools
import importlib

from torch import nn

from ..hosts import HOSTS, Host, modeling_module


def forward_class(place: str) -> type:
    """The class at `place`, "file.Class" of this folder."""
    file, name = place.split(".")
    return getattr(importlib.import_module(f".{file}", __name__), name)


@functools.cache
def replaced_classes(host: Host) -> dict[type[nn.Module], str | None]:
    """The classes that a host's `modules` name, those that the installed Transformers has -> what takes their forward's place."""
    found = {name: getattr(nn, name, None) or getattr(modeling_module(host), name, None) for name in host.modules}
    return {cls: host.modules[name] for name, cls in found.items() if cls is not None}


def replaced_base(cls: type[nn.Module], host: Host) -> type[nn.Module] | None:
    """Which class of `replaced_classes` a module of class `cls` is of, subclasses included; None if none."""
    classes = replaced_classes(host)
    return next((base for base in cls.__mro__ if base in classes), None)


@functools.cache
def mixed_class(original: type[nn.Module], place: str) -> type[nn.Module]:
    """`SimA<Original>`: a subclass of the host's class with the forward of the class at `place`."""
    forward = forward_class(place)
    body = {
        "__module__": __name__,
        "__doc__": f"{original.__name__} with SimA attention; the host's own parameters.",
        "attends": getattr(forward, "attends", True),
    }
    made = type(f"SimA{original.__name__}", (forward, original), body)
    globals()[made.__name__] = made  # pickle looks it up here
    return made


def swapped_class(cls: type[nn.Module], original: type[nn.Module], place: str) -> type[nn.Module]:
    """SimA's class for a module of class `cls`: the host's `original`, or a subclass that keeps its forward."""
    if cls is original:
        return mixed_class(original, place)
    if cls.__module__.startswith("torch."):
        return _remade_class(cls, original, place)
    return _mixed_subclass(cls, original, place)


def _remade_class(cls: type[nn.Module], original: type[nn.Module], place: str) -> type[nn.Module]:
    """A class that torch made for a live module (parametrize, fully_shard), as it would have made it after the swap.

    torch changes and removes such a class later by its own attributes and its first base.
    """
    bases = tuple(
        swapped_class(base, original, place) if issubclass(base, original) else base for base in cls.__bases__
    )
    body = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    return type(cls)(cls.__name__.replace(original.__name__, f"SimA{original.__name__}"), bases, body)


class _SubclassType(type):
    """The type of classes that no module holds by name: pickle makes them anew from what they were made of."""


@functools.cache
def _mixed_subclass(cls: type[nn.Module], original: type[nn.Module], place: str) -> type[nn.Module]:
    """`SimA<Subclass>`: a user's subclass before `SimA<Original>`, so that a forward that calls `super().forward` calls SimA's."""
    kind = _SubclassType if type(cls) is type else type(cls)
    body = {
        "__module__": __name__,
        "__doc__": f"{cls.__name__} with SimA attention.",
        "made_of": (cls, original, place),
    }
    return kind(f"SimA{cls.__name__}", (cls, mixed_class(original, place)), body)


def _reduce(made: type[nn.Module]):
    own = vars(made).get("made_of")  # a class that torch made over such a one has none of its own, and is not pickled
    return made.__qualname__ if own is None else (_mixed_subclass, own)


copyreg.pickle(_SubclassType, _reduce)


def __getattr__(name: str):
    """A mixed class by its name: what pickle looks up."""
    original = name.removeprefix("SimA")
    for host in HOSTS.values():
        if name.startswith("SimA") and original in host.modules:
            for cls, place in replaced_classes(host).items():
                if cls.__name__ == original:
                    return mixed_class(cls, place)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
