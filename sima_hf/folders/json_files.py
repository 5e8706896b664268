"""Read a model's files of JSON, with errors that name the file."""

import json
from pathlib import Path
from typing import Any

from ..errors import PublishError


def read_json(path: Path, finite: bool = False) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: the file, in UTF-8.
        finite: refuse NaN and infinities, which Python writes and JSON does not have.

    Raises:
        PublishError: it cannot be read, or holds something else.
    """
    content = parse_json(path, finite)
    if not isinstance(content, dict):
        raise PublishError(f"{path} must hold a JSON object, got a {type(content).__name__}.")
    return content


def parse_json(path: Path, finite: bool = False, copy_of: Path | None = None) -> Any:
    """As `read_json`, of whatever kind the content is; errors name the file that it is a copy of."""

    def refuse(word: str):
        raise ValueError(f"it has {word} in place of a number")

    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse if finite else None)
    except (OSError, RecursionError, ValueError) as error:
        raise PublishError(
            f"{copy_of or path} cannot be read as JSON ({error}); it may be half-written. Mend it, or save the model again."
        ) from error
