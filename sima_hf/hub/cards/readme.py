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
from dataclasses import dataclass, field, replace
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import yaml_dump

from ...errors import PublishError


START, END = "<!-- sima_hf:start -->", "<!-- sima_hf:end -->"
_STATE = re.compile(r"<!-- sima_hf:state (\{.*\}) -->\n")
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
    """A README in its parts; lines end in "\\n" here.

    Attributes:
        data: the front matter; {} without one.
        front: its text; "" without one.
        before, block, after: its author's text, with our block in it; None where there is none.
        state: what the block says of itself.
        newline: how its lines end in the file.
    """

    data: dict[str, Any] = field(default_factory=dict)
    front: str = ""
    before: str = ""
    block: str | None = None
    after: str = ""
    state: dict[str, Any] = field(default_factory=dict)
    newline: str = "\n"

    @property
    def own(self) -> str:
        """The author's part of the text: all but the block."""
        return "\n".join(line.rstrip() for line in f"{self.before}{self.after}".strip().splitlines())

    @property
    def around(self) -> str:
        """All but the block, the front matter included."""
        return f"{self.front.strip()}\n\n{self.own}"

    @property
    def is_nobodys(self) -> bool:
        """Whether no author wrote any of the text."""
        return not self.own or is_generated(self.own)

    def __str__(self) -> str:
        """The file's text; a new block goes after the author's text."""
        front = self.front.strip("\n") or yaml_dump(self.data, sort_keys=False).strip()
        block = _STATE.sub("", self.block or "").strip()
        state = json.dumps(self.state, sort_keys=True)
        state = state.replace("<", "\\u003c").replace(">", "\\u003e")  # no mark can be in it
        block = f"{START}\n{block}\n<!-- sima_hf:state {state} -->\n{END}"
        return f"---\n{front}\n---\n{self.before}{block}{self.after}".replace("\n", self.newline)


def read_readme(text: str | None) -> Readme:
    """Take a README apart, as the Hub does.

    Raises:
        PublishError: the Hub cannot read the front matter, or the marks are not one pair.
    """
    text = (text or "").removeprefix("\ufeff")
    newline = "\r\n" if "\r\n" in text else "\n"
    text = text.replace("\r\n", "\n")
    match = REGEX_YAML_BLOCK.search(text)
    front, body = (match.group(2), text[match.end() :]) if match else ("", text)
    try:
        data = yaml.safe_load(front) or {}
        ModelCardData(**data)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, yaml.YAMLError) as error:
        raise PublishError(
            f"The front matter of README.md is not what the Hub takes: {' '.join(str(error).split())}. Correct or remove that entry."
        ) from error
    before, start, rest = body.partition(START)
    block, end, after = rest.partition(END)
    marks = body.count(START), body.count(END)
    if marks not in ((0, 0), (1, 1)) or bool(start) != bool(end):
        raise PublishError(
            f"README.md must have one pair of marks {START} and {END}, or none, got {marks[0]} and {marks[1]}. "
            "Remove the others; the text between the marks is rewritten."
        )
    return Readme(data, front, before, block if start else None, after, _state(block), newline)


def _state(block: str) -> dict[str, Any]:
    """The JSON in a block; what does not look as it should is as if it were not there."""
    match = _STATE.search(block)
    try:
        found = json.loads(match[1]) if match else {}
    except ValueError:
        return {}
    return {name: value for name, value in found.items() if isinstance(value, _STATE_TYPES.get(name, ()))}


def written(readme: Readme, data: Mapping[str, Any], block: str, state: Mapping[str, Any]) -> str:
    """A README with a new front matter and a new block; the block goes where one is, else after the author's text."""
    before, after = readme.before, readme.after
    if readme.block is None:
        own = before.strip("\n").rstrip()
        before, after = f"\n{own}\n\n" if own else "\n", "\n"
    ordered = {name: data[name] for name in (*readme.data, *data) if name in data}
    front = readme.front if data == readme.data else ""
    return str(replace(readme, data=ordered, front=front, before=before, block=block, after=after, state=dict(state)))


def is_generated(body: str) -> bool:
    """Whether a text is only what Transformers writes by itself: `push_to_hub`, or `Trainer` with its comment still there."""
    stock = ModelCard.from_template(ModelCardData(), model_description=_PUSH_TO_HUB).text
    return is_trainer_text(body) or body.strip() == read_readme(stock).own


def is_trainer_text(body: str) -> bool:
    """Whether a text is what `Trainer` writes, nothing completed or added."""
    return _TRAINER.fullmatch(body) is not None


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
    if mine.is_nobodys or mine.own == theirs.own:
        return published
    if theirs.is_nobodys or around == digest(theirs.around):
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
    from_folder = merged is local or (unedited and now.own == read_readme(local).own)
    pushed = [digest(now.around) if from_folder else None, None if local is None else digest(local)]
    return str(replace(now, state={**now.state, "pushed": pushed}))


def without_pushed(card: str) -> str:
    """A card as it is in a folder, where nothing was pushed."""
    readme = read_readme(card)
    return str(replace(readme, state={name: value for name, value in readme.state.items() if name != "pushed"}))


def digest(content: Any) -> str:
    """A short hash of a text, whatever its line endings, or of JSON."""
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()[:16]
