"""Decide which figures of the card that is on the Hub still describe the weights that are pushed."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import PublishError
from ..folders.weights_hash import weights_hash
from .cards.facts import CardFacts, card_files
from .cards.readme import read_readme
from .cards.results import check_measured, read_measured
from .checks import CheckedFolder


@dataclass(frozen=True)
class KeptResults:
    """What becomes of the figures of earlier cards.

    Attributes:
        files: results of the repository, copied here, whose figures stay.
        gone: name of a file whose figures leave the card -> why.
    """

    files: tuple[Path, ...] = ()
    gone: dict[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """A sentence for each file whose figures leave the card."""
        return [f"Dropped from the card: the figures of {name}, because {why}." for name, why in self.gone.items()]


def kept_results(
    cards: Collection[str | None],
    facts: CardFacts,
    checked: CheckedFolder,
    names: Collection[str] | None = None,
    fetch: Callable[[str], Path | None] | None = None,
) -> KeptResults:
    """Look at the files of results that earlier cards name and the new facts do not.

    Args:
        cards: READMEs that are there; None for one that is not.
        facts: what the new card is written from.
        checked: the folder that is pushed.
        names: of the repository's files; None if it was not read.
        fetch: downloads one of them; None if it is not there.

    Raises:
        PublishError: a README cannot be read.
    """
    given = {path.name for path in card_files(facts)}
    listed = [name for card in cards for name in read_readme(card).state.get("files", ()) if isinstance(name, str)]
    files, gone = [], {}
    for name in dict.fromkeys(listed):
        if name in given or Path(name).name != name:
            continue
        if name.endswith(".csv"):
            gone[name] = "no such file was given for this push"
        elif names is None or fetch is None:
            gone[name] = "the repository was not read"
        elif name not in names or (path := fetch(name)) is None:
            gone[name] = "neither the folder nor the repository has that file"
        elif why := _why_not(path, checked):
            gone[name] = why
        else:
            files.append(path)
    return KeptResults(tuple(files), gone)


def _why_not(path: Path, checked: CheckedFolder) -> str | None:
    """Why a file of the repository says nothing of these weights; None if it does."""
    try:
        measured, found_hash = read_measured(path), weights_hash(checked.weights)
        if measured.weights_sha256 is None:
            return "the repository's file does not say of which weights they are"
        if measured.weights_sha256 != found_hash:
            return "the repository's file is of other weights"
        check_measured(measured, checked.model, found_hash)
    except PublishError:
        return "the repository's file cannot be read as results of this model"
    return None
