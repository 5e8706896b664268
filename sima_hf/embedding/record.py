"""The JSON beside a collection's embeddings: what made them, how far they are, how quick it was; and the folder they are in."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError, PublishError
from ..errors.words import first_few
from ..folders.atomic_files import write_whole
from ..folders.atomic_folder import try_writing
from ..folders.json_files import read_json


RECORD, CARD = "embedding.json", "README.md"
# With it, `datasets.load_dataset(folder)` finds the parquet files, here and after a push to the Hub.
_CARD_TEXT = """---
configs:
- config_name: default
  data_files: part-*.parquet
---

{images} embeddings of {size} numbers by `sima-hf embed`, of {data} by {model} ({pooling}); `{record}` says how they were made.

    from datasets import load_dataset
    embeddings = load_dataset("parquet", data_files="part-*.parquet", split="train").with_format("numpy")
"""


def run_of(settings: Mapping[str, Any]) -> str:
    """A number for the settings of a run: all that a file's content follows from."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def open_folder(folder: Path, settings: dict[str, Any], overwrite: bool = False) -> dict[str, Any]:
    """What a folder's record says, which is written if the folder is new; before that, the folder is made.

    Args:
        folder: for embeddings; new, empty, or with those of the same settings, finished or not.
        settings: of this run.
        overwrite: remove the embeddings of other settings.

    Raises:
        DataError: it holds embeddings of other settings, which are named, or something else.
        OSError: nothing can be written there.
    """
    settings = json.loads(json.dumps(settings, default=str))
    if folder.exists() and not folder.is_dir():
        raise DataError(f"The output must be a folder, got the file {folder}.")
    try_writing(folder)
    before = _read(folder)
    if before is None and folder.is_dir() and any(not one.name.startswith(".") for one in folder.iterdir()):
        raise DataError(f"{folder} is not empty and holds no {RECORD} of `sima-hf embed`; name a new folder.")
    if before is not None and before["settings"] != settings:
        if not overwrite:
            raise DataError(
                f"{folder} holds the embeddings of another run: {_difference(before['settings'], settings)}. Name another folder, "
                "or replace them with --overwrite."
            )
        _remove(folder)
        before = None
    if before is not None:
        return before
    record = {"complete": False, "settings": settings, "sessions": []}
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder, record)
    return record


def write_record(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write the record, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    return write_whole(folder / RECORD, (json.dumps(record, indent=1, default=str) + "\n").encode())


def write_card(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write the README by which `datasets` finds the files.

    Raises:
        OSError: it cannot be written.
    """
    settings = record["settings"]
    shown = {name: settings[name] for name in ("data", "model", "pooling")}
    text = _CARD_TEXT.format(images=f"{record['num_images']:,}", size=record["size"], record=RECORD, **shown)
    return write_whole(folder / CARD, text.encode())


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        found = read_json(path)
    except PublishError as error:
        raise DataError(str(error)) from error
    if not isinstance(found.get("settings"), dict) or not isinstance(found.get("sessions"), list):
        raise DataError(f"{path} is not as `sima-hf embed` leaves it; name a new folder.")
    return found


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The settings that differ, in words."""
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    if names == ["fingerprint"]:
        return "its images are other files, or of other sizes"
    names = [name for name in names if name != "fingerprint"]
    told = [
        f"{name} is {theirs.get(name)!r} there and {ours.get(name)!r} here"
        if len(f"{theirs.get(name)}{ours.get(name)}") < 200
        else f"the {name} differs"
        for name in names
    ]
    return first_few(told, 3)


def _remove(folder: Path) -> None:
    """The files of embeddings, and what says of them; the record last, without which nothing goes on from here."""
    for path in (*folder.glob("part-*.parquet"), folder / CARD, folder / RECORD):
        path.unlink(missing_ok=True)
