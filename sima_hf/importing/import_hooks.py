"""Run a function once a module has been imported by anyone, without importing it."""

import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder


def after_import(module_name: str, function: Callable[[], None]) -> None:
    """Call `function` now if `module_name` is imported already, else right after its first import."""
    if module_name in sys.modules:
        function()
    else:
        sys.meta_path.insert(0, _Finder(module_name, function))


class _Finder(MetaPathFinder):
    """Finds one module, by asking the finders behind it, and takes itself off the path when it has."""

    def __init__(self, module_name: str, function: Callable[[], None]):
        self.module_name = module_name
        self.function = function

    def find_spec(self, fullname, path, target=None):
        if fullname != self.module_name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.function)
        return spec


class _Loader(Loader):
    """Loads with another loader, gives the module back to it, then calls the function."""

    def __init__(self, loader: Loader, function: Callable[[], None]):
        self.loader = loader
        self.function = function

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.function()
