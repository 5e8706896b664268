"""What a push would publish: the files, what stays behind and why, and the card, made without touching anything."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import PublishError
from ..folders.weights import WeightFiles, read_json
from ..patching.remote_code.model_files import auto_map, remote_code
from ..version import __version__
from .cards.card import write_card
from .cards.facts import CardFacts, card_files, find_facts
from .cards.readme import read_readme, readme_to_merge, with_pushed
from .checks import CONFIG, CheckedFolder
from .kept_results import kept_results
from .names import is_pull_request
from .push_notes import push_notes
from .stage import (
    README,
    PlannedFile,
    check_inside,
    left_in,
    others_in,
    pictures_in,
    weights_in,
    without_paths,
)
from .stale_files import IN_WORDS, RepositoryFiles, removed_files


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
            commit takes out -> why; None where nobody asked what the repository has, or it could not be looked at.
        unseen: why it could not be looked at, as a clause; None where it was, or nobody asked.
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
        files = [{"name": file.name, "bytes": file.size, "made": file.source is None} for file in self.files]
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
        seen = {None: "", True: ", private", False: ", public"}[self.private]
        lines = [
            f"{self.repo_id}{branch}{seen}: {len(self.files)} files, {human_size(self.size)}; {self.commit_message}"
        ]
        removed = self.removed or {}
        width = max(len(name) for name in (*(file.name for file in self.files), *self.left, *removed))
        for file in self.files:
            note = "  made by the push" if file.source is None else ""
            note = "  without folders of this machine" if file.source and file.content is not None else note
            lines.append(f"  {file.name:<{width}}  {human_size(file.size):>9}{note}")
        if self.left:
            lines += ["Left behind:", *_noted(self.left, width)]
        if self.removed is None:
            why = f" ({self.unseen})" if self.unseen else ""
            lines.append(
                f"What {self.repo_id} has already was not looked at{why}; {IN_WORDS} would be removed from it, and its card's figures "
                "would stay if their files are there and of these weights."
            )
        elif removed:
            lines += ["Removed from the repository:", *_noted(removed, width)]
        lines += [f"Note: {note}" for note in self.notes]
        return "\n".join([*lines, f"{README}:", "", self.card])


def _noted(reasons: dict[str, str], width: int) -> list[str]:
    return [f"  {name:<{width}}  {reason}" for name, reason in reasons.items()]


def read_text(path: Path) -> str:
    """A README, its line endings as they are.

    Raises:
        PublishError: it is not UTF-8.
    """
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise PublishError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start}), as the Hub needs it. Save it anew."
        ) from error


def human_size(size: int) -> str:
    """Bytes as the Hub's pages show them, in powers of a thousand."""
    value, units = float(size), ["B", "kB", "MB", "GB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.{0 if units[0] == 'B' or value >= 100 else 1}f} {units[0]}"


@dataclass
class Publication:
    """A checked folder and what its user wants of the push; the plan of it depends on what the repository has.

    Attributes:
        checked: the folder.
        private, revision, commit_message: as for `push`.
        facts: what the card is written from; None for what the folder's own files say.
    """

    checked: CheckedFolder
    private: bool | None = None
    revision: str | None = None
    commit_message: str | None = None
    facts: CardFacts | None = None

    @functools.cached_property
    def code(self) -> dict[str, str]:
        """The code that a reader needs, by file."""
        return remote_code(self.checked.config)

    def plan(
        self,
        repo_id: str,
        existing: str | None = None,
        there: RepositoryFiles | None = None,
        fetch: Callable[[str], Path | None] | None = None,
    ) -> PushPlan:
        """What a push would do.

        Args:
            repo_id: where it would go.
            existing: README of the repository; None if it has none.
            there: all files of the repository; None if nobody has looked.
            fetch: brings one of them here, to see whether what its card shows is still true.

        Raises:
            PublishError: the card cannot be written from these facts, or merged with the README that is there, or a file that
                readers need is a link out of the folder.
        """
        checked, folder = self.checked, self.checked.path
        for name in (CONFIG, README):
            check_inside(folder / name, folder)
        facts = find_facts(folder) if self.facts is None else self.facts
        local = read_text(folder / README) if (folder / README).is_file() else None
        merged = readme_to_merge(local, existing, repo_id)
        kept = kept_results((existing, local), facts, checked, None if there is None else there.names, fetch)
        branch = None if is_pull_request(self.revision) else self.revision  # it is meant for the main branch
        shown = replace(
            facts, results=(*facts.results, *kept.files)
        )  # these are in the repository, and not sent again
        written = write_card(checked, repo_id, shown, merged, revision=branch)
        card = with_pushed(written.text, local, existing, merged)
        files = [
            _config(checked),
            *(PlannedFile.made(name, text) for name, text in self.code.items()),
            *weights_in(WeightFiles(checked.weights, checked.index)),
            *others_in(folder),
            *map(PlannedFile.shown, card_files(facts)),
            *pictures_in(folder, card),
            PlannedFile.made(README, card),
        ]
        by_name = _by_name(files)
        return PushPlan(
            repo_id=repo_id,
            files=tuple(by_name[name] for name in sorted(by_name)),
            left=left_in(folder, by_name),
            card=card,
            revision=self.revision,
            private=self.private,
            commit_message=self.commit_message
            or f"{type(checked.model).__name__}, published with sima_hf {__version__}",
            removed=None if there is None else removed_files(there, by_name),
            notes=(*kept.notes, *push_notes(checked, written.known, read_readme(card).data)),
        )


def _by_name(files: list[PlannedFile]) -> dict[str, PlannedFile]:
    found: dict[str, PlannedFile] = {}
    for file in files:
        other = found.setdefault(file.name, file)
        if other != file:
            raise PublishError(
                f"{file.source or 'What the push makes'} and {other.source or 'what the push makes'} would both be published as "
                f"{file.name}. Rename the one that is yours."
            )
    return found


def _config(checked: CheckedFolder) -> PlannedFile:
    """config.json with the places of the code in it and without those on somebody's disk, and otherwise as it is."""
    path = checked.path / CONFIG
    content = read_json(path)
    wanted = {**without_paths(content), "auto_map": auto_map(checked.config)}
    return (
        PlannedFile.of(path)
        if content == wanted
        else PlannedFile.made(CONFIG, json.dumps(wanted, indent=2, sort_keys=True) + "\n")
    )
