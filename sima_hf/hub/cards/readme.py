"""The README of a repository: front matter, its author's text, and one block between two marks that is written by this package.

What later cards need to know of this one is JSON in a comment of the block, its state:

    results   digests of the measurements in the front matter that are from this package
    model     the name that they stand under in the model-index
    files     files that the figures on the card come from
    front     entries of the front matter that sima_provenance.json gave
    pushed    digests of the text around the block and of the folder's README, to see later which of the two was edited
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import yaml_dump

from ...errors import PublishError


START, END = "<!-- sima_hf:start -->", "<!-- sima_hf:end -->"
_STATE = re.compile(r"<!-- sima_hf:state (\{.*\}) -->\r?\n")
_STATE_TYPES = {"results": list, "model": str, "files": list, "front": dict, "pushed": list}
_PUSH_TO_HUB = (
    "This is the model card of a 🤗 transformers model that has been pushed on the Hub. "
    "This model card has been automatically generated."
)
_TRAINER = re.compile(  # its comment, the first of its empty sections, and nothing after its last list
    r"\s*<!-- This model card has been generated automatically .*?then remove this comment\. -->.*"
    r"(\n## [^\n]+\n+More information needed\n){3}.*\n### Framework versions\n+(- [^\n]*\n*)+\s*",
    flags=re.DOTALL,
)


@dataclass(frozen=True)
class Readme:
    """A README in its parts.

    Attributes:
        data: the front matter; {} without one.
        front: its text, lines ending in "\\n"; None without one.
        body: what comes after it, unchanged.
        newline: how its lines end.
        state: what the block says of itself; {} without a block.
    """

    data: dict[str, Any]
    front: str | None
    body: str
    newline: str
    state: dict[str, Any]

    @property
    def has_block(self) -> bool:
        """Whether a block of this package is in it."""
        return START in self.body

    @property
    def own(self) -> str:
        """The author's part of the body: all but the block."""
        return (
            (self.body.partition(START)[0] + self.body.partition(END)[2]).strip()
            if self.has_block
            else self.body.strip()
        )

    @property
    def around(self) -> str:
        """All but the block, the front matter included, whatever the line endings."""
        return f"{(self.front or '').strip()}\n\n{_lines(self.own)}"


def read_readme(text: str | None) -> Readme:
    """Take a README apart, as the Hub does.

    Raises:
        PublishError: the front matter is no YAML mapping of names or has no end, or the marks are not one pair.
    """
    text = (text or "").removeprefix("\ufeff")
    match = REGEX_YAML_BLOCK.search(text)
    if match is None and re.match(r"\s*---[ \t]*\r?\n[ \t]*[\w-]+[ \t]*:", text):
        raise PublishError("The front matter of README.md has no end. Close it with a line of three dashes.")
    front = match.group(2).replace("\r\n", "\n") if match else None
    body = text[match.end() :] if match else text
    if (body.count(START), body.count(END)) not in ((0, 0), (1, 1)) or body.find(START) > body.find(END):
        raise PublishError(
            f"README.md must have one pair of marks {START} and {END}, or none, got {body.count(START)} and {body.count(END)}. "
            "Remove the others; the text between the marks is rewritten."
        )
    block = body.partition(START)[2].partition(END)[0]
    return Readme(_mapping(front or ""), front, body, "\r\n" if "\r\n" in text else "\n", _state(block))


def _mapping(front: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(f"\n{front}")  # the dashes are line 1
    except (
        yaml.YAMLError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise PublishError(
            f"The front matter of README.md cannot be read as YAML: {' '.join(str(error).split())}. Correct it, or quote the value if it is text."
        ) from error
    if data is not None and not isinstance(data, dict):
        raise PublishError(
            f"The front matter of README.md must be lines of `name: value`, got a {type(data).__name__}."
        )
    if odd := [name for name in data or {} if not isinstance(name, str)]:
        raise PublishError(f"The names in the front matter of README.md must be text, got {odd[0]!r}. Quote it.")
    return data or {}


def _state(block: str) -> dict[str, Any]:
    """The JSON in a block; what does not look as it should is as if it were not there."""
    match = _STATE.search(block)
    try:
        found = json.loads(match[1]) if match else {}
    except (RecursionError, ValueError):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, _STATE_TYPES.get(name, ()))}


def written(readme: Readme, data: Mapping[str, Any], block: str, state: Mapping[str, Any]) -> str:
    """A README with a new front matter and a new block; the block goes where one is, else after the author's text.

    Raises:
        PublishError: huggingface_hub cannot read the front matter.
    """
    newline = readme.newline
    front = readme.front if data == readme.data and readme.front else yaml_dump(dict(data), sort_keys=False).strip()
    text = f"{START}\n{block.strip()}\n{_comment(state)}{END}".replace("\n", newline)
    if readme.has_block:
        body = readme.body.partition(START)[0] + text + readme.body.partition(END)[2]
    elif own := readme.body.rstrip():
        lead = "" if own.startswith(("\n", "\r")) or readme.front is not None else newline
        body = f"{lead}{own}{newline * 2}{text}{newline}"
    else:
        body = newline + text + newline
    card = f"---{newline}{front.replace(chr(10), newline)}{newline}---{newline}{body}"
    try:
        ModelCard(card)
    except (AttributeError, ValueError, TypeError, yaml.YAMLError) as error:
        raise PublishError(
            f"The front matter of README.md is not what the Hub takes: {' '.join(str(error).split())}. Correct it, or remove that entry."
        ) from error
    return card


def _with_state(card: str, state: Mapping[str, Any]) -> str:
    before, mark, after = card.partition(START)
    comment = _comment(state).replace("\n", "\r\n" if "\r\n" in card else "\n")
    return before + mark + _STATE.sub(lambda _: comment, after, count=1)


def _comment(state: Mapping[str, Any]) -> str:
    text = json.dumps(state, sort_keys=True).replace("<", "\\u003c").replace(">", "\\u003e")  # no mark can be in it
    return f"<!-- sima_hf:state {text} -->\n"


def is_generated(body: str) -> bool:
    """Whether a text is only what Transformers writes by itself: `push_to_hub`, or `Trainer` with its comment still there."""
    return is_trainer_text(body) or _lines(body) == _lines(_push_to_hub_text())


def is_trainer_text(body: str) -> bool:
    """Whether a text is what `Trainer` writes, nothing completed or added."""
    return _TRAINER.fullmatch(body.replace("\r\n", "\n")) is not None


def _push_to_hub_text() -> str:
    return ModelCard.from_template(ModelCardData(), model_description=_PUSH_TO_HUB).text


def readme_to_merge(local: str | None, published: str | None, repo_id: str) -> str | None:
    """The README that a new card is merged with: the folder's or the repository's, whichever was edited since the last push.

    Args:
        local: of the folder; None without one.
        published: of the repository; None without one.
        repo_id: for the message.

    Raises:
        PublishError: both have an author's text, it differs, and each was edited since the last push (or there was none).
    """
    if local is None or published is None:
        return published if local is None else local
    mine, theirs = read_readme(local), read_readme(published)
    around, folder = (*theirs.state.get("pushed", ()), None, None)[:2]
    if _is_nobodys(mine) or _lines(mine.own) == _lines(theirs.own):
        return published
    if _is_nobodys(theirs) or around == digest(theirs.around):
        return local
    if folder == digest(local):
        return published
    raise PublishError(
        f"README.md of the folder and of {repo_id} both have text of their own, which differs, so one would be lost. Put what is "
        "to stay into one of them, and delete the other."
    )


def with_pushed(card: str, local: str | None, published: str | None, merged: str | None) -> str:
    """A card whose state says what a push has to know of it the next time.

    Args:
        card: as it is to be pushed.
        local: README of the folder; None without one.
        published: README of the repository; None without one.
        merged: that of them which the card was merged with.
    """
    now, before = read_readme(card), read_readme(published)
    unedited = before.state.get("pushed", [None])[:1] == [digest(before.around)]
    from_folder = merged is local or (unedited and _lines(now.own) == _lines(read_readme(local).own))
    pushed = [digest(now.around) if from_folder else None, None if local is None else digest(local)]
    return _with_state(card, {**now.state, "pushed": pushed})


def without_pushed(card: str) -> str:
    """A card as it is in a folder, where nothing was pushed."""
    return _with_state(card, {name: value for name, value in read_readme(card).state.items() if name != "pushed"})


def _is_nobodys(readme: Readme) -> bool:
    return not readme.own or is_generated(readme.own)


def _lines(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def digest(content: Any) -> str:
    """A short hash of a text, whatever its line endings, or of JSON."""
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()[:16]
