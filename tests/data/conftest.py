"""Fifty digits in every form that data comes in; nothing is left in the cache of `datasets`."""

import datasets
import pytest

from tests.helpers.digit_files import few_digits, write_digits


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def few():
    """Sixty digits: fifty to train with, ten to validate on."""
    return few_digits()


@pytest.fixture(scope="module")
def root(few, tmp_path_factory):
    """Their files; a folder for each form."""
    root = tmp_path_factory.mktemp("digits")
    write_digits(few, root)
    return root
