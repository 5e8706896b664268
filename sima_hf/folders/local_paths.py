"""Local paths in what others will read: found and cut to their last part; and links that lead out of a folder."""

import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any


# How a path begins that means something on one machine alone; "org/name" may be a name on the Hub.
_PLACE = re.compile(r"(?:/|~|\.\.?(?:[/\\]|$)|[A-Za-z]:[/\\]|\\\\|file:)")
_ABSOLUTE = re.compile(r"(?:^|(?<=[\s'\"(=,]))(?:~|[A-Za-z]:|file:)?[/\\](?=[^\s/\\'\"]+[/\\])[^\s'\"]*[/\\]")
_BETWEEN = re.compile(r", (?=/|~|\.\.?[/\\]|[A-Za-z]:[/\\])")
# Names of folders that say nothing of the images in them: of a split, and of any.
SPLITS = ("train", "val", "valid", "validation", "test")
_ANY = (*SPLITS, "images", "data")
# Where users' homes are, and what else above a folder says nothing of it.
_HOMES, _NOBODY = ("home", "Users"), ("", ".", "..", "~", "root")
# Entries of results files that name classes, which may begin with a slash ("/m/01g317") and are no places.
_NO_PLACES = ("per_class", "most_confused", "labels")


def is_place(text: str) -> bool:
    """Whether a text begins as a path that means nothing elsewhere: absolute, from home, or with dots."""
    return _PLACE.match(text) is not None


def shown_place(text: str, here: bool = False) -> str:
    """A name of data or of a model as a stranger may see it: of a folder on somebody's disk, the last part.

    Of a folder called `val`, `images` and the like, with the name of the folder above that says more: "photos, val".

    Args:
        text: a path, a name on the Hub, or several of them with ", " between.
        here: it comes from this machine, so that "org/name" is a folder if there is one.
    """
    text = str(text)
    if here and text and os.path.exists(os.path.expanduser(text)):
        return _last(str(Path(os.path.expanduser(text)).resolve()))
    return ", ".join(_last(word) if is_place(word) else word for word in _BETWEEN.split(text))


def _last(path: str) -> str:
    windows = "\\" in path and not path.startswith(("/", "~"))
    place = (PureWindowsPath if windows else PurePosixPath)(path)
    if place.name in ("", "..", "~"):
        return "a folder"
    plain, above = [], place
    while above.name.lower() in _ANY:
        plain, above = [*plain, above.name], above.parent
    told = plain and above.name not in (*_NOBODY, *_HOMES) and above.parent.name not in _HOMES
    if not told or above.name.endswith(":"):
        return place.name
    return f"{above.name}, {next((one for one in plain if one.lower() in SPLITS), plain[0])}"


def data_and_split(text: str) -> tuple[str, str | None]:
    """The name of data and of its part, of what is shown as "photos, val", "NAME, validation split" or "NAME, 20% held out"."""
    name, comma, last = text.rpartition(", ")
    if comma and (last.endswith((" split", " held out")) or last.lower() in SPLITS):
        return name, last.removesuffix(" split")
    return text, None


def without_folders(text: str, *folders: str | Path | None) -> str:
    """A sentence in which absolute paths are their last part; `folders` are known to occur, and may have spaces in them."""
    for folder in filter(None, folders):
        for place in (str(Path(os.path.expanduser(folder)).resolve()), str(folder)):
            text = text.replace(f"{place.rstrip('/')}/", "")
    return _ABSOLUTE.sub("", text)


def without_places(content: Any) -> Any:
    """JSON in which every place, in names of entries too, is its last part, numbered where two are then alike.

    A base model that is a place is taken out, for its last part is no name.
    """
    if isinstance(content, dict):
        shown: dict[str, Any] = {}
        for name, value in content.items():
            if name == "base_model" and isinstance(value, str) and is_place(value):
                continue
            key = _free(_shown(name), {*shown, *content} - {name}) if isinstance(name, str) else name
            shown[key] = value if name in _NO_PLACES else without_places(value)
        return shown
    if isinstance(content, list):
        return [without_places(value) for value in content]
    return _shown(content) if isinstance(content, str) else content


def without_places_in_rows(rows: list[list[str]]) -> list[list[str]]:
    """The cells of a CSV in which every place is its last part."""
    return [[_shown(cell) for cell in row] for row in rows]


def _shown(text: str) -> str:
    return without_folders(shown_place(text))


def _free(name: str, taken: set[str]) -> str:
    return next(one for one in (name, *(f"{name} ({n})" for n in range(2, len(taken) + 3))) if one not in taken)


def stays_in(path: Path, folder: Path) -> bool:
    """Whether a file in a folder, links followed, lies in it, or in the blobs of the Hub's cache if the folder is a snapshot there."""
    target, folder = path.resolve(), folder.resolve()
    if target.is_relative_to(folder):
        return True
    above = folder.parent
    in_cache = above.name == "snapshots" and above.parent.name.startswith("models--")
    return in_cache and target.is_relative_to(above.parent / "blobs")
