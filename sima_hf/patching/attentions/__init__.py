"""SimA for hosts whose attention is code of their own: a class here is mixed into the host's, and only `forward` is new.

The table of hosts says which class goes where (`Host.modules`); parameters stay the host's. A mixed class is called
SimA<name of the host's class> and is an attribute of this module, so that models can be pickled. Classes with `attends = False`
change what an attention gets and leave the attention itself to Transformers' interface.
"""

import functools
import importlib

from torch import nn


def forward_class(place: str) -> type:
    """The class at `place`, "file.Class" of this folder."""
    file, name = place.split(".")
    return getattr(importlib.import_module(f".{file}", __name__), name)


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
    return globals().setdefault(made.__name__, made)


def __getattr__(name: str):
    """A mixed class by its name: what pickle looks up."""
    from ..hosts import HOSTS, modeling_module

    original = name.removeprefix("SimA")
    for host in HOSTS.values():
        if name.startswith("SimA") and original in host.modules:
            home = nn if hasattr(nn, original) else modeling_module(host)
            return mixed_class(getattr(home, original), host.modules[original])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
