"""Context parallelism: the tokens of one image split over processes, in bands of rows."""

from typing import TYPE_CHECKING

from ..importing.lazy_imports import lazy_names


_NAMES = {"TokenSplit": ".bands", "split_tokens": ".split"}

__all__ = ["TokenSplit", "split_tokens"]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)

if TYPE_CHECKING:
    from .bands import TokenSplit
    from .split import split_tokens
