"""The section of a card on what a model is for and what is not known of it: facts of its files alone."""

import re
from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedModel

from .markdown import cell, link
from .results import Measured
from .sections import class_names, image_size


_SHOWN = 3
_NO_NAME = re.compile(r"LABEL_\d+")  # Transformers' own


def limits_section(
    model: PreTrainedModel, dataset: tuple[str, Path | None], base: str, swapped: bool, measured: Iterable[Measured]
) -> str:
    """What it sorts, at which size, trained on what, measured on what.

    Args:
        model: the model.
        dataset: what it was trained on, or "", and the file that says it.
        base: the model it was made from, or "".
        swapped: whether softmax was in the place of SimA before.
        measured: what the files of results say.
    """
    lines = []
    size, names = image_size(model.config), class_names(model)
    if names:
        what = f"images{f' of {size} px' if size else ''} into {len(names):,} classes{_some(names)}"
        lines.append(f"It is for sorting {what}; every image gets one of them (config.json).")
    elif size:
        lines.append(f"It is for images of {size} px (config.json).")
    if dataset[0]:
        lines.append(f"It was trained on {cell(dataset[0])}{f' ({link(dataset[1])})' if dataset[1] else ''}.")
    else:
        lines.append(
            f"No file here says what it was trained on{'; see the model that it was made from' if base else ''}."
        )
    files = list(dict.fromkeys(link(one.path) for one in measured if one.figures))
    if files:
        lines.append(
            f"It was measured on the images that Results names, and on no others that a file here tells of: {', '.join(files)}."
        )
    else:
        lines.append("No file here says how good its answers are.")
    if swapped:
        lines.append("How good the softmax model was is in no file here, so what the swap cost is not known.")
    lines.append("SimA's attention has signs, and its rows do not add up to 1: maps of it are no probabilities.")
    return "\n".join(["## Intended use and limits", "", *(f"- {line}" for line in lines)])


def _some(names: list[str]) -> str:
    """The first names of classes, if they are names."""
    if all(map(_NO_NAME.fullmatch, names)):
        return " without names"
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f": {', '.join(map(cell, names[:_SHOWN]))}{more}"
