"""A card that is there already and the one that was made: what its author wrote stays, what was measured is brought up to date."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import yaml_dump

from ...errors import PublishError
from .model_index import EarlierCard, merged_index


START, END = "<!-- sima_hf:start -->", "<!-- sima_hf:end -->"
WRITTEN_METRICS = ["accuracy"]  # what a card of this package lists, where it has figures
# What PyYAML raises, besides its own errors, at a value that looks like a date or a number and is none.
_NO_VALUE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


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

    @property
    def block(self) -> str:
        """What is between the marks; "" without them."""
        return self.body.partition(START)[2].partition(END)[0]


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
    node = None
    try:
        node = yaml.compose(front, Loader=yaml.SafeLoader)
        data = yaml.safe_load(front)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 2}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise PublishError(
            f"The front matter of README.md is not YAML{where}: {problem}. Mend it; nothing of it is thrown away."
        ) from error
    except _NO_VALUE as error:
        raise PublishError(
            f"The front matter of README.md has a value that YAML cannot read{_where(node)}: {error}. Mend it, or put it in "
            "quotes if it is a text; nothing of it is thrown away."
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise PublishError(
            f"The front matter of README.md should have lines of `name: value`, but it is a {type(data).__name__}. Mend it."
        )
    odd = [name for name in data if not isinstance(name, str)]
    if odd:
        places = [
            f" in line {key.start_mark.line + 2} (`{key.value}`)"
            for key, _ in node.value
            if _read_as(key) == repr(odd[0])
        ]
        raise PublishError(
            f"The front matter of README.md has {odd[0]!r} as a name{''.join(places[:1])}, as YAML reads it, where text should be. "
            "Put it in quotes, or remove it; nothing of it is thrown away."
        )
    return data


def _read_as(node: yaml.Node) -> str | None:
    """What YAML makes of a part of a text; None if it is nothing by itself."""
    try:
        return repr(yaml.constructor.SafeConstructor().construct_document(node))
    except (*_NO_VALUE, yaml.YAMLError):
        return None


def _where(node: yaml.Node | None) -> str:
    """In words, the first of the top-level entries whose value cannot be read."""
    entries = node.value if isinstance(node, yaml.MappingNode) else ()
    marks = [f", `{key.value}` in line {key.start_mark.line + 2}" for key, value in entries if _read_as(value) is None]
    return "".join(marks[:1])


def merged_data(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], earlier: EarlierCard | None = None
) -> dict[str, Any]:
    """Front matter of both: the README's entries win, lists of tags, metrics and data sets are joined, measurements are ours.

    Args:
        theirs: what the README has.
        ours: what was made from the facts.
        earlier: what tells those measurements in it that an earlier card of this package made; None if there was none.

    Raises:
        PublishError: the README's model-index is not what it should be.
    """
    merged = dict(theirs)
    for name, value in ours.items():
        if name == "model-index":
            continue
        if name in ("tags", "metrics", "datasets"):
            said = _listed(theirs.get(name))
            merged[name] = [*said, *(one for one in value if one not in said)]
        elif merged.get(name) in (None, ""):
            merged[name] = value
    said = theirs.get("base_model")
    if said and said != ours.get("base_model") and "base_model_relation" not in theirs:
        merged.pop("base_model_relation", None)  # it was to another base model than theirs
    index = merged_index(theirs.get("model-index"), ours.get("model-index"), earlier or EarlierCard())
    if index is None:
        if theirs.get("model-index") and "metrics" not in ours and _listed(theirs.get("metrics")) == WRITTEN_METRICS:
            merged.pop("metrics")  # with the last figure that it was written for
        return {name: value for name, value in merged.items() if name != "model-index" or value is None}
    return {**merged, "model-index": index}


def _listed(value: Any) -> list:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


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
