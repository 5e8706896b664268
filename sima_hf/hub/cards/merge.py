"""A card that is there already and the one that was made: what its author wrote stays, what was measured is brought up to date."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import yaml_dump

from ...errors import PublishError


START, END = "<!-- sima_hf:start -->", "<!-- sima_hf:end -->"

# Names of the metrics that cards of this package have, by which an entry without a source is known again.
METRIC_NAMES = {"accuracy": "Top-1 accuracy", "top_5_accuracy": "Top-5 accuracy"}


@dataclass(frozen=True)
class Readme:
    """A README in its parts.

    Attributes:
        data: the front matter; {} if there is none.
        front: its text, lines ending in "\\n"; None if there is none.
        body: what comes after it, as it stands.
        newline: how its lines end.
    """

    data: dict[str, Any]
    front: str | None
    body: str
    newline: str

    @property
    def has_block(self) -> bool:
        """Whether a block of this package is in it."""
        return START in self.body


def read_readme(text: str | None) -> Readme:
    """Take a README apart, as the Hub does.

    Raises:
        PublishError: front matter that is no YAML, no mapping or has no end, or marks that do not come as one pair.
    """
    text = (text or "").removeprefix("\ufeff")
    newline = "\r\n" if "\r\n" in text else "\n"
    match = REGEX_YAML_BLOCK.search(text)
    if match is None:
        opening = re.match(r"\s*---[ \t]*\r?\n[ \t]*[\w-]+[ \t]*:", text)
        if opening:
            raise PublishError(
                "README.md begins with front matter (a line of three dashes) that has no end. Close it with another such line."
            )
        data, front, body = {}, None, text
    else:
        front, body = match.group(2).replace("\r\n", "\n"), text[match.end() :]
        data = _mapping(front)
    starts, ends = body.count(START), body.count(END)
    if (starts, ends) not in ((0, 0), (1, 1)) or body.find(START) > body.find(END):
        raise PublishError(
            f"README.md has {starts} marks {START} and {ends} marks {END}, where one pair in this order should be. Remove what "
            "is too much; the text between them is written anew."
        )
    return Readme(data, front, body, newline)


def _mapping(front: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(front)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 2}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise PublishError(
            f"The front matter of README.md is not YAML{where}: {problem}. Mend it; nothing of it is thrown away."
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise PublishError(
            f"The front matter of README.md should have lines of `name: value`, but it is a {type(data).__name__}. Mend it."
        )
    return data


def merged_data(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], places: Iterable[str] = (), renews: bool = False
) -> dict[str, Any]:
    """Front matter of both: the README's entries win, lists of tags, metrics and data sets are joined, measurements are ours.

    Args:
        theirs: what the README has.
        ours: what was made from the facts.
        places: ends of the addresses that a measurement of this package may name as its source, now or earlier, such as
            "org/model/blob/main/evaluation.json".
        renews: whether the README has a block of an earlier time, whose measurements are replaced by these.

    Raises:
        PublishError: the README's model-index is not what it should be.
    """
    merged = dict(theirs)
    for name, value in ours.items():
        if name == "model-index":
            continue
        if name in ("tags", "metrics", "datasets"):
            merged[name] = list(dict.fromkeys([*_listed(theirs.get(name)), *value]))
        elif merged.get(name) in (None, ""):
            merged[name] = value
    said = theirs.get("base_model")
    if said and said != ours.get("base_model") and "base_model_relation" not in theirs:
        merged.pop("base_model_relation", None)  # it was to another base model than theirs
    index = _merged_index(theirs.get("model-index"), ours.get("model-index"), tuple(places), renews)
    if index is not None:
        merged["model-index"] = index
    return merged


def _listed(value: Any) -> list:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def _merged_index(theirs: Any, ours: list | None, places: tuple[str, ...], renews: bool) -> list | None:
    """One model-index of two: a measurement of ours takes the place of those it repeats or renews."""
    if not theirs:
        return ours if ours else theirs
    new = ours[0]["results"] if ours else []
    keys = {_key(result, metric) for result in new for metric in result["metrics"]}
    index = []
    try:
        for model in theirs:
            results = []
            for result in model.get("results") or []:
                source = _source(result)
                kept = [
                    metric
                    for metric in result.get("metrics") or []
                    if not _replaced(_key(result, metric), metric, source, keys, places, renews)
                ]
                if kept:
                    results.append({**result, "metrics": kept})
            index.append({**model, "results": results})
    except (AttributeError, KeyError, TypeError) as error:
        raise PublishError(
            "The model-index of README.md should be a list of models with `name` and `results`, each of these with `task`, "
            f"`dataset` and `metrics`; it is not ({type(error).__name__}: {error}). Mend it or remove it."
        ) from error
    if new:
        named = [model for model in index if model.get("name") == ours[0]["name"]]
        place = named[0] if named else index[0]
        place["results"] = [*place["results"], *new]
    return index


def _replaced(key: tuple, metric: Mapping, source: str | None, keys: set, places: tuple, renews: bool) -> bool:
    """Whether a measurement in the README gives way: to the same one made now, or because an earlier card of ours made it."""
    if source is None:
        return key in keys or (renews and metric.get("name") in METRIC_NAMES.values())
    source = re.sub(r"/blob/.+/(?=[^/]+$)", "/blob/main/", source)  # a branch's card may have been merged into another
    return source.endswith(places) and (key in keys or metric.get("name") in METRIC_NAMES.values())


def _key(result: Mapping, metric: Mapping) -> tuple:
    """What is measured: task, data and metric; top-1 and top-5 are one type, so the name tells them apart."""
    data = result["dataset"]
    name = str(metric.get("name") or "").lower()
    return (
        result["task"]["type"],
        re.sub(r"[^a-z0-9]+", "-", str(data.get("type")).lower()),  # "scikit-learn digits" is scikit-learn-digits
        *(data.get(part) for part in ("config", "split", "revision")),
        metric["type"],
        "5" if "5" in name else "1",
    )


def _source(result: Mapping) -> str | None:
    """The address that a result was taken from."""
    url = (result.get("source") or {}).get("url")
    return None if url is None else str(url)


def front_matter(readme: Readme, data: Mapping[str, Any]) -> str:
    """The front matter's text: entries that stay keep their wording, order and comments, others are written anew."""
    if readme.front is None or not readme.data:
        text = f"{readme.front}\n{_dump(data)}" if readme.front and readme.front.strip() else _dump(data)
        return text if _means(text, data) else _dump(data)
    changed = {name: value for name, value in data.items() if name not in readme.data or readme.data[name] != value}
    changed |= {name: None for name in readme.data if name not in data}
    if not changed:
        return readme.front
    text = _with_entries(readme.front, changed, data)
    return text if text is not None and _means(text, data) else _dump(data)


def _with_entries(front: str, changed: Mapping[str, Any], data: Mapping[str, Any]) -> str | None:
    """The text with some top-level entries exchanged, taken out or added at the end; None where lines are not entries."""
    node = yaml.compose(front, Loader=yaml.SafeLoader)
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        return None
    lines = front.split("\n")
    firsts = [(key.value, key.start_mark.line, value.end_mark) for key, value in node.value]
    written, done = lines[: firsts[0][1]], set()
    for number, (name, first, end) in enumerate(firsts):
        following = firsts[number + 1][1] if number + 1 < len(firsts) else len(lines)
        if name not in changed:
            written += lines[first:following]
            continue
        # Comments and blank lines after an entry belong to what follows.
        last = min(following, end.line + (1 if end.column else 0))
        if name in data and name not in done:
            written += _dump({name: data[name]}).split("\n")
            done.add(name)
        written += [line for line in lines[last:following] if not line.strip() or line.lstrip().startswith("#")]
    while written and not written[-1].strip():
        written.pop()
    rest = {name: data[name] for name in changed if name in data and name not in done}
    return "\n".join(written + (_dump(rest).split("\n") if rest else []))


def _dump(data: Mapping[str, Any]) -> str:
    return yaml_dump(dict(data), sort_keys=False).strip("\n")


def _means(text: str, data: Mapping[str, Any]) -> bool:
    try:
        return yaml.safe_load(text) == dict(data)
    except yaml.YAMLError:
        return False


def merged_body(readme: Readme, block: str) -> str:
    """The body with the block in it: in its place if it has one, else at the end."""
    text = f"{START}\n{block.strip()}\n{END}".replace("\n", readme.newline)
    if readme.has_block:
        before, after = readme.body.partition(START)[0], readme.body.partition(END)[2]
        return before + text + after
    own = readme.body.rstrip()
    if not own.strip():
        return readme.newline + text + readme.newline
    lead = "" if own.startswith(("\n", "\r")) or readme.front is not None else readme.newline
    return f"{lead}{own}{readme.newline * 2}{text}{readme.newline}"


def around_block(readme: Readme) -> str:
    """The author's part of the body: all but the block."""
    if not readme.has_block:
        return readme.body.strip()
    return (readme.body.partition(START)[0] + readme.body.partition(END)[2]).strip()
