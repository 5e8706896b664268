"""The model-index of a README and what was measured now: figures of earlier cards are renewed or go, the author's stay."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import PublishError
from .figures import METRIC_NAMES, shown_in
from .markdown import quoted


# An entry with more than these, such as a configuration or somebody's signature, is no repetition of ours.
_OURS = {"type", "value", "name"}
# Words that do not tell one name of the top-1 accuracy from another; its number does.
_ALIKE = re.compile(r"[^a-z0-9]+|top|accuracy|acc|eval|validation|test")


@dataclass(frozen=True)
class EarlierCard:
    """What tells the measurements that earlier cards of this package made from those of a README's author.

    Attributes:
        block: text of the README between this package's marks; "" if there is none.
        repo_id: "org/name" that the new card is for; None if it is not known.
        files: names of results files, as they stand in an address, that a card for it names now or may have named.
        read: those of them that are read now.
    """

    block: str = ""
    repo_id: str | None = None
    files: frozenset[str] = frozenset()
    read: frozenset[str] = frozenset()

    def made(self, result: Mapping, metric: Mapping) -> bool:
        """Whether a measurement is of an earlier card: the block shows it, whatever the repository was called then.

        Where the source is in this very repository, it need not have the value of the block. Without a block nothing is known to
        be ours but what names a file that is read now, and says otherwise.
        """
        if set(metric) != _OURS or metric["name"] not in METRIC_NAMES.values():
            return False
        here, file = self.is_here(result), _file(result)
        if not self.block:
            return here and file in self.read
        return shown_in(self.block, metric, result["dataset"], file, exact=not here)

    def is_here(self, result: Mapping) -> bool:
        """Whether a result's source is a file of results in this repository, on whichever branch."""
        if not self.repo_id or _file(result) not in self.files:
            return False
        return re.search(rf"(?:^|/){re.escape(self.repo_id)}/blob/.+/[^/]+$", _source(result) or "") is not None

    def named(self, name: Any) -> bool:
        """Whether a model's name is that of the repository or folder which the block loads."""
        place = rf'from_pretrained\("(?:[^"/\n]+/)?{re.escape(quoted(str(name))[1:])}'
        return re.search(place, self.block) is not None


def merged_index(theirs: Any, ours: list | None, earlier: EarlierCard) -> list | None:
    """One model-index of two: a measurement of ours takes the place of those it repeats or renews.

    Args:
        theirs: what the README has.
        ours: what was measured now; None for nothing.
        earlier: to know what an earlier card made.

    Returns:
        The new one; None if nothing is left.

    Raises:
        PublishError: the README's is not what it should be.
    """
    if not theirs:
        return ours or theirs
    new = ours[0]["results"] if ours else []
    name = ours[0]["name"] if ours else None
    keys = {_key(result, metric) for result in new for metric in result["metrics"]}
    index, emptied = [], []
    try:
        named = name in [model.get("name") for model in theirs]
        for model in theirs:
            before = model.get("results") or []
            kept = [one for result in before if (one := _kept(result, keys, earlier)) is not None]
            bare = not kept and set(model) == {"name", "results"}
            if bare and earlier.named(model["name"]):
                # All of it is ours, its name, too.
                if not new or (named and model["name"] != name):
                    continue
                model, named = {**model, "name": name}, True
            index.append(model if kept == before else {**model, "results": kept})
            if bare and before:
                emptied.append(index[-1])
    except (AttributeError, KeyError, TypeError) as error:
        raise PublishError(
            "The model-index of README.md should be a list of models with `name` and `results`, each of these with `task`, "
            f"`dataset` and `metrics`; it is not ({type(error).__name__}: {error}). Mend it or remove it."
        ) from error
    if new and index:
        place = next((number for number, model in enumerate(index) if model.get("name") == name), 0)
        index[place] = {**index[place], "results": [*(index[place].get("results") or []), *new]}
    # A name without results, whoever gave it, would say nothing.
    return [model for model in index if not any(model is one for one in emptied)] or ours


def _kept(result: Mapping, keys: set, earlier: EarlierCard) -> Mapping | None:
    """A result without what is measured anew or was ours; None if nothing of it stays."""
    metrics = result.get("metrics") or []
    kept = [metric for metric in metrics if not _gives_way(result, metric, keys, earlier)]
    if kept == metrics:
        return result
    return {**result, "metrics": kept} if kept else None


def _gives_way(result: Mapping, metric: Mapping, keys: set, earlier: EarlierCard) -> bool:
    """Whether a measurement in the README goes: an earlier card of ours made it, or the same was made now.

    The latter for what names a file of this repository, or nothing where no card of ours was yet; beside one, it is the author's.
    """
    again = _key(result, metric) in keys and set(metric) <= _OURS
    nowhere = _source(result) is None and not earlier.block
    return (again and (nowhere or earlier.is_here(result))) or earlier.made(result, metric)


def _key(result: Mapping, metric: Mapping) -> tuple:
    """What is measured: task, data and metric; top-1 and top-5 are one type, so the name tells them apart."""
    data = result["dataset"]
    return (
        result["task"]["type"],
        re.sub(r"[^a-z0-9]+", "-", str(data.get("type")).lower()),  # "scikit-learn digits" is scikit-learn-digits
        *(data.get(part) for part in ("config", "split", "revision")),
        metric["type"],
        _ALIKE.sub("", str(metric.get("name") or "").lower()) or "1",
    )


def _source(result: Mapping) -> str | None:
    """The address that a result was taken from."""
    url = (result.get("source") or {}).get("url")
    return None if url is None else str(url)


def _file(result: Mapping) -> str | None:
    """The last part of that address."""
    source = _source(result)
    return None if source is None else source.rpartition("/")[2]
