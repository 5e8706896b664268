"""Words of messages."""

from collections.abc import Iterable
from typing import Any


def first_few(names: Iterable[Any], most: int = 10) -> str:
    """Names for a message, the first few of many: `a, b, c and 4 more`."""
    names = [str(name) for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
