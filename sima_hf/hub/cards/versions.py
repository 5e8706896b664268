"""Two READMEs, in the folder and on the Hub: which of them a push takes up, so that no edit of either is lost in silence.

A pushed card has a comment in its block with two digests: of what is around the block, if that is what the folder's README
alone gives, and of the folder's README. The next push can tell from them which of the two was edited since.
"""

import hashlib
import re

from ...errors import PublishError
from .merge import END, around_block, read_readme
from .stock import is_push_to_hub_text, is_trainer_text


_NOTE = re.compile(r"<!-- sima_hf:pushed ([0-9a-f]{16}|-) ([0-9a-f]{16}|-) -->\r?\n")


def with_note(card: str, alone: str, local: str | None) -> str:
    """A card that is to be pushed, with the comment in its block.

    Args:
        card: as `model_card` writes it, merged with the README of the folder or of the repository.
        alone: the same, merged with the folder's.
        local: README of the folder; None if there is none.
    """
    around = _digest(_around(card)) if _around(card) == _around(alone) else "-"
    note = f"<!-- sima_hf:pushed {around} {'-' if local is None else _digest(local)} -->"
    before, mark, after = card.rpartition(END)
    newline = "\r\n" if "\r\n" in card else "\n"
    return f"{before}{note}{newline}{mark}{after}" if mark else card


def readme_to_merge(local: str | None, published: str | None, repo_id: str) -> str | None:
    """The README that a new card is merged with.

    Args:
        local: of the folder; None if there is none.
        published: of the repository; None if there is none.
        repo_id: for the message.

    Raises:
        PublishError: both have an author's text, it differs, and each was edited since the last push (or there was none).
    """
    if local is None or published is None:
        return published if local is None else local
    if _is_nobodys(local) or _own(local) == _own(published):
        return published
    note = _NOTE.search(published)
    if _is_nobodys(published) or (note and note[1] == _digest(_around(published))):
        return local
    if note and note[2] == _digest(local):
        return published
    raise PublishError(
        f"README.md of the folder and of {repo_id} both have text of their own, which differs, so one would be lost. Put what is "
        "to stay into one of them, and delete the other."
    )


def _own(text: str) -> str:
    return "\n".join(line.rstrip() for line in around_block(read_readme(text)).splitlines())


def _is_nobodys(text: str) -> bool:
    """Whether nobody wrote anything into a README: no text besides our block, or what Transformers writes by itself."""
    own = _own(text)
    return not own or is_push_to_hub_text(own) or is_trainer_text(own)


def _around(text: str) -> str:
    """All of a README but the block, the front matter included."""
    return f"{(read_readme(text).front or '').strip()}\n\n{_own(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()[:16]
