"""The front matter of a card: what its author wrote wins, and the measurements of this package are written anew.

A measurement is of this package if its source is a file of this repository, or if the state of the card has its digest.
"""

from collections.abc import Callable, Mapping
from typing import Any

from .readme import digest


METRICS = {
    "accuracy": "Top-1 accuracy",
    "top_5_accuracy": "Top-5 accuracy",
}  # figure of a results file -> its name here
WRITTEN_METRICS = ["accuracy"]  # what a card of this package lists as metrics, where it has figures
_LISTS = ("tags", "metrics", "datasets")


def merged_data(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], state: Mapping[str, Any], repo_id: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Front matter of both.

    Args:
        theirs: what is there. Its entries win, lists are joined, and measurements of this package are replaced.
        ours: what was made from the facts.
        state: what the card that is there says of itself.
        repo_id: "org/name" that the card is for; None if it is not known.

    Returns:
        The front matter, and what the state is to say of the measurements in it.
    """
    merged = dict(theirs)
    for name, value in ours.items():
        if name in _LISTS:
            said = as_list(theirs.get(name))
            merged[name] = [*said, *(one for one in value if one not in said)]
        elif merged.get(name) in (None, ""):
            merged[name] = value

    known = state.get("results", ())

    def is_ours(result: Mapping, metric: Mapping) -> bool:
        source = (result.get("source") or {}).get("url") or ""
        here = repo_id and f"/{repo_id}/blob/" in f"/{source}" and metric.get("name") in METRICS.values()
        return bool(here) or digest({**result, "metrics": [metric]}) in known

    new = ours.get("model-index", [])
    index = _merged_index(theirs.get("model-index") or [], new, is_ours, state.get("model"))
    if index:
        merged["model-index"] = index
    elif merged.get("model-index"):
        del merged["model-index"]
        if as_list(theirs.get("metrics")) == WRITTEN_METRICS:
            del merged["metrics"]  # with the last figure that it was written for
    if not new:
        return merged, {}
    single = [{**result, "metrics": [metric]} for result in new[0]["results"] for metric in result["metrics"]]
    return merged, {"model": new[0]["name"], "results": [digest(one) for one in single]}


def as_list(value: Any) -> list:
    """An entry that may be one thing or a list of several, as a list."""
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def _merged_index(
    theirs: list[Mapping], ours: list[Mapping], is_ours: Callable[[Mapping, Mapping], bool], before: str | None
) -> list[Mapping]:
    """The README's models without the measurements of this package, and with those of `ours` where these were."""
    index = [{**model, "results": [_without(one, is_ours) for one in model["results"]]} for model in theirs]
    index = [{**model, "results": [one for one in model["results"] if one is not None]} for model in index]
    if ours:
        home = next((place for place, model in enumerate(index) if model != theirs[place]), 0)
        there = index[home] if index else ours[0] | {"results": []}
        name = ours[0]["name"] if there["name"] == before else there["name"]
        index[home : home + 1] = [{**there, "name": name, "results": [*there["results"], *ours[0]["results"]]}]
    return [model for model in index if model["results"] or model in theirs]


def _without(result: Mapping, is_ours: Callable[[Mapping, Mapping], bool]) -> Mapping | None:
    """A result without the metrics that are ours; None if nothing of it stays."""
    kept = [metric for metric in result["metrics"] if not is_ours(result, metric)]
    return result if kept == result["metrics"] else {**result, "metrics": kept} if kept else None
