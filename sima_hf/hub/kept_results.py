"""Decide which results on the existing card still describe the weights that are pushed."""

from collections.abc import Collection
from pathlib import Path

from ..errors import PublishError
from ..folders.weights_hash import weights_hash
from .cards.facts import CardFacts, card_files
from .cards.readme import read_readme
from .cards.results import check_measured, read_measured
from .checks import CheckedFolder
from .repository import Repository


def kept_results(
    cards: Collection[str | None], facts: CardFacts, checked: CheckedFolder, repository: Repository | None
) -> tuple[list[Path], dict[str, str]]:
    """Look at the files of results that earlier cards name and the new facts do not.

    Args:
        cards: READMEs that are there; None for one that is not.
        facts: what the new card is written from.
        checked: the folder that is pushed.
        repository: None if it was not read.

    Returns:
        Results of the repository, copied here, that stay on the card; and names of files whose results leave it -> why.

    Raises:
        PublishError: a README cannot be read, or the Hub does not answer.
    """
    given = {path.name for path in card_files(facts)}
    listed = [name for card in cards for name in read_readme(card).state.get("files", ()) if isinstance(name, str)]
    kept, dropped = [], {}
    for name in dict.fromkeys(listed):
        if name in given or Path(name).name != name:
            continue
        if name.endswith(".csv"):
            dropped[name] = "no such file was given for this push"
        elif repository is None:
            dropped[name] = "the repository was not read"
        elif name not in repository.names or (path := repository.fetch(name)) is None:
            dropped[name] = "neither the folder nor the repository has that file"
        elif why := _why_not(path, checked):
            dropped[name] = why
        else:
            kept.append(path)
    return kept, dropped


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
