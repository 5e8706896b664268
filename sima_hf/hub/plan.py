"""What a push would do: files, card, removals and notes, made in the staging folder without touching anything else."""

from dataclasses import dataclass, replace
from typing import Any

from ..version import __version__
from .cards.attention import peer_in
from .cards.card import WrittenCard, write_card
from .cards.facts import CardFacts, card_files, find_facts
from .cards.readme import read_readme, readme_to_merge, with_pushed
from .checks import CheckedFolder
from .kept_results import kept_results
from .names import is_pull_request
from .repository import Repository
from .stage import MADE, README, Stage
from .stale_files import IN_WORDS, stale_files


_ONLY_SWAPPED = (
    "Softmax was swapped for {attention} in these weights, and nothing was calibrated or trained since{noise}; the card says so. Calibrate "
    "them (sima-hf calibrate) or train them first; if they were trained by other means, record it with "
    "sima_hf.hub.write_provenance(folder, training={{...}})."
)
_NO_BASE = (
    "The card does not say which model this one was made from: if that is on the Hub, name it (--base-model organization/name, or "
    "base_model= in the facts)."
)


@dataclass(frozen=True)
class PlannedFile:
    """A file that is to be published: its name in the repository, its bytes, and how it differs from the user's, if it does."""

    name: str
    size: int
    note: str | None = None


@dataclass(frozen=True)
class PushPlan:
    """What a push would do; printing it gives the files, what stays behind, what of the repository goes, notes, and the card.

    Attributes:
        repo_id: "organization/name", or a name in the user's own account.
        files: what would be published, by name.
        left: what of the folder would not be -> why.
        card: the README.
        revision: branch; None for the main one.
        private: whether a repository that is made is to be private; None leaves that to the account's settings.
        commit_message: first line of the commit's message.
        removed: what the repository has of an earlier model and readers would load in place of this one or with it, which the same
            commit removes -> why; None where nobody asked what the repository has, or it could not be read.
        unseen: why it could not be read, as a clause; None where it was, or nobody asked.
        notes: what whoever pushes should know, in sentences.
    """

    repo_id: str
    files: tuple[PlannedFile, ...]
    left: dict[str, str]
    card: str
    revision: str | None
    private: bool | None
    commit_message: str
    removed: dict[str, str] | None = None
    notes: tuple[str, ...] = ()
    unseen: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON; `made` says that a file is made by the push and is not in the folder as it will be published."""
        files = [{"name": file.name, "bytes": file.size, "made": file.note == MADE} for file in self.files]
        return {
            "repo_id": self.repo_id,
            "revision": self.revision,
            "private": self.private,
            "commit_message": self.commit_message,
            "bytes": self.size,
            "files": files,
            "left": dict(self.left),
            "removed": None if self.removed is None else dict(self.removed),
            "unseen": self.unseen,
            "notes": list(self.notes),
            "card": self.card,
        }

    def __str__(self) -> str:
        branch = f", branch {self.revision}" if self.revision else ""
        visibility = {None: "", True: ", private", False: ", public"}[self.private]
        title = f"{self.repo_id}{branch}{visibility}: {len(self.files)} files, {human_size(self.size)}; {self.commit_message}"
        files = {file.name: f"{human_size(file.size):>9}  {file.note or ''}".rstrip() for file in self.files}
        sections = [(title, files), ("Left behind:", self.left), ("Removed from the repository:", self.removed or {})]
        width = max(len(name) for _, rows in sections for name in rows)
        lines = [title, *_rows(files, width)]
        for heading, rows in sections[1:]:
            lines += [heading, *_rows(rows, width)] if rows else []
        if self.removed is None:
            why = f" ({self.unseen})" if self.unseen else ""
            lines.append(
                f"What {self.repo_id} has already was not looked at{why}; {IN_WORDS} would be removed from it, and its card's figures "
                "would stay if their files are there and of these weights."
            )
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes), f"{README}:", "", self.card])


def _rows(rows: dict[str, str], width: int) -> list[str]:
    return [f"  {name:<{width}}  {text}" for name, text in rows.items()]


def human_size(size: int) -> str:
    """Bytes as the Hub's pages show them, in powers of a thousand."""
    value, units = float(size), ["B", "kB", "MB", "GB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.{0 if units[0] == 'B' or value >= 100 else 1}f} {units[0]}"


def make_plan(
    stage: Stage,
    checked: CheckedFolder,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    facts: CardFacts | None = None,
    existing_card: str | None = None,
    repository: Repository | None = None,
) -> PushPlan:
    """Stage the results and the card of a checked folder, and list what the stage then has.

    Args:
        stage: of the folder.
        checked: the same, loaded.
        repo_id: where it would go.
        private, revision, commit_message: as for `push`.
        facts: what the card is written from; None for what the folder's own files say.
        existing_card: README of the repository, where that was not read.
        repository: what it has; None if nobody has looked.

    Raises:
        PublishError: the card cannot be written from these facts, or merged with the README that is there, or two files have one name.
    """
    existing = existing_card if repository is None else repository.card
    facts = find_facts(checked.path) if facts is None else facts
    local = stage.readme()
    merged = readme_to_merge(local, existing, repo_id)
    kept, gone = kept_results((existing, local), facts, checked, repository)
    branch = None if is_pull_request(revision) else revision  # a pull request is meant for the main branch
    shown = replace(facts, results=(*facts.results, *kept))  # those that are kept are in the repository
    written = write_card(checked, repo_id, shown, merged, revision=branch)
    card = with_pushed(written.text, local, existing, merged)
    stage.add_results(card_files(facts))
    stage.add_readme(card)
    files = [PlannedFile(name, (stage.path / name).stat().st_size, stage.notes.get(name)) for name in stage.sources]
    removed = None if repository is None else stale_files(repository.names, stage.sources, repository.auto_map)
    dropped = [f"Dropped from the card: the figures of {name}, because {why}." for name, why in gone.items()]
    return PushPlan(
        repo_id=repo_id,
        files=tuple(sorted(files, key=lambda file: file.name)),
        left=stage.left(),
        card=card,
        revision=revision,
        private=private,
        commit_message=commit_message or f"{type(checked.model).__name__}, published with sima_hf {__version__}",
        removed=removed,
        notes=(*dropped, *_notes(checked, written)),
    )


def _notes(checked: CheckedFolder, written: WrittenCard) -> list[str]:
    """What should be known before others see the model."""
    notes = []
    if written.known.only_swapped:
        peer = peer_in(checked)
        noise = "" if written.known.has_accuracy or peer else ", so they answer at random"
        notes.append(_ONLY_SWAPPED.format(noise=noise, attention="SimA" if peer is None else peer.title))
    if checked.description.swapped and not read_readme(written.text).data.get("base_model"):
        notes.append(_NO_BASE)
    return notes
