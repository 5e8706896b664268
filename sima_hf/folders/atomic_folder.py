"""A model's folder that appears whole or not at all: written aside, then moved."""

import contextlib
import glob
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .file_names import (
    ADAPTER_FILES,
    CHAT_TEMPLATES,
    CONFIG,
    EXPORT,
    MANIFEST,
    WEIGHT_FILES,
    code_places,
    is_record,
    json_or_nothing,
    matches,
    model_settings,
)


_ASIDE, _BEFORE = ".incomplete-", ".before-"
LEFTOVERS = (_ASIDE, _BEFORE)  # in the names of hidden folders that a killed process may leave


def check_free(folder: str | Path, overwrite: bool = False) -> Path:
    """The absolute path of a folder that may be written, links followed.

    A model that a killed process had moved away to put another in its place is moved back first.

    Args:
        folder: to be made; its parents will be, too.
        overwrite: it may hold a model already, which will be replaced.

    Raises:
        FileExistsError: it is there and not empty, or not what `overwrite` may replace: a folder with a config.json and no
            folders in it, and no training checkpoint.
        NotADirectoryError: it, or what should be a folder above it, is a file.
        PermissionError: nothing can be written there.
    """
    path = Path(folder).expanduser().resolve()
    _bring_back(path)
    above = _nearest(path)
    if not above.is_dir():
        raise NotADirectoryError(f"{above} is a file, so no folder {folder} can be made; name another one.")
    new = above != path or _is_empty(path)
    try_writing(path if new else path.parent)
    if new:
        return path
    if not overwrite:
        raise FileExistsError(
            f"{folder} is not empty; name a new folder, or replace the model in it with --overwrite."
        )
    if not (path / CONFIG).is_file():
        raise FileExistsError(
            f"{folder} is not empty and holds no model (no config.json), so nothing in it is replaced; name another folder."
        )
    if (path / MANIFEST).is_file():
        raise FileExistsError(
            f"{folder} is a training checkpoint, sealed by its {MANIFEST}; a run could not go on from it if the model in it were "
            "replaced. Name another folder."
        )
    inside = sorted(
        one.name
        for one in path.iterdir()
        if one.is_dir() and one.name != CHAT_TEMPLATES and not one.name.startswith(_ASIDE)
    )
    if inside:
        raise FileExistsError(
            f"{folder} holds more than a model, the folder {inside[0]} for example, so nothing in it is replaced; name another "
            "folder."
        )
    return path


def try_writing(folder: str | Path) -> None:
    """See that something can be written into a folder, or into the nearest one above it that is there, by doing it.

    What the system says of rights is not enough: a file system may be read-only, sealed or full.

    Raises:
        NotADirectoryError: a file is in its place, or in that of a folder above it.
        PermissionError: nothing can be written there.
    """
    path = Path(folder).expanduser().resolve()
    above = _nearest(path)
    if not above.is_dir():
        raise NotADirectoryError(f"{above} is a file, so nothing can be written into {folder}; name another folder.")
    try:
        os.rmdir(tempfile.mkdtemp(prefix=_ASIDE, dir=above))
    except OSError as error:
        raise PermissionError(
            f"Nothing can be written into {above} ({error.strerror}); name another folder."
        ) from error


def _nearest(path: Path) -> Path:
    """The path itself, or the nearest above it that is there."""
    return next(one for one in (path, *path.parents) if one.exists())


@contextlib.contextmanager
def whole_folder(folder: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A new folder beside `folder` to write into; it takes that place when the block ends, and is removed if it fails.

    A killed process leaves the old model or the new one, and a folder `.NAME.incomplete-PID` that may be removed; everything is on
    the disk before it is moved. A kill between the two renames of a replacement leaves the old model as `.NAME.before-PID`, which
    the next call, or `check_free`, moves back.

    Where `folder` is there and empty, perhaps the current one or another disk, what was written moves into it, from a folder
    `.incomplete-PID` in it. Of a model that is replaced, what `files_of_model` names goes; all else is carried over.

    Raises:
        OSError: as `check_free`, or the disk is full.
    """
    path = check_free(folder, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    into = path.exists() and _is_empty(path)
    aside = path / f"{_ASIDE}{os.getpid()}" if into else path.with_name(f".{path.name}{_ASIDE}{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that had this number before
    aside.mkdir()
    try:
        yield aside
        flush_all(aside)
        if into:
            for one in sorted(aside.iterdir(), key=lambda one: one.name == CONFIG):
                one.rename(path / one.name)  # config.json last: without it, it is no model yet
            flush(path)
        elif path.exists():
            _replace(path, aside)
        else:
            aside.rename(path)
        flush(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def flush(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk itself, where a crash of the machine cannot undo it."""
    if os.name == "nt" and path.is_dir():  # there, folders cannot be opened, and need not be
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_all(folder: Path) -> None:
    """As `flush`, of all that is in a folder, and of the folder."""
    for one in folder.rglob("*"):
        if not one.is_symlink():
            flush(one)
    flush(folder)


def files_of_model(folder: str | Path) -> tuple[str, ...]:
    """Names in a folder that are of the model in it, and are nothing without it.

    Its config, weights (by the names that `from_pretrained` looks for, or that its config or its index gives), adapters, code,
    processors and tokenizer, provenance, an export, and what was measured of it (see `sima_hf.folders.file_names`).

    Args:
        folder: a model's; one that is not there has none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return ()
    settings = {path.name for path in model_settings(folder) if path.parent == folder}
    of_it = {CONFIG, CHAT_TEMPLATES, *settings, *_code_of(folder), *_named(folder), *_exported(folder)}
    found = (
        one.name
        for one in folder.iterdir()
        if one.name in of_it or matches(one.name, (*WEIGHT_FILES, *ADAPTER_FILES)) or is_record(one)
    )
    return tuple(sorted(found))


def _named(folder: Path) -> set[str]:
    """Names of the files of weights that a model's config, and the indices beside it, give."""
    weights = json_or_nothing(folder / CONFIG).get("transformers_weights")
    found = {weights} if isinstance(weights, str) else set()
    patterns = ("model.safetensors.index*.json", "pytorch_model.bin.index*.json", *map(glob.escape, found))
    for index in (path for pattern in patterns for path in folder.glob(pattern)):
        shards = json_or_nothing(index).get("weight_map")
        found |= {one for one in shards.values() if isinstance(one, str)} if isinstance(shards, dict) else set()
    return found


def _exported(folder: Path) -> set[str]:
    """Names of the files of an exported model, by its record."""
    files = json_or_nothing(folder / EXPORT).get("files")
    return {EXPORT, *(one for one in files if isinstance(one, str))} if isinstance(files, list) else set()


def _code_of(path: Path) -> set[str]:
    """Names of the Python files that hold the code of a model, by its config's `auto_map`, and what they import beside them."""
    places = code_places(json_or_nothing(path / CONFIG).get("auto_map"))
    waiting, found = [place.rpartition(".")[0] for place in places if "--" not in place], set()
    while waiting:
        file = path / f"{waiting.pop()}.py"
        if file.name not in found and file.is_file():
            found.add(file.name)
            text = file.read_text(encoding="utf-8", errors="replace")
            waiting += re.findall(r"^from \.(\w+) import", text, re.MULTILINE)
    return found


def _is_empty(path: Path) -> bool:
    """Whether nothing is in a folder but what a killed process may have left."""
    return all(one.name.startswith(_ASIDE) for one in path.iterdir())


def _replace(path: Path, aside: Path) -> None:
    """Put `aside` in the place of the model in `path`, which is moved away first and back if that fails."""
    gone = set(files_of_model(path))
    for one in path.iterdir():
        if one.name not in gone and not one.is_dir() and not (aside / one.name).exists():
            _carry(one, aside / one.name)
    flush(aside)
    before = path.with_name(f".{path.name}{_BEFORE}{os.getpid()}")
    path.rename(before)
    try:
        aside.rename(path)
    except OSError:
        before.rename(path)
        raise
    shutil.rmtree(before)


def _carry(file: Path, to: Path) -> None:
    """The same file under another name, a link as a link; a copy where the file system has no second names."""
    try:
        os.link(file, to, follow_symlinks=False)
    except (NotImplementedError, OSError):
        shutil.copy2(file, to, follow_symlinks=False)
        if not to.is_symlink():
            flush(to)


def _bring_back(path: Path) -> None:
    """Give a model its name back that a killed process had moved away, if nothing has taken that name."""
    if path.exists() or not path.parent.is_dir():
        return
    moved = sorted(path.parent.glob(f"{glob.escape(f'.{path.name}{_BEFORE}')}*"), key=lambda one: one.stat().st_mtime)
    if moved:
        moved[-1].rename(path)
        logging.getLogger(__name__).warning(
            "A process was killed while it put another model in the place of %s; the one that was there is back.", path
        )
