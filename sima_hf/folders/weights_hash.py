"""One number for a model's weights, so that what was measured can be told from what is published."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from transformers.utils import cached_file

from ..errors import PublishError
from .json_files import read_json
from .weights import weights_of


WEIGHTS_HASH = "weights_sha256"  # name of the entry in files of results


def weights_hash(files: Iterable[str | Path]) -> str:
    """SHA-256 of the weights in safetensors files: of names, dtypes, shapes and bytes, in the order of the names.

    How they are spread over files, and what else the files say, does not count; a cast to another dtype does.

    Args:
        files: all files of one model.

    Returns:
        64 hexadecimal digits.
    """
    place_of = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            place_of.update(dict.fromkeys(opened.keys(), file))
    found = hashlib.sha256()
    for name, file in sorted(place_of.items()):
        with safe_open(file, "pt") as opened:
            tensor = opened.get_tensor(name)
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def hash_of(name: str | Path, revision: str | None = None) -> str | None:
    """`weights_hash` of a model's folder, or of a model on the Hub that has been loaded here before; None if it has no safetensors.

    Args:
        name: folder or Hub name.
        revision: of the model on the Hub.
    """
    folder = Path(name)
    if not folder.is_dir():
        config = cached_file(str(name), "config.json", revision=revision, _raise_exceptions_for_missing_entries=False)
        if config is None:
            return None
        folder = Path(config).parent
    try:
        return weights_hash(weights_of(folder, read_json(folder / "config.json").get("transformers_weights")).files)
    except PublishError:  # pickles
        return None
