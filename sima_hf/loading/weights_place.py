"""Where the weights of a model are: raw or averaged in a training checkpoint, or on the Hub; and its image processor."""

from pathlib import Path

from ..errors import CheckpointError
from ..folders.manifest import MANIFEST, checkpoints, damage, last_good, step_of
from .load_errors import check_name, check_no_adapter


WEIGHTS = ("ema", "raw")
AVERAGE = "ema"  # folder of the averaged model inside a training checkpoint, as SimATrainer writes it
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def place_of_weights(name: str, weights: str | None = None) -> str:
    """The folder or Hub name that the weights asked for are loaded from; of a folder, all files are there.

    Args:
        name: folder or Hub name. A training checkpoint holds the raw weights itself and, if they were averaged, the average
            in its folder `ema`.
        weights: "ema" for that average; "raw" or None for what is in the folder itself.

    Raises:
        CheckpointError: no such folder, no averaged weights in it, or a checkpoint that was not finished or is damaged.
        ValueError: another word for the weights.
    """
    if weights not in (None, *WEIGHTS):
        raise ValueError(f"`weights` must be 'ema' or 'raw', got {weights!r}.")
    folder = Path(name)
    check_no_adapter(folder)
    if folder.is_dir():
        return str(_weights_folder(folder, weights))
    check_name(name)
    if weights == "ema":
        raise CheckpointError(
            f"There is no folder {name}; averaged weights are chosen from a training checkpoint on the disk."
        )
    return name


def _weights_folder(folder: Path, weights: str | None) -> Path:
    """The folder that holds the weights asked for, all files present.

    Raises:
        CheckpointError: it is not complete, with what is missing and what could be used instead.
    """
    if (folder / MANIFEST).is_file():
        trouble = damage(folder)
        if trouble:
            earlier = last_good(folder.parent, before=step_of(folder))
            raise CheckpointError(f"{folder} {trouble}.{f' The one before it is good: {earlier}.' if earlier else ''}")
    place = folder / AVERAGE if weights == "ema" else folder
    if not place.is_dir():
        raise CheckpointError(
            f"{folder} has no folder {AVERAGE} with averaged weights. Training checkpoints have one unless --ema_decay was 0; "
            "of another folder, evaluate what is in it: leave the weights out."
        )
    missing = [] if (place / "config.json").is_file() else ["config.json"]
    if not any((place / file).is_file() for file in WEIGHT_FILES):
        missing.append(WEIGHT_FILES[0])
    if missing:
        inside = checkpoints(folder)
        remedy = (
            f"It holds checkpoints: name one of them, such as {inside[-1]}."
            if inside
            else ("If a training run was writing it, it was not finished: take the checkpoint before it.")
        )
        raise CheckpointError(f"{place} is not a complete model: it has no {' and no '.join(missing)}. {remedy}")
    return place


def processor_source(folder: str) -> str:
    """Where the image processor is: beside the weights or, for averaged ones, in the checkpoint around them."""
    path = Path(folder)
    inside = path.name == "ema" and not (path / "preprocessor_config.json").is_file()
    return str(path.parent) if inside and (path.parent / "preprocessor_config.json").is_file() else folder
