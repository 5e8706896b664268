"""Which files of a model's folder are published, and why each of the others stays behind."""

import csv
import io
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PublishError
from ..folders.file_names import model_settings
from ..folders.local_paths import is_place, stays_in, without_places, without_places_in_rows
from ..folders.weights import TRAINING_STATE, WeightFiles, matches, read_json
from .pictures import PICTURES, shown_pictures


README = "README.md"
_LICENSES = ("license", "license.txt", "license.md", "notice", "notice.txt")
SETTINGS = ("*_config.json",)  # those of them that say how a processor, a tokenizer or generation is set up
# How entries of such files, and of config.json, end that name where on somebody's disk something was loaded from.
_PATH_ENTRIES = ("name_or_path", "tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file")
# The first row that fits says why a file is left behind.
_REASONS = (
    (TRAINING_STATE, "a training's state, which only its own script reads"),
    (
        ("trainer_state.json", "checkpoint_manifest.json", "position.json"),
        "a training's state, of which the card names nothing",
    ),
    (("*.safetensors", "*.index.json"), "not what the model loads its weights from"),
    (("*.py",), "not the code that a reader needs, which is made anew from the package"),
    (PICTURES, "a picture that the README does not show"),
    (("*.csv", "*results*.json", "evaluation*.json"), "results that the card does not name"),
    ((".*",), "hidden"),
)
_OTHERWISE = "not among the files that a reader of the model needs"


@dataclass(frozen=True)
class PlannedFile:
    """A file that is to be published.

    Attributes:
        name: in the repository, with "/" between folders.
        size: bytes.
        source: the file on this disk; None for one that is made here, whose `content` is then the whole of it.
        content: UTF-8 text, as bytes; None where the source is published as it is.
    """

    name: str
    size: int
    source: Path | None = None
    content: bytes | None = None

    @classmethod
    def of(cls, path: Path, name: str | None = None) -> "PlannedFile":
        """A file of the disk, by default under its own name."""
        return cls(name or path.name, path.stat().st_size, source=path.absolute())

    @classmethod
    def inside(cls, path: Path, folder: Path) -> "PlannedFile":
        """A file of the model's folder that readers need.

        Raises:
            PublishError: it is a link to something outside of the folder, which nobody may have meant to publish.
        """
        check_inside(path, folder)
        return cls.of(path, path.relative_to(folder).as_posix())

    @classmethod
    def settings(cls, path: Path, folder: Path) -> "PlannedFile":
        """A file of settings that readers need: as it is or, where entries of it name places on this disk, without these entries.

        Raises:
            PublishError: as `inside`, or it is no JSON.
        """
        check_inside(path, folder)
        content = read_json(path)
        shown = without_paths(content)
        if shown == content:
            return cls.of(path)
        return cls.changed(path, json.dumps(shown, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def changed(cls, path: Path, text: str) -> "PlannedFile":
        """A file of the disk that is published with another text than it has there."""
        content = text.encode()
        return cls(path.name, len(content), path.absolute(), content)

    @classmethod
    def shown(cls, path: Path) -> "PlannedFile":
        """JSON or a CSV that the card names: as it is or, where it has places on this disk, with their last part."""
        text = path.read_bytes().decode("utf-8")
        shown = _shown_csv(text) if path.suffix == ".csv" else _shown_json(text)
        return cls.of(path) if shown is None else cls.changed(path, shown)

    @classmethod
    def made(cls, name: str, text: str) -> "PlannedFile":
        """A file that was made here."""
        content = text.encode()
        return cls(name, len(content), content=content)


def check_inside(path: Path, folder: Path) -> None:
    """Refuse a link in a folder that leads out of it, other than to the blobs of the Hub's cache.

    Raises:
        PublishError: it is one.
    """
    if not stays_in(path, folder):
        raise PublishError(
            f"{path} is a link to {path.resolve()}, outside of the folder that is published. Put a copy of the file in its place "
            "if it is to be published, or remove the link."
        )


def without_paths(content: Any) -> Any:
    """Settings without the entries that say where on somebody's disk a model or a tokenizer was loaded from."""
    if isinstance(content, dict):
        return {name: without_paths(value) for name, value in content.items() if not _is_path(name, value)}
    return [without_paths(value) for value in content] if isinstance(content, list) else content


def _is_path(name: str, value: Any) -> bool:
    return isinstance(value, str) and name.endswith(_PATH_ENTRIES) and is_place(value)


def _shown_json(text: str) -> str | None:
    content = json.loads(text)
    shown = without_places(content)
    return None if shown == content else json.dumps(shown, indent=1) + "\n"


def _shown_csv(text: str) -> str | None:
    rows = list(csv.reader(io.StringIO(text, newline="")))
    shown = without_places_in_rows(rows)
    if shown == rows:
        return None
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerows(shown)
    return file.getvalue()


def pictures_in(folder: Path, text: str) -> list[PlannedFile]:
    """The pictures of a folder that a README shows by their path in it; addresses elsewhere and links that lead out are none of its."""
    found: dict[str, PlannedFile] = {}
    for name in shown_pictures(text):
        path = folder / name
        if matches(name.name, PICTURES) and path.is_file() and stays_in(path, folder):
            found[str(name)] = PlannedFile.of(path, str(name))
    return list(found.values())


def others_in(folder: Path) -> list[PlannedFile]:
    """What a reader needs besides weights, config, code and card: image processor, tokenizer, license.

    Raises:
        PublishError: one of them is a link that leads out of the folder, see `check_inside`; or settings that are no JSON.
    """
    licenses = [path for path in sorted(folder.iterdir()) if path.is_file() and matches(path.name, _LICENSES)]
    return [
        (PlannedFile.settings if matches(path.name, SETTINGS) else PlannedFile.inside)(path, folder)
        for path in (*model_settings(folder), *licenses)
    ]


def staged(files: Iterable[PlannedFile], stage: Path) -> Path:
    """Put files into an empty folder as they will be published: links to those that are published as they are."""
    for file in files:
        place = stage / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.content is not None:
            place.write_bytes(file.content)
            continue
        try:
            place.symlink_to(file.source.resolve())
        except OSError:  # where links are for administrators only
            shutil.copy2(file.source, place)
    return stage


def weights_in(weights: WeightFiles) -> list[PlannedFile]:
    """Weights and the index that they are read by, if there is one.

    Raises:
        PublishError: one of them is a link that leads out of the folder; see `check_inside`.
    """
    files = (*weights.files, *([weights.index] if weights.index else []))
    return [PlannedFile.inside(path, path.parent) for path in files]


def left_in(folder: Path, published: Iterable[str]) -> dict[str, str]:
    """What of a folder is not published -> why; a folder in it counts as one, with a slash, unless a file of it is published.

    Args:
        folder: the model's.
        published: names in it that are.
    """
    published = set(published)
    inner = {name.partition("/")[0] for name in published if "/" in name}
    left = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            rest = [] if path.name not in inner else sorted(one for one in path.rglob("*") if one.is_file())
            names = {one.relative_to(folder).as_posix() for one in rest} if rest else {f"{path.name}/"}
            left |= {name: _why_folder(path) for name in sorted(names - published)}
        elif path.name not in published:
            outside = path.exists() and not stays_in(path, folder)
            left[path.name] = "a link that leads out of the folder" if outside else _why(path.name)
    return left


def _why(name: str) -> str:
    return next((reason for patterns, reason in _REASONS if matches(name, patterns)), _OTHERWISE)


def _why_folder(path: Path) -> str:
    if path.name.startswith("checkpoint-"):
        return "a training checkpoint; publish it by its own path, if it is the model"
    return "a folder; only files beside the weights are published"
