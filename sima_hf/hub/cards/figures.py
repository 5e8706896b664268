"""One figure of a card: the row of its results that shows it, and how to find that row again in an older card."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from .markdown import cell, link
from .results import is_number


# Figure of a results file -> name of the metric in the front matter.
METRIC_NAMES = {"accuracy": "Top-1 accuracy", "top_5_accuracy": "Top-5 accuracy"}
_WORDS = {"accuracy": "top-1 accuracy", "top_5_accuracy": "top-5 accuracy", "loss": "loss"}
_HELD_OUT = "held-out images of the training run"


def figure_row(
    name: str,
    value: float,
    path: Path,
    *,
    data: str | None = None,
    split: str | None = None,
    held_out: bool = False,
    images: int | None = None,
) -> tuple[str, str, str, str]:
    """The cells of a row: what was measured, its value, on what, and the file that says so.

    Args:
        name: of the figure in the file, such as "top_5_accuracy".
        value: an accuracy as a share from 0 to 1.
        path: the file.
        data, split: names of the images and of their part, where they are known.
        held_out: they are those that a training run kept apart.
        images: how many they were.
    """
    words = [f"{cell(data)}{f', {cell(split)}' if split else ''}"] if data else []
    words += [_HELD_OUT] if held_out else []
    words += [f"{images:,} images"] if images else []
    return (_WORDS.get(name, cell(name.replace("_", " "))), _shown(name, value), "; ".join(words), link(path))


def shown_in(block: str, metric: Mapping[str, Any], dataset: Mapping[str, Any], file: str | None, exact: bool) -> bool:
    """Whether the block of an earlier card has the row of a measurement in the front matter.

    Args:
        block: the text.
        metric, dataset: those of an entry in a model-index.
        file: name of the file, as it stands in an address; None for any.
        exact: whether the row must have the same value, too.
    """
    figure = next((one for one, name in METRIC_NAMES.items() if name == metric.get("name")), None)
    value, data, split = metric.get("value"), dataset.get("name"), dataset.get("split")
    if figure is None or data is None or not is_number(value):
        return False
    where = [f"{cell(data)}, {cell(split)}" if split else cell(data)]
    where += [f"{cell(data)}; {_HELD_OUT}"] if split == "validation" else []  # the row calls that split so
    cells = (
        re.escape(_WORDS[figure]),
        re.escape(_shown(figure, value)) if exact else r"[^|\n]*",
        f"(?:{'|'.join(map(re.escape, where))})(?:; [^\n]*)?",
        r"\[[^\n]*\]\(" + (r"[^)\n]*" if file is None else re.escape(file)) + r"\)",
    )
    return re.search(r"^\| " + r" \| ".join(cells) + r" \|\r?$", block, flags=re.MULTILINE) is not None


def figures_in(block: str) -> dict[str, list[str]]:
    """The figures that the block of an earlier card shows: name of their file -> such as "top-1 accuracy 95.83%"."""
    found: dict[str, list[str]] = {}
    for row in re.findall(r"^\| (.*) \|\r?$", block, flags=re.MULTILINE):
        cells = re.split(r" (?<!\\)\| ", row)
        file = re.fullmatch(r"\[[^\n]*\]\(([^)\n]*)\)", cells[-1])
        if len(cells) == 4 and file:
            found.setdefault(unquote(file[1]), []).append(f"{cells[0]} {cells[1]}")
    return found


def _shown(name: str, value: float) -> str:
    return f"{value:.2%}" if "accuracy" in name else f"{value:.4f}"
