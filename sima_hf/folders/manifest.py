"""The manifest of a training checkpoint: sizes and SHA-256 sums of its files, by which a whole one is told from a damaged one."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from .atomic_folder import flush
from .file_names import MANIFEST


PREFIX = "checkpoint-"


def checkpoints(run_dir: str | Path) -> list[Path]:
    """The checkpoints of a run that were finished, oldest first, by the step in their name; none if there is no folder."""
    run_dir = Path(run_dir)
    found = [path for path in run_dir.glob(f"{PREFIX}*") if path.is_dir() and step_of(path) is not None]
    return sorted(found, key=step_of)


def step_of(folder: str | Path) -> int | None:
    """The optimizer step of `checkpoint-<step>`, or None for another name."""
    text = Path(folder).name.removeprefix(PREFIX)
    return int(text) if text.isdigit() else None


def seal(folder: Path, step: int) -> None:
    """Write the manifest of a folder and flush all of it to the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    entries = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in files
    }
    path = folder / MANIFEST
    path.write_text(json.dumps({"step": step, "files": entries}, indent=1) + "\n", encoding="utf-8")
    for one in [*files, path, *{file.parent for file in files}, folder]:
        flush(one)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def damage(folder: str | Path) -> str | None:
    """What is wrong with a checkpoint, as the rest of a sentence, or None if every file is as it was written."""
    folder = Path(folder)
    try:
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return f"has no {MANIFEST}, so it is not a complete checkpoint of sima_hf"
    except (OSError, ValueError, KeyError, TypeError):
        return f"has a {MANIFEST} that cannot be read"
    for name, wanted in entries.items():
        path = folder / name
        if not path.is_file():
            return f"lacks the file {name}"
        if path.stat().st_size != wanted["bytes"]:
            return f"is damaged: {name} has {path.stat().st_size:,} bytes instead of {wanted['bytes']:,}"
        if _digest(path) != wanted["sha256"]:
            return f"is damaged: {name} is not what was written"
    return None


def last_good(
    run_dir: str | Path, before: int | None = None, why_not: Callable[[Path], str | None] = damage
) -> Path | None:
    """The newest checkpoint of a run that is undamaged, or good for what `why_not` asks; of a step below `before` if given."""
    for path in reversed(checkpoints(run_dir)):
        if (before is None or step_of(path) < before) and why_not(path) is None:
            return path
    return None
