"""A model's folder that appears whole or not at all: written aside, then moved."""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .model_records import MANIFEST, MODEL_SETTINGS, is_record


# The model that was there before; neither it nor what describes it may lie beside the new one.
_MODEL = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*",
    "adapter_config.json",
    "adapter_model*",
    *MODEL_SETTINGS,
)
_ASIDE = ".incomplete-"


def check_free(folder: str | Path, overwrite: bool = False) -> Path:
    """The absolute path of a folder that may be written, links followed.

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
    if not (path / "config.json").is_file():
        raise FileExistsError(
            f"{folder} is not empty and holds no model (no config.json), so nothing in it is replaced; name another folder."
        )
    if (path / MANIFEST).is_file():
        raise FileExistsError(
            f"{folder} is a training checkpoint, sealed by its {MANIFEST}; a run could not go on from it if the model in it were "
            "replaced. Name another folder."
        )
    inside = sorted(one.name for one in path.iterdir() if one.is_dir() and not one.name.startswith(_ASIDE))
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

    A process that is killed leaves what was there before, and a folder `.NAME.incomplete-PID` that may be removed. Where
    `folder` is there and empty, perhaps the current one or another disk, what was written moves into it, from a folder
    `.incomplete-PID` in it. A model that is replaced goes with its weights, adapters, code, processors, provenance and
    what was measured of it (see `sima_hf.model_records`); files that are not of it, such as README.md, are carried over.

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
        if into:
            for one in sorted(aside.iterdir(), key=lambda one: one.name == "config.json"):
                one.rename(path / one.name)  # config.json last: without it, it is no model yet
        elif path.exists():
            _replace(path, aside)
        else:
            aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _code_of(path: Path) -> set[str]:
    """Names of the Python files that hold the code of a model, by its config's `auto_map`, and what they import beside them."""
    try:
        auto_map = json.loads((path / "config.json").read_text(encoding="utf-8")).get("auto_map") or {}
        places = [place for one in auto_map.values() for place in ([one] if isinstance(one, str) else one) if place]
    except (OSError, ValueError, AttributeError, TypeError):
        return set()
    waiting, found = [place.rpartition(".")[0] for place in places if "--" not in place], set()
    while waiting:
        file = path / f"{waiting.pop()}.py"
        if file.name in found or not file.is_file():
            continue
        found.add(file.name)
        waiting += re.findall(
            r"^from \.(\w+) import", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE
        )
    return found


def _is_empty(path: Path) -> bool:
    """Whether nothing is in a folder but what a killed process may have left."""
    return all(one.name.startswith(_ASIDE) for one in path.iterdir())


def _replace(path: Path, aside: Path) -> None:
    """Put `aside` in the place of the model in `path`."""
    code = _code_of(path)
    for one in path.iterdir():
        of_the_old = (
            one.is_dir() or one.name in code or any(one.match(pattern) for pattern in _MODEL) or is_record(one)
        )
        if not of_the_old and not (aside / one.name).exists():
            shutil.copy2(one, aside / one.name)
    before = path.with_name(f".{path.name}.before-{os.getpid()}")
    path.rename(before)
    try:
        aside.rename(path)
    except OSError:
        before.rename(path)
        raise
    shutil.rmtree(before)
