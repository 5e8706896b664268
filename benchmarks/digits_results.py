"""The results files of `compare_digits.py` and `calibrate_digits.py`, which have one form: runs of models with several seeds."""

import json
from pathlib import Path


def read(path: Path) -> dict:
    """The results in a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def runs_of(results: dict, model: str) -> list[dict]:
    """All seeds of one model."""
    return [run for run in results["runs"] if run["model"] == model]


def count_seeds(results: dict) -> int:
    """With how many seeds the models ran."""
    return len({run["seed"] for run in results["runs"]})


def conditions(results: dict) -> str:
    """Machine and versions, for a title or a sentence."""
    return f"{results['device']}, torch {results['torch']}, transformers {results['transformers']}"


def figure_title(results: dict, what: str) -> str:
    """What a picture shows, on which data, with how many seeds, and where it was measured."""
    return f"{what} {results['data']}\n{count_seeds(results)} seeds: mean, and range from least to most; {conditions(results)}"
