"""The speed table of a card, from the CSV that `sima-hf bench model` writes."""

import math
from pathlib import Path
from typing import Any

from ...bench.attention_report import read_csv
from ...errors import PublishError
from ...folders.file_names import is_benchmark
from ...folders.local_paths import shown_place


_TITLES = {"softmax": "softmax", "literal": "SimA's formula as written", "sima": "SimA", "none": "no attention"}


def speed_table(path: Path, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """A table of medians, and where and with what they were measured.

    Args:
        path: the CSV.
        names: what the model of the card is called; "other_model" says whether another one was timed.

    Raises:
        PublishError: the file is missing, is none of `sima-hf bench model`, or has impossible times.
    """
    if not path.is_file():
        raise PublishError(f"There is no file of times {path}.")
    if not is_benchmark(path):
        raise PublishError(
            f"{path} is not a CSV that `sima-hf bench model` wrote: it lacks columns such as median_ms."
        )
    table: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}
    rows = read_csv(path)
    for row in rows:
        for name in ("median_ms", "ratio_to_baseline"):
            if not _positive(row[name]):
                raise PublishError(f"{path}: {name} must be a number above 0, got {row[name]!r}. Measure again.")
        table.setdefault((row["mode"], row["batch"], row["pixels"]), {})[row["contestant"]] = row
    if not table or not all("sima" in here for here in table.values()):
        raise PublishError(
            f"{path} has no row with SimA for each mode, batch and size. Measure again with `sima-hf bench model`."
        )
    contestants = list(dict.fromkeys(row["contestant"] for row in rows))

    def of(column: str) -> str:
        return ", ".join(dict.fromkeys(row[column] for row in rows if row.get(column)))

    versions = [f"{name} {of(name)}" for name in ("torch", "transformers", "sima_hf") if of(name)]
    return {
        "contestants": [_TITLES.get(name, name) for name in contestants],
        "rows": [
            {
                "mode": "training step" if mode == "train" else mode,
                "batch": batch,
                "pixels": pixels,
                "times": [_milliseconds(here[name]["median_ms"]) if name in here else "" for name in contestants],
                "factor": f"{1 / float(here['sima']['ratio_to_baseline']):.2f}",
            }
            for (mode, batch, pixels), here in table.items()
        ],
        "model": shown_place(of("model")),
        "compiled": {row.get("compiled") for row in rows} == {"True"},
        "conditions": [
            one
            for one in (of("dtype"), of("device"), *versions, f"commit {of('revision')}" if of("revision") else "")
            if one
        ],
        "baseline": _TITLES.get(of("baseline"), of("baseline")),
        "file": path,
        "other_model": not {row["model"].rstrip("/") for row in rows} & set(names),
    }


def _positive(text: str | None) -> bool:
    try:
        return math.isfinite(float(text)) and float(text) > 0
    except (TypeError, ValueError):
        return False


def _milliseconds(text: str) -> str:
    """Three digits that count; a CSV has five or so."""
    value = float(text)
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"
