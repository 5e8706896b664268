"""The front matter of a card: what its author wrote wins, and the measurements of this package are written anew.

A measurement is of this package if its source is a file of this repository, or if the state of the card has its digest.
"""

import re
from collections.abc import Mapping
from typing import Any

from ...errors import PublishError
from .readme import Readme, digest


METRICS = {
    "accuracy": "Top-1 accuracy",
    "top_5_accuracy": "Top-5 accuracy",
}  # figure of a results file -> its name here
WRITTEN_METRICS = ["accuracy"]  # what a card of this package lists as metrics, where it has figures
_LISTS = ("tags", "metrics", "datasets")
_PLAIN = {"type", "value", "name"}  # a measurement with other entries, such as a signature, is its author's


def merged_data(readme: Readme, ours: Mapping[str, Any], repo_id: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Front matter of both.

    Args:
        readme: what is there. Its entries win, lists are joined, and what `readme.state` calls ours is replaced.
        ours: what was made from the facts.
        repo_id: "org/name" that the card is for; None if it is not known.

    Returns:
        The front matter, and what the state is to say of the measurements in it.

    Raises:
        PublishError: the README's model-index is not what it should be.
    """
    theirs = readme.data
    merged = dict(theirs)
    for name, value in ours.items():
        if name in _LISTS:
            said = _listed(theirs.get(name))
            merged[name] = [*said, *(one for one in value if one not in said)]
        elif name != "model-index" and merged.get(name) in (None, ""):
            merged[name] = value
    said = theirs.get("base_model")
    if said and said != ours.get("base_model") and "base_model_relation" not in theirs:
        merged.pop("base_model_relation", None)  # it was to another base model than theirs
    new = ours.get("model-index") or []
    index = _merged_index(theirs.get("model-index"), new, readme, repo_id)
    merged.pop("model-index", None)
    if index or ("model-index" in theirs and index == theirs["model-index"]):
        merged["model-index"] = index
    elif "metrics" not in ours and _listed(theirs.get("metrics")) == WRITTEN_METRICS and theirs.get("model-index"):
        merged.pop("metrics")  # with the last figure that it was written for
    state = {"model": new[0]["name"], "results": [digest(one) for one in _single(new[0]["results"])]} if new else {}
    return merged, state


def _listed(value: Any) -> list:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def _merged_index(theirs: Any, ours: list, readme: Readme, repo_id: str | None) -> Any:
    """The README's model-index without the measurements of this package, and with those of `ours` in it."""
    if not theirs:
        return ours or theirs
    new = ours[0]["results"] if ours else []
    again = {_what(one) for one in _single(new)} if not readme.has_block else set()
    known = set(map(str, readme.state.get("results", ())))

    def is_ours(one: Mapping) -> bool:
        (metric,) = one["metrics"]
        if not set(metric) <= _PLAIN:
            return False
        source = str((one.get("source") or {}).get("url") or "")
        here = repo_id and re.search(rf"(?:^|/){re.escape(repo_id)}/blob/.+", source)
        named = metric.get("name") in METRICS.values()
        return digest(one) in known or bool(here and named) or (not source and _what(one) in again)

    index, home = [], None
    try:
        for model in theirs:
            before = model.get("results") or []
            kept = [left for one in before if (left := _without(one, is_ours)) is not None]
            if kept or not before:
                index.append(model if kept == before else {**model, "results": kept})
            elif home is None and ours:  # all of it was ours, and its name, too, unless somebody gave it another
                home = len(index)
                name = ours[0]["name"] if model["name"] == readme.state.get("model") else model["name"]
                index.append({**model, "name": name, "results": []})
    except (AttributeError, KeyError, TypeError) as error:
        raise PublishError(
            "The model-index of README.md must be a list of models with `name` and `results`, each of these with `task`, `dataset` "
            f"and `metrics` ({type(error).__name__}: {error}). Correct it or remove it."
        ) from error
    if not new:
        return index
    if home is None:
        home = next((place for place, model in enumerate(index) if model.get("name") == ours[0]["name"]), 0)
    if not index:
        return ours
    index[home] = {**index[home], "results": [*(index[home].get("results") or []), *new]}
    return index


def _single(results: list) -> list[dict]:
    """Results of one metric each."""
    return [{**one, "metrics": [metric]} for one in results for metric in one["metrics"]]


def _without(result: Mapping, is_ours: Any) -> Mapping | None:
    """A result without the metrics that are ours; None if nothing of it stays."""
    metrics = result.get("metrics") or []
    kept = [metric for metric in metrics if not is_ours({**result, "metrics": [metric]})]
    return result if kept == metrics else {**result, "metrics": kept} if kept else None


def _what(one: Mapping) -> tuple:
    """What is measured: task, data and metric, as Trainer's and the quickstart's own cards say it without a source."""
    data, (metric,) = one["dataset"], one["metrics"]
    kind = re.sub(r"[^a-z0-9]+", "-", str(data.get("type")).lower())
    name = metric.get("name")
    top = "1" if name in (None, "Accuracy", "accuracy", METRICS["accuracy"]) else name
    return (one["task"]["type"], kind, data.get("config"), data.get("split"), metric["type"], top)
