"""Packages whose public names are imported at first use, so that importing one does not import what only some of it needs."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and the `__dir__` (PEP 562) of such a package.

    Args:
        package: its `__name__`.
        names: public name -> module that defines it, as `importlib.import_module` takes it beside `package`. Editors and type
            checkers read none of this: for them the package has the imports under `TYPE_CHECKING`, and `__all__` name by name.
    """
    space = vars(sys.modules[package])

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(sorted(names))}")
        value = space[name] = getattr(importlib.import_module(names[name], package), name)
        return value

    def listed() -> list[str]:
        return sorted({*space, *names})

    return get, listed
