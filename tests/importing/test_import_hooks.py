"""Calling a function once a module is imported, on modules made for the test."""

import importlib
import sys

import pytest

from sima_hf.importing.import_hooks import after_import


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Name of a module that can be imported once; nothing of it stays."""
    monkeypatch.syspath_prepend(str(tmp_path))
    finders = list(sys.meta_path)
    name = "made_for_after_import"
    (tmp_path / f"{name}.py").write_text("value = 41\nvalue += 1\n")
    importlib.invalidate_caches()
    yield name
    sys.modules.pop(name, None)
    sys.meta_path[:] = finders


def test_called_once_after_the_body_has_run(module):
    seen = []
    finders = list(sys.meta_path)
    after_import(module, lambda: seen.append(sys.modules[module].value))
    assert seen == []
    imported = importlib.import_module(module)
    assert seen == [42]
    assert sys.meta_path == finders
    assert type(imported.__loader__).__name__ == type(imported.__spec__.loader).__name__ == "SourceFileLoader"
    importlib.reload(imported)
    assert seen == [42]


def test_called_at_once_if_imported_already(module):
    importlib.import_module(module)
    seen = []
    after_import(module, lambda: seen.append(True))
    assert seen == [True]


def test_several_functions(module):
    seen = []
    for number in (1, 2):
        after_import(module, lambda number=number: seen.append(number))
    importlib.import_module(module)
    assert sorted(seen) == [1, 2]


def test_not_called_when_the_module_fails(module, tmp_path):
    (tmp_path / f"{module}.py").write_text("raise RuntimeError('broken')\n")
    seen = []
    after_import(module, lambda: seen.append(True))
    with pytest.raises(RuntimeError, match="broken"):
        importlib.import_module(module)
    assert seen == []


def test_a_module_that_does_not_exist():
    finders = list(sys.meta_path)
    after_import("no_such_module_anywhere", lambda: None)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        importlib.import_module("no_such_module_anywhere")
    assert sys.meta_path == finders
