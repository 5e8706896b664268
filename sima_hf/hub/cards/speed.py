"""The speed table of a card, from the CSV that `sima-hf bench model` writes."""

from pathlib import Path
from typing import Any

from ...bench.tables import read_csv
from ...errors import PublishError
from ...folders.file_names import is_benchmark
from ...folders.local_paths import shown_place


_TITLES = {"softmax": "softmax", "literal": "SimA's formula as written", "sima": "SimA", "none": "no attention"}


def speed_table(path: Path, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """Medians in milliseconds by mode, batch and pixels, and the CSV's own rows, which say where and with what they were measured.

    Args:
        path: the CSV.
        names: what the model of the card is called; "other_model" says whether another one was timed.

    Raises:
        PublishError: the file is none of `sima-hf bench model`.
    """
    rows = read_csv(path) if is_benchmark(path) else []
    if not rows:
        raise PublishError(f"{path} must be a CSV with rows of `sima-hf bench model`. Measure again, or leave it out.")
    table: dict[tuple[str, str, str], dict[str, float]] = {}
    factors: dict[tuple[str, str, str], float] = {}
    try:
        for row in rows:
            size = (row["mode"], row["batch"], row["pixels"])
            table.setdefault(size, {})[row["contestant"]] = float(row["median_ms"])
            if row["contestant"] == "sima":
                factors[size] = 1 / float(row["ratio_to_baseline"])
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise PublishError(f"{path} is not as `sima-hf bench model` leaves it: {error}. Measure again.") from error
    return {
        "file": path,
        "rows": rows,
        "contestants": {name: _TITLES.get(name, name) for name in dict.fromkeys(row["contestant"] for row in rows)},
        "table": table,
        "factors": factors,
        "baseline": _TITLES.get(rows[0]["baseline"], rows[0]["baseline"]),
        "model": shown_place(rows[0]["model"]),
        "other_model": rows[0]["model"].rstrip("/") not in names,
    }
