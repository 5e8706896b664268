"""One figure of a card: the row of its results that shows it."""

from pathlib import Path

from .markdown import cell, link


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
    """The cells of a row: what was measured, its value, on what, and the file that says so."""
    words = [f"{cell(data)}{f', {cell(split)}' if split else ''}"] if data else []
    words += [_HELD_OUT] if held_out else []
    words += [f"{images:,} images"] if images else []
    shown = f"{value:.2%}" if "accuracy" in name else f"{value:.4f}"
    return (_WORDS.get(name, cell(name.replace("_", " "))), shown, "; ".join(words), link(path))
