"""How far a run was when it made a checkpoint, and whether another run may go on from there."""

import json
from pathlib import Path

from transformers.utils import logging

from ...errors import CheckpointError
from ..arguments import RecipeArguments


logger = logging.get_logger(__name__)

PROGRESS = "position.json"
# What a run should not change on its way, and what it means if it does.
_SETTINGS = {
    "seed": "the order of the images and their views are other ones from here on",
    "repeated_augmentation": "the order of the images is another one from here on",
    "steps_per_epoch": "the data set has another size, so epochs begin and end elsewhere",
}
_READERS = ("num_processes", "dataloader_num_workers")


def progress_of(args: RecipeArguments, step: int, steps_per_epoch: int, global_batch_size: int, images) -> dict:
    """What `position.json` holds: optimizer steps and images so far, and the settings that the rest depends on.

    `images` are those to train on; a stream's number of them is kept, for which it may have been read once.
    """
    return {
        "step": step,
        "epoch": step / steps_per_epoch,
        "images_seen": step * global_batch_size,
        "global_batch_size": global_batch_size,
        "steps_per_epoch": steps_per_epoch,
        "seed": args.seed,
        "repeated_augmentation": args.repeated_augmentation,
        "num_processes": args.world_size,
        "dataloader_num_workers": args.dataloader_num_workers,
        "num_images": getattr(images, "num_images", None),
    }


def write_progress(folder: Path, progress: dict) -> None:
    """Write it into a checkpoint."""
    (folder / PROGRESS).write_text(json.dumps(progress, indent=1) + "\n", encoding="utf-8")


def classes_of(checkpoint: Path) -> tuple[list[str], int | None] | None:
    """The names of a checkpoint's classes by index and the number of images in a stream's epoch, so that it is not read again.

    None where it names no classes; the number is None where it does not say.
    """
    try:
        names = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["id2label"]
        progress = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, KeyError):
        return None
    return [names[index] for index in sorted(names, key=int)], progress.get("num_images")


def step_to_resume(checkpoint: Path, now: dict, streams: bool) -> int:
    """The step that a checkpoint was made at, if a run with the progress `now` may go on from it.

    Settings that change what comes without making it wrong are warned of.

    Args:
        checkpoint: a folder with `position.json`.
        now: `progress_of(...)` the run that is to go on.
        streams: whether images come from a stream, whose order depends on who reads it.

    Raises:
        CheckpointError: it was made by something else, or with another global batch size.
    """
    try:
        before = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint} has no {PROGRESS}: it was not made by sima_hf's training.") from None
    if before["global_batch_size"] != now["global_batch_size"]:
        raise CheckpointError(
            f"The global batch size must be that of {checkpoint}, {before['global_batch_size']}, got {now['global_batch_size']}. Set "
            "--per_device_train_batch_size and --gradient_accumulation_steps so that, times the number of processes, they give the "
            "same."
        )
    for name, meaning in _SETTINGS.items():
        if before[name] != now[name]:
            logger.warning(f"{checkpoint} was made with {name} {before[name]}, this run has {now[name]}: {meaning}.")
    if streams and any(before[name] != now[name] for name in _READERS):
        logger.warning(
            f"{checkpoint} was made by {before['num_processes']} processes with {before['dataloader_num_workers']} workers each; "
            "with other numbers a stream goes on in another order than it would have."
        )
    return before["step"]
