"""A staging folder: exactly the files that readers of a repository will get.

Checks look at it, the card is written into it, and a push sends it. Weights are links to the user's files, all else is copied.
"""

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from transformers import PreTrainedConfig

from ..errors import PublishError
from ..folders.file_names import CONFIG, matches, model_settings
from ..folders.json_files import read_json
from ..folders.local_paths import is_place, stays_in, without_places, without_places_in_rows
from ..folders.weights import WeightFiles, some
from ..patching.remote_code.model_files import auto_map, remote_code


README = "README.md"
MADE, REDACTED = "made by the push", "without local paths"
_LICENSES = ("license", "license.txt", "license.md", "notice", "notice.txt")
_PICTURES = ("*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp", "*.svg")
# How entries of settings end that name where on somebody's disk something was loaded from.
_PATH_ENTRIES = ("name_or_path", "tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file")


@dataclass
class Stage:
    """Files on their way to a repository.

    Attributes:
        folder: the user's, which is never changed.
        path: the staging folder.
        sources: name of each staged file -> the user's file that it is from; None for one that is made here.
        notes: name of a file that is not as the user has it -> `MADE` or `REDACTED`.
        linked: file of the user's that the stage links to -> its state when it was staged.
    """

    folder: Path
    path: Path
    sources: dict[str, Path | None] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    linked: dict[Path, tuple[int, ...]] = field(default_factory=dict)

    def add(self, source: Path, text: str | None = None, note: str = REDACTED, name: str | None = None) -> None:
        """Stage a file of the user's: as it is, or with another text.

        A file outside of the user's folder, such as results, is staged under its own name.

        Raises:
            PublishError: another file has that name, or the file is a link that leads out of the user's folder.
        """
        inside = source.is_relative_to(self.folder)
        name = name or (source.relative_to(self.folder).as_posix() if inside else source.name)
        if inside:
            check_inside(source, self.folder)
        if name in self.sources and self.sources[name] != source:
            raise PublishError(f"{source} and another file would both be published as {name}. Rename one of them.")
        if text is not None:
            self._write(name, text, source, note)
            return
        self.sources[name] = source
        target = self._place(name)
        if source.suffix == ".safetensors":
            self._link(source, target)
        else:
            shutil.copyfile(source, target)

    def add_weights(self, weights: WeightFiles) -> None:
        """Stage the files that a model's weights are read from."""
        for path in (*weights.files, *([weights.index] if weights.index else [])):
            self.add(path)

    def add_settings(self) -> None:
        """Stage what readers need beside config, weights and code: processors, tokenizer, license; no local path in them."""
        for path in model_settings(self.folder):
            self._add_redacted(path) if path.name.endswith("_config.json") else self.add(path)
        for path in sorted(self.folder.iterdir()):
            if path.is_file() and path.name.lower() in _LICENSES:
                self.add(path)

    def add_config(self, config: PreTrainedConfig | None = None) -> None:
        """Stage config.json without local paths; with `config`, the model's code as well, and its `auto_map`."""
        path = self.folder / CONFIG
        check_inside(path, self.folder)
        content = read_json(path)
        wanted = _without_paths(content)
        if config is not None:
            wanted["auto_map"] = auto_map(config)
            for name, text in remote_code(config).items():
                self._write(name, text)
        self.add(path, None if wanted == content else json.dumps(wanted, indent=2, sort_keys=True) + "\n", MADE)

    def add_results(self, files: Iterable[Path]) -> None:
        """Stage the JSON and CSV files that the card names, local paths in them cut to their last part."""
        for path in files:
            text = _shown_csv(path) if path.suffix == ".csv" else _shown_json(path)
            self.add(path.parent.resolve() / path.name, text, name=path.name)  # as the card links it

    def add_readme(self, text: str) -> None:
        """Stage the card, and the pictures of the folder that it shows."""
        self._write(README, text)
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if matches(name.lower(), _PICTURES) and stays_in(path, self.folder) and _shows(text, name):
                self.add(path)

    def readme(self) -> str | None:
        """The README of the user's folder, its line endings as they are; None where there is none.

        Raises:
            PublishError: it is not UTF-8, or a link that leads out of the folder.
        """
        path = self.folder / README
        check_inside(path, self.folder)
        return read_text(path) if path.is_file() else None

    def left(self) -> dict[str, str]:
        """What of the user's folder is not published -> why; a folder of which some is published is not named."""
        published = {name.partition("/")[0] for name in self.sources}
        left = {}
        for path in sorted(self.folder.iterdir()):
            if path.name not in published:
                outside = path.exists() and not stays_in(path, self.folder)
                why = "a link that leads out of the folder" if outside else "not needed by readers of the model"
                left[f"{path.name}/" if path.is_dir() else path.name] = why
        return left

    def check_unchanged(self) -> None:
        """Refuse to go on where weights were written after they were staged, so that others were checked.

        Raises:
            PublishError: some were, as by a training that writes into the folder.
        """
        changed = [path.name for path, state in self.linked.items() if not path.exists() or _state(path) != state]
        if changed:
            raise PublishError(
                f"{self.folder} has changed since it was checked ({some(changed)}). Nothing was pushed; push again when nothing writes "
                "into the folder any more."
            )

    def _add_redacted(self, path: Path) -> None:
        check_inside(path, self.folder)
        content = read_json(path)
        shown = _without_paths(content)
        self.add(path, None if shown == content else json.dumps(shown, indent=2, ensure_ascii=False) + "\n")

    def _write(self, name: str, text: str, source: Path | None = None, note: str = MADE) -> None:
        self.sources[name], self.notes[name] = source, note
        self._place(name).write_bytes(text.encode())

    def _place(self, name: str) -> Path:
        """Where a file is staged, free."""
        place = self.path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        return place

    def _link(self, source: Path, target: Path) -> None:
        self.linked[source] = _state(source)
        try:
            target.symlink_to(source.resolve())
        except OSError:  # where links are for administrators only
            shutil.copyfile(source, target)


def check_inside(path: Path, folder: Path) -> None:
    """Refuse a link in a folder that leads out of it, other than to the blobs of the Hub's cache.

    Raises:
        PublishError: it is one.
    """
    if not stays_in(path, folder):
        raise PublishError(
            f"{path} is a link to {path.resolve()}, outside of the folder that is published. Put a copy of the file in its place, or "
            "remove the link."
        )


def read_text(path: Path) -> str:
    """A README, its line endings as they are.

    Raises:
        PublishError: it is not UTF-8.
    """
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise PublishError(
            f"{path} must be UTF-8, got {error.reason} at byte {error.start}. Save it again."
        ) from error


def _state(path: Path) -> tuple[int, ...]:
    found = os.stat(path)
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _shows(text: str, name: str) -> bool:
    """Whether a README has a file of the folder as an address, in Markdown or HTML."""
    return re.search(rf"[(<\"']\s*(?:\./)?{re.escape(name)}[)>\"'?#\s]", unquote(text)) is not None


def _without_paths(content: Any) -> Any:
    """Settings without the entries that name where a model or a tokenizer was loaded from on somebody's disk."""
    if isinstance(content, dict):
        return {name: _without_paths(value) for name, value in content.items() if not _is_path(name, value)}
    return [_without_paths(value) for value in content] if isinstance(content, list) else content


def _is_path(name: str, value: Any) -> bool:
    return isinstance(value, str) and name.endswith(_PATH_ENTRIES) and is_place(value)


def _shown_json(path: Path) -> str | None:
    content = json.loads(path.read_text(encoding="utf-8"))
    shown = without_places(content)
    return None if shown == content else json.dumps(shown, indent=1) + "\n"


def _shown_csv(path: Path) -> str | None:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    shown = without_places_in_rows(rows)
    if shown == rows:
        return None
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(shown)
    return text.getvalue()
