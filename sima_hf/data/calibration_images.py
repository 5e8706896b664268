"""Images of a folder, as a model's own image processor makes them, in batches that `calibrate` takes."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers.utils import logging

from ..errors import DataError
from ..errors.words import first_few
from .folders import files_of_images
from .images import UnreadableImage, decode_labeled
from .pixels import normalize
from .processors import normalization
from .views import EvalView


logger = logging.get_logger(__name__)


class CalibrationImages:
    """Unlabeled images, drawn at random from a folder or a split, decoded once and kept as bytes; iterable as often as wanted.

    Where the image processor does more than to rescale and normalize bytes, what it makes is kept as float32, four times the
    memory.

    Args:
        folder: image files, in it or in folders below; what these are called does not matter. Or a split of `datasets`.
        processor: the model's image processor.
        count: images to draw; fewer where there are not so many.
        batch_size: images in a batch.
        seed: of the draw.
        max_unreadable: files that are skipped, with a warning, because they cannot be read.
        progress: show a bar on stderr.

    Attributes:
        folder: as given.
        unreadable: names of the skipped files, each with the reason.

    Raises:
        DataError: no such folder, no image in it, too many that cannot be read, or images that do not come out in one size.
    """

    def __init__(
        self,
        folder: Any,
        processor,
        count: int = 2048,
        batch_size: int = 32,
        seed: int = 0,
        max_unreadable: int = 20,
        progress: bool = True,
    ):
        if count < 1 or batch_size < 1:
            raise DataError(f"`count` and `batch_size` must be positive, got {count} and {batch_size}.")
        stored = isinstance(folder, (str, Path))
        self.folder, self.batch_size, self.unreadable = Path(folder) if stored else folder, batch_size, []
        files = image_files(folder) if stored else list(range(len(folder)))
        column = None if stored else image_column(folder)
        random.Random(seed).shuffle(files)
        view, self._mean_and_std = view_and_normalization(processor)
        self._pixels: list[torch.Tensor] = []
        with tqdm(total=min(count, len(files)), desc="reading images", unit="image", disable=not progress) as bar:
            for file in files:
                if len(self._pixels) == count:
                    break
                try:
                    image, _ = decode_labeled(file if column is None else column[file]["image"], 0)
                except UnreadableImage as error:
                    self._skip(str(error), max_unreadable)
                    continue
                self._pixels.append(view(image))
                bar.update()
                if self._pixels[-1].shape != self._pixels[0].shape:
                    raise DataError(
                        f"The image processor must make images of one size, got {tuple(self._pixels[-1].shape)} of {file} and "
                        f"{tuple(self._pixels[0].shape)} of another; take one that resizes to a fixed height and width, or crops."
                    )
        if not self._pixels:
            raise DataError(f"None of the images in {folder} can be read: {first_few(self.unreadable)}.")
        if len(self._pixels) < count:
            logger.warning(f"{folder} has {len(self._pixels)} images that can be used, fewer than {count}.")

    def _skip(self, name: str, most: int) -> None:
        self.unreadable.append(name)
        if len(self.unreadable) > most:
            raise DataError(
                f"More than {most} images cannot be read: {first_few(self.unreadable)}. Repair or remove them, or raise "
                "`max_unreadable` (--max-unreadable)."
            )
        logger.warning(f"Skipped, cannot be read: {name}.")

    def __len__(self) -> int:
        """How many batches."""
        return -(-len(self._pixels) // self.batch_size)

    @property
    def num_images(self) -> int:
        """How many images were read."""
        return len(self._pixels)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Batches `{"pixel_values": float32 (B, C, H, W)}`, normalized, the last one perhaps smaller; the same each time."""
        for start in range(0, len(self._pixels), self.batch_size):
            pixels = torch.stack(self._pixels[start : start + self.batch_size])
            yield {"pixel_values": normalize(pixels, *self._mean_and_std) if self._mean_and_std else pixels}


def view_and_normalization(processor) -> tuple[Any, tuple[list[float], list[float]] | None]:
    """How to make a tensor of one image, and the mean and standard deviation with which `normalize` then does the rest.

    Bytes are a quarter of the memory of floats, and are normalized on the device. Where the processor does more to them, the
    tensors are what it makes, float32, and there is nothing left to do: None.
    """
    try:
        return EvalView(processor), normalization(processor)
    except (DataError, ValueError, TypeError, AttributeError):

        def view(image):
            return processor(image, return_tensors="pt")["pixel_values"][0].float()

        return view, None


def image_column(images: Any) -> Any:
    """A split of `datasets` with its one column of images alone, not decoded and called `image`.

    Raises:
        DataError: it has none, or several.
    """
    from datasets import Image

    columns = [name for name, kind in images.features.items() if isinstance(kind, Image)]
    if len(columns) != 1:
        raise DataError(
            f"`images` must have one column of images, got {len(columns)}: {', '.join(columns) or 'none'}."
        )
    images = images.with_format(None).select_columns(columns).cast_column(columns[0], Image(decode=False))
    return images if columns == ["image"] else images.rename_column(columns[0], "image")


def image_files(folder: str | Path) -> list[Path]:
    """Image files in a folder and below it, by their extensions, in order of their paths; hidden ones are not looked at.

    Raises:
        DataError: no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} with images.")
    found = files_of_images(folder)
    if not found:
        raise DataError(f"{folder} holds no images: it needs files such as .jpg or .png, in it or in folders below.")
    return found
