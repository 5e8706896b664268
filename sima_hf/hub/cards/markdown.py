"""The pieces of Markdown that a card is made of."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any


def cell(value: Any) -> str:
    """A value as one cell of a Markdown table, whatever signs are in it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        value = f"{value:.6g}"
    text = " ".join(str(value).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; columns called "value" are to the right."""
    head = list(head)
    rule = "".join("--:|" if name == "value" else "---|" for name in head)
    return "\n".join([f"| {' | '.join(head)} |", f"|{rule}", *(f"| {' | '.join(row)} |" for row in rows)])


def link(path: Path) -> str:
    """A file that is published beside the card."""
    return f"[{path.name}]({path.name})"


def weights_words(weights: tuple[Path, ...]) -> str:
    """The file of weights, or the first of several."""
    if len(weights) == 1:
        return weights[0].name
    return f"{weights[0].name} and {len(weights) - 1} more" if weights else ""
