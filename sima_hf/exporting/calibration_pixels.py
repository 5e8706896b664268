"""Unlabeled images to quantize with: some that ranges are read off, others that the result is measured on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.calibration_images import CalibrationImages, image_files
from ..errors import DataError


# Ranges hardly move beyond so many images; one of four is held out, and fewer of those than eight say nothing.
MOST, FEWEST, HELD_OUT = 512, 32, 4
BATCH = 32


@dataclass(frozen=True)
class CalibrationPixels:
    """Processed images, float32 `(N, C, H, W)` each: `seen` gives the ranges, `held_out` the agreement, of which `least` is asked for.

    Without `least` it is up to what is measured.
    """

    seen: torch.Tensor
    held_out: torch.Tensor
    least: float | None = None


def check_calibration_images(images: Any, processor: Any = None, has_processor: bool = True) -> None:
    """What can be said before anything is read: that there are images, enough of them, and what processes them.

    Raises:
        DataError: see `read_calibration_images`.
    """
    files = isinstance(images, (str, Path)) or hasattr(images, "features")
    count = len(image_files(images)) if isinstance(images, (str, Path)) else _length(images)
    if count < FEWEST:
        raise DataError(
            f"`calibration_images` must be {FEWEST} or more, got {count}: one of {HELD_OUT} is for measuring alone."
        )
    if files and processor is None and not has_processor:
        raise DataError("`processor` must be the model's image processor where images come as files, got None.")


def read_calibration_images(
    images: Any, processor: Any, shape: tuple[int, ...], least: float | None = None, seed: int = 0
) -> CalibrationPixels:
    """Draw at most `MOST` images, and hold a quarter of them out.

    Args:
        images: a folder, a split of `datasets` with a column of images, or processed pixels, each `(C, H, W)`.
        processor: the image processor; needed with a folder or a split.
        shape: `(C, H, W)` that the model takes.
        least: agreement that is asked of a file, where it is not the default.
        seed: of the draw.

    Raises:
        DataError: too few images, images of another kind or shape, or no image processor where one is needed.
    """
    check_calibration_images(images, processor, has_processor=False)
    if isinstance(images, (str, Path)) or hasattr(images, "features"):
        count = min(MOST, len(image_files(images)) if isinstance(images, (str, Path)) else len(images))
        drawn = CalibrationImages(images, processor, count, seed=seed, progress=False)
        pixels = torch.cat([batch["pixel_values"] for batch in drawn])
    else:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:MOST].tolist()
        pixels = _stacked([images[index] for index in order])
    if tuple(pixels.shape[1:]) != tuple(shape):
        raise DataError(
            f"`calibration_images` must come out as the model takes them, {tuple(shape)}, got {tuple(pixels.shape[1:])}."
        )
    if len(pixels) < FEWEST:
        raise DataError(f"`calibration_images` must be {FEWEST} or more that can be read, got {len(pixels)}.")
    held = len(pixels) // HELD_OUT
    return CalibrationPixels(pixels[held:].float(), pixels[:held].float(), least)


def _length(images: Any) -> int:
    try:
        return len(images)
    except TypeError:
        raise DataError(
            "`calibration_images` must be a folder, a split of `datasets`, or a sequence of processed pixels (C, H, W), got "
            f"{type(images).__name__}."
        ) from None


def _stacked(images: list) -> torch.Tensor:
    shapes = {
        tuple(one.shape) if isinstance(one, torch.Tensor) and one.is_floating_point() else type(one).__name__
        for one in images
    }
    shape = next(iter(shapes))
    if len(shapes) > 1 or isinstance(shape, str) or len(shape) != 3:
        found = ", ".join(sorted(map(str, shapes)))
        raise DataError(
            "`calibration_images` must be processed pixels (C, H, W) of floating point and of one size, a folder or a split, got "
            f"{found}."
        )
    return torch.stack([one.detach().cpu() for one in images])
