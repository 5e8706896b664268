"""The pieces of Markdown that a card is made of."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote


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
    """A file that is published beside the card, whatever signs are in its name."""
    shown = re.sub(r"([][])", r"\\\1", cell(path.name))
    return f"[{shown}]({quote(path.name)})"


def code(value: Any) -> str:
    """A value as code in a line of text or in a cell."""
    text = " ".join(str(value).split()).replace("<!--", "<! --").replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    if not longest:
        return f"`{text}`"
    return f"{'`' * (longest + 1)} {text} {'`' * (longest + 1)}"


def quoted(value: str) -> str:
    """A text as Python has it between double quotes, in a block of code; no mark of a card can be in it."""
    return json.dumps(value, ensure_ascii=False).replace("<!--", "\\u003c!--")


def weights_words(weights: tuple[Path, ...]) -> str:
    """The file of weights, or the first of several."""
    if len(weights) == 1:
        return cell(weights[0].name)
    return f"{cell(weights[0].name)} and {len(weights) - 1} more" if weights else ""
