"""Figures that a repository's card shows and a push does not bring: they stay if their file is there and is of these very weights."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import PublishError
from ..folders.weights_hash import weights_hash
from .cards.facts import CardFacts, card_files
from .cards.figures import figures_in
from .cards.merge import read_readme
from .cards.results import check_measured, read_measured
from .cards.speed import tables_in
from .folder import CheckedFolder


_NOT_ASKED = "nobody has looked whether the repository still has that file"


@dataclass(frozen=True)
class KeptResults:
    """What becomes of the figures of the cards that are there.

    Attributes:
        files: results of the repository, copied here, whose figures stay.
        gone: what leaves the card, in words -> why.
    """

    files: tuple[Path, ...] = ()
    gone: dict[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """A sentence for each file whose figures leave the card."""
        return [f"These figures leave the card: {what}, because {why}." for what, why in self.gone.items()]


def kept_results(
    cards: Collection[str | None],
    facts: CardFacts,
    checked: CheckedFolder,
    names: Collection[str] | None = None,
    fetch: Callable[[str], Path | None] | None = None,
) -> KeptResults:
    """Look at the files of results that earlier cards name and the new facts do not.

    Args:
        cards: READMEs that are there, the repository's first; None for one that is not.
        facts: what the new card is written from.
        checked: the folder that is pushed.
        names: of the repository's files; None if nobody has looked.
        fetch: brings one of them here; None if it is not there.

    Raises:
        PublishError: the README cannot be read.
    """
    given = {path.name for path in card_files(facts)}
    files, gone, found_hash = [], {}, None
    shown: dict[str, list[str]] = {}
    for block in (read_readme(card).block for card in cards):
        shown = figures_in(block) | {name: ["times"] for name in tables_in(block)} | shown
    for name, figures in shown.items():
        if name in given or Path(name).name != name:
            continue
        what, path = f"{', '.join(figures)} ({name})", None
        if name.endswith(".csv"):
            gone[what] = "no such file was given for this push"
        elif names is None or fetch is None:
            gone[what] = _NOT_ASKED
        elif name not in names or (path := fetch(name)) is None:
            gone[what] = "neither the folder nor the repository has that file"
        else:
            found_hash = found_hash or weights_hash(checked.weights)
            why = _why_not(path, checked, found_hash)
            if why:
                gone[what] = why
            else:
                files.append(path)
    return KeptResults(tuple(files), gone)


def _why_not(path: Path, checked: CheckedFolder, found_hash: str) -> str | None:
    """Why a file of the repository says nothing of these weights; None if it does."""
    try:
        measured = read_measured(path)
        if measured.weights_sha256 is None:
            return "the repository's file does not say of which weights they are"
        if measured.weights_sha256 != found_hash:
            return "the repository's file is of other weights"
        check_measured(measured, checked.model, found_hash)
    except PublishError:
        return "the repository's file cannot be read as results of this model"
    return None
