"""That what is sent is what was checked: files are remembered by their hash before anything of them is read."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import PublishError
from ..folders.weights import some


def hashes_of(files: Iterable[Path]) -> dict[Path, str]:
    """SHA-256 of files, in hexadecimal digits, by absolute path."""
    return {path.absolute(): _sha256(path) for path in files}


def check_unchanged(checked: Mapping[Path, str], sent: Mapping[Path, str]) -> None:
    """Refuse files that are others now than those that were checked.

    Args:
        checked: what `hashes_of` said before the checks.
        sent: the same of files as they are about to be sent; those that it lacks are read now.

    Raises:
        PublishError: some are, as where a training writes into the folder meanwhile.
    """
    changed = [path for path, found in checked.items() if (sent[path] if path in sent else _now(path)) != found]
    if changed:
        raise PublishError(
            f"Since it was checked, {changed[0].parent} has changed ({some(path.name for path in changed)}), so what would be sent is not "
            "what was checked. Nothing was pushed; wait until nothing writes into the folder any more, and push again."
        )


def _now(path: Path) -> str | None:
    return _sha256(path) if path.is_file() else None


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()
