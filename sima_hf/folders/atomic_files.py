"""Files that are written whole or not at all."""

import os
import secrets
from pathlib import Path

from .atomic_folder import flush


def write_whole(path: str | Path, content: bytes) -> Path:
    """Write a file beside its place and move it there, so that a reader finds the old one or the new one, never a part.

    Several processes may write one file at the same time: the last to finish wins. A process that is killed leaves what was there
    before, and perhaps a hidden file `.NAME-HEX` that may be removed.

    Args:
        path: the file; its folder must exist.
        content: the whole of it, in bytes.

    Returns:
        The file.

    Raises:
        OSError: it cannot be written; what was there before is as it was, and nothing is left beside it.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        with aside.open("xb") as file:
            file.write(content)
        flush(aside)  # else a crash of the machine may leave an empty file under the new name
        os.replace(aside, path)
        flush(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return path
