"""The speed table of a card, from the CSV that `sima-hf bench model` left."""

import math
from pathlib import Path

from ...bench.attention_report import read_csv
from ...errors import PublishError
from ...folders.file_names import is_benchmark
from ...folders.local_paths import shown_place
from .markdown import cell, code, link


_MEDIANS = "Medians, the contestants in turn, on"
_TITLES = {"softmax": "softmax", "literal": "SimA's formula as written", "sima": "SimA", "none": "no attention"}


def speed_table(path: Path, names: tuple[str, ...] = ()) -> list[str]:
    """The lines of a Markdown table of medians, and below it where and with what they were measured.

    Args:
        path: the CSV.
        names: what the model of the card is called; if another one was timed, a sentence says so.

    Raises:
        PublishError: the file is missing, is none of `sima-hf bench model`, or has times that cannot be.
    """
    if not path.is_file():
        raise PublishError(f"There is no file of times {path}.")
    if not is_benchmark(path):
        raise PublishError(
            f"{path} is not a CSV that `sima-hf bench model` wrote: it lacks columns such as median_ms."
        )
    rows = read_csv(path)
    contestants = list(dict.fromkeys(row["contestant"] for row in rows))
    if "sima" not in contestants:
        raise PublishError(f"{path} has no row with SimA; measure again with `sima-hf bench model`.")
    for row in rows:
        _check(path, row)
    compiled = {row.get("compiled") for row in rows} == {"True"}
    head = ["mode", "batch", "pixels", *(_TITLES.get(name, cell(name)) for name in contestants), "SimA is faster"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    for key in dict.fromkeys((row["mode"], row["batch"], row["pixels"]) for row in rows):
        here = {row["contestant"]: row for row in rows if (row["mode"], row["batch"], row["pixels"]) == key}
        if "sima" not in here:
            raise PublishError(
                f"{path} has no row with SimA for {key[0]}, batch {key[1]}, {key[2]} px; measure again."
            )
        times = [_milliseconds(here[name]["median_ms"]) if name in here else "" for name in contestants]
        factor = 1 / float(here["sima"]["ratio_to_baseline"])
        mode = {"train": "training step"}.get(key[0], key[0])
        lines.append(f"| {cell(mode)} | {cell(key[1])} | {cell(key[2])} | {' | '.join(times)} | {factor:.2f} times |")
    timed = {row["model"].rstrip("/") for row in rows}
    other = "" if timed & set(names) else " Timed was the model named here, not the weights in this repository."
    return [*lines, "", _conditions(path, rows, compiled) + other]


def _milliseconds(text: str) -> str:
    """Three digits that count; a CSV has five or so."""
    value = float(text)
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _conditions(path: Path, rows: list[dict[str, str]], compiled: bool) -> str:
    """One sentence on model, machine and versions; where rows differ, all that occur."""

    def of(column: str) -> str:
        return ", ".join(dict.fromkeys(row[column] for row in rows if row.get(column)))

    settings = [
        code(shown_place(of("model"))),
        cell(of("dtype")),
        cell(of("device")),
    ]
    settings += [f"{name} {cell(of(name))}" for name in ("torch", "transformers", "sima_hf") if of(name)]
    if of("revision"):
        settings.append(f"commit {cell(of('revision'))}")
    if compiled:
        settings.insert(1, "compiled")
    baseline = _TITLES.get(of("baseline"), cell(of("baseline")))
    return f"{_MEDIANS} {', '.join(one for one in settings if one)}. Faster than: {baseline}. {link(path)}"


def _check(path: Path, row: dict[str, str]) -> None:
    for name in ("median_ms", "ratio_to_baseline"):
        try:
            value = float(row[name])
        except (TypeError, ValueError):
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise PublishError(f"{path} has {row[name]!r} as {name}, where a number above 0 should be. Measure again.")
