"""The speed table of a card, from the CSV that `sima-hf bench model` writes."""

from pathlib import Path
from typing import Any

from ...bench.attention_report import read_csv
from ...errors import PublishError
from ...folders.file_names import is_benchmark
from ...folders.local_paths import shown_place


_TITLES = {"softmax": "softmax", "literal": "SimA's formula as written", "sima": "SimA", "none": "no attention"}


def speed_table(path: Path, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """Medians in milliseconds, and where and with what they were measured.

    Args:
        path: the CSV.
        names: what the model of the card is called; "other_model" says whether another one was timed.

    Raises:
        PublishError: the file is none of `sima-hf bench model`.
    """
    rows = read_csv(path) if is_benchmark(path) else []
    table: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}
    for row in rows:
        table.setdefault((row["mode"], row["batch"], row["pixels"]), {})[row["contestant"]] = row
    contestants = list(dict.fromkeys(row["contestant"] for row in rows))
    try:
        shown = [
            {
                "mode": "training step" if mode == "train" else mode,
                "batch": batch,
                "pixels": pixels,
                "times": [float(here[name]["median_ms"]) if name in here else None for name in contestants],
                "factor": 1 / float(here["sima"]["ratio_to_baseline"]),
            }
            for (mode, batch, pixels), here in table.items()
        ]
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise PublishError(
            f"{path} is not as `sima-hf bench model` leaves it ({type(error).__name__}: {error}). Measure again."
        ) from error
    if not shown:
        raise PublishError(f"{path} must be a CSV with rows of `sima-hf bench model`. Measure again, or leave it out.")

    def of(column: str) -> str:
        return ", ".join(dict.fromkeys(row[column] for row in rows if row.get(column)))

    versions = [f"{name} {of(name)}" for name in ("torch", "transformers", "sima_hf") if of(name)]
    revision = f"commit {of('revision')}" if of("revision") else ""
    return {
        "contestants": [_TITLES.get(name, name) for name in contestants],
        "rows": shown,
        "model": shown_place(of("model")),
        "compiled": {row.get("compiled") for row in rows} == {"True"},
        "conditions": list(filter(None, (of("dtype"), of("device"), *versions, revision))),
        "baseline": _TITLES.get(of("baseline"), of("baseline")),
        "file": path,
        "other_model": not {row["model"].rstrip("/") for row in rows} & set(names),
    }
