"""What `make test-fast` leaves out of the host matrix."""

from pathlib import Path

import pytest

from tests.helpers.hosts.at_hand import KINDS


def model_of(item):
    """The model that a test of the swap is given, or None."""
    given = item.callspec.params if hasattr(item, "callspec") else {}
    here = Path(__file__).parent in item.path.parents
    return (given["case"], given["name"]) if here and {"case", "name"} <= given.keys() else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """One model of each kind of code is for every day; all others are slow."""
    for item in items:
        if model_of(item) not in (None, *KINDS):
            item.add_marker(pytest.mark.slow)
