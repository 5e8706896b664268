"""A model's folder that appears whole or not at all: written aside, then moved."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


# What belongs to the model that was there before and must not lie beside the new one.
_OF_THE_OLD = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*", "sima_provenance.json")


def check_free(folder: str | Path, overwrite: bool = False) -> Path:
    """The absolute path of a folder that may be written, links followed.

    Args:
        folder: to be made; its parents will be, too.
        overwrite: it may hold a model already, which will be replaced.

    Raises:
        FileExistsError: it is there and not empty, or not what `overwrite` may replace: a folder with a config.json and no
            folders in it.
        NotADirectoryError: it, or what should be a folder above it, is a file.
        PermissionError: nothing may be written there.
    """
    path = Path(folder).expanduser().resolve()
    above = next(one for one in (path, *path.parents) if one.exists())
    if not above.is_dir():
        raise NotADirectoryError(f"{above} is a file, so no folder {folder} can be made; name another one.")
    # Not of root's, who may write everywhere: there the system itself says no, later.
    if not os.access(above if above != path else path.parent, os.W_OK):
        raise PermissionError(f"Nothing may be written into {above}; name another folder.")
    if not path.exists() or not any(path.iterdir()):
        return path
    if not overwrite:
        raise FileExistsError(
            f"{folder} is not empty; name a new folder, or replace the model in it with --overwrite."
        )
    if not (path / "config.json").is_file():
        raise FileExistsError(
            f"{folder} is not empty and holds no model (no config.json), so nothing in it is replaced; name another folder."
        )
    inside = sorted(one.name for one in path.iterdir() if one.is_dir())
    if inside:
        raise FileExistsError(
            f"{folder} holds more than a model, the folder {inside[0]} for example, so nothing in it is replaced; name another "
            "folder."
        )
    return path


@contextlib.contextmanager
def whole_folder(folder: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A new folder beside `folder` to write into; it takes that place when the block ends, and is removed if it fails.

    A process that is killed leaves what was there before, and a folder `.NAME.incomplete-PID` that may be removed. A model
    that is replaced goes with its weights; files that are not of it, such as README.md, are carried over.

    Raises:
        OSError: as `check_free`, or the disk is full.
    """
    path = check_free(folder, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.incomplete-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that had this number before
    aside.mkdir()
    try:
        yield aside
        if not path.exists():
            aside.rename(path)
        elif not any(path.iterdir()):
            _move_into(aside, path)
        else:
            _replace(path, aside)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _move_into(aside: Path, path: Path) -> None:
    """Into an empty folder, which may be the current one or a mount point; config.json, without which it is no model, last."""
    for one in sorted(aside.iterdir(), key=lambda one: one.name == "config.json"):
        one.replace(path / one.name)


def _replace(path: Path, aside: Path) -> None:
    """Put `aside` in the place of the model in `path`."""
    for one in path.iterdir():
        if not (aside / one.name).exists() and not any(one.match(pattern) for pattern in _OF_THE_OLD):
            shutil.copy2(one, aside / one.name)
    before = path.with_name(f".{path.name}.before-{os.getpid()}")
    path.rename(before)
    try:
        aside.rename(path)
    except OSError:
        before.rename(path)
        raise
    shutil.rmtree(before)
