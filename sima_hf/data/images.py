"""Images of a map-style data set, decoded when they are asked for, and put together to batches of bytes."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, ImageOps
from PIL import Image as PILImage
from transformers.utils import logging

from ..errors import DataError
from .sampling import Draw


logger = logging.get_logger(__name__)

# The label that losses and metrics leave out.
NO_LABEL = -100


class UnreadableImage(Exception):
    """An image that cannot be used; the text is its name and, in brackets, why."""


class TrainImages(torch.utils.data.Dataset):
    """Views of training images, one for each draw.

    An image that cannot be read is replaced by the next one that can, under the seed of the draw, and named in the sample.
    Where more than `max_unreadable` in a row cannot be read, the sample is black and has no label: `Unreadable.note`, which
    gets their names with the batch, then ends the run.

    Args:
        data: `datasets.Dataset` with columns `image` (not decoded) and `label`.
        view: (image, seed) -> uint8 (3, H, W), such as `TrainView`.
        max_unreadable: unreadable images that the run skips.
    """

    def __init__(self, data, view, max_unreadable: int = 0):
        self.data, self.view, self.max_unreadable = data, view, max_unreadable

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, draw: Draw) -> dict:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: list[Draw]) -> list[dict]:
        """The samples of a batch: `pixel_values` uint8 (3, H, W), `labels`, `seeds`, `unreadable` (names)."""
        rows = rows_at(self.data, [draw.index for draw in draws])
        samples, previous = [], None
        for draw in draws:
            # The views of one image come one after the other: it is decoded once for all of them in the batch.
            if draw.index != previous:
                image, label, failed = self._readable(draw.index, rows)
                previous = draw.index
            pixels = self.view(image or black(), draw.seed)
            samples.append({"pixel_values": pixels, "labels": label, "seeds": draw.seed, "unreadable": failed})
        return samples

    def _readable(self, index: int, rows: dict) -> tuple[PILImage.Image | None, int, list[str]]:
        failed = []
        for candidate in range(index, index + len(self)):
            candidate %= len(self)
            row = rows.get(candidate) or self.data[candidate]
            try:
                return *decode_labeled(row["image"], row["label"]), failed
            except UnreadableImage as error:
                failed.append(str(error))
            if len(failed) > self.max_unreadable:
                break
        return None, NO_LABEL, failed


class EvalImages(torch.utils.data.Dataset):
    """Images for evaluation, in the order of the data set: nothing about them is random.

    An unreadable image stays in its place, so that all processes have as many batches as they expect, as a black image with
    label -100, which losses and metrics leave out; it is named in the sample.

    Args:
        data: `datasets.Dataset` with columns `image` (not decoded) and `label`.
        view: image -> uint8 (3, H, W), such as `EvalView`.
    """

    def __init__(self, data, view):
        self.data, self.view = data, view

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict]:
        """The samples of a batch: `pixel_values` uint8 (3, H, W), `labels`, `unreadable` (names)."""
        rows = rows_at(self.data, indices)
        return [self._sample(rows[index]) for index in indices]

    def _sample(self, row: dict) -> dict:
        try:
            image, label = decode_labeled(row["image"], row["label"])
        except UnreadableImage as error:
            return {"pixel_values": self.view(black()), "labels": NO_LABEL, "unreadable": [str(error)]}
        return {"pixel_values": self.view(image), "labels": label, "unreadable": []}


def rows_at(data, indices: list[int]) -> dict[int, dict]:
    """Rows of a `datasets.Dataset` by index; one access for all of them, which is quicker than one for each."""
    indices = list(dict.fromkeys(indices))
    if not indices:
        return {}
    columns = data[indices]
    rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    return dict(zip(indices, rows, strict=True))


def decode_labeled(image, label: int | None) -> tuple[PILImage.Image, int]:
    """The decoded image, in RGB and turned as its EXIF data say, and its label.

    Args:
        image: what `datasets.Image(decode=False)` gives: {"path": str or None, "bytes": bytes or None}; or a file, or an image
            of PIL.
        label: index of the class; None or a negative number where it is not known.

    Raises:
        UnreadableImage: it cannot be decoded, or has no label.
    """
    if label is None or label < 0:
        raise UnreadableImage(f"{name_of(image)} (has no label)")
    try:
        return decode(image), label
    except MemoryError:
        raise
    except Exception as error:  # broken files make PIL's plugins raise whatever they happen to meet
        raise UnreadableImage(f"{name_of(image)} ({_reason(error, image)})") from error


def _reason(error: Exception, image) -> str:
    """What PIL says, without what it was given, which is named already."""
    path = image.get("path") if isinstance(image, dict) else str(image)
    said = str(error).replace(f" {path!r}", "").partition(" <_io")[0].strip(" :")
    if isinstance(error, KeyError):  # it shows its argument in quotes
        said = said.strip("'\" ")
    return said or type(error).__name__


def decode(image) -> PILImage.Image:
    """An image of PIL in RGB, upright; gray of 16 bits is divided by 257, with a warning, since others cut it off at 255.

    Raises:
        ValueError: there is no image. For a broken file, whatever PIL raises.
        UnreadableImage: pixels whose range nothing says, as of floating point.
    """
    if image is None or (isinstance(image, dict) and image["bytes"] is None and image["path"] is None):
        raise ValueError("there is no image")
    if isinstance(image, Path):  # files can be calibrated with where `datasets` is not installed
        image = PILImage.open(image)
        image.load()
    elif isinstance(image, dict):
        from datasets import Image

        image = Image().decode_example(image)
    if image.getexif().get(ExifTags.Base.Orientation) is not None:
        image = ImageOps.exif_transpose(image)  # as `datasets` and the pipelines of Transformers do
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: PILImage.Image) -> PILImage.Image:
    """Gray of 16 bits as 8 bits. By the range that 16 bits have, not by what occurs: that differs from image to image."""
    if image.mode == "F":
        raise UnreadableImage("its pixels are floating point numbers, whose range no file says; make it one of 8 bits")
    levels = np.asarray(image, dtype=np.float64)
    least, most = levels.min(), levels.max()
    if least < 0 or most > 65535:
        raise UnreadableImage(f"its pixels go from {least:.0f} to {most:.0f}, beyond 16 bits; make it one of 8 bits")
    logger.warning_once(
        "Images of 16 bits are divided by 257 here, so that a sensor of fewer bits gives dark ones; Transformers' pipelines and "
        "image processors cut them off at 255 instead. Make them images of 8 bits, for training and for use alike."
    )
    return PILImage.fromarray((levels / 257).round().astype(np.uint8))


def name_of(image) -> str:
    """What to call an image in a message: its path or, without one, its size and the start of its SHA-256 sum."""
    if isinstance(image, Path):
        return str(image)
    if isinstance(image, dict) and image.get("path"):
        return str(Path(image["path"])) if "://" not in image["path"] else image["path"]
    if isinstance(image, dict) and image.get("bytes") is not None:
        digest = hashlib.sha256(image["bytes"]).hexdigest()[:12]
        return f"an image without a name, {len(image['bytes'])} bytes, sha256 {digest}..."
    return getattr(image, "filename", None) or "an image without a name"


def black() -> PILImage.Image:
    """Stands in for an image that cannot be read."""
    return PILImage.new("RGB", (8, 8))


def collate(samples: list[dict]) -> dict:
    """A batch: `pixel_values` uint8 (B, 3, H, W), `labels` int64 (B,), `seeds` int64 (B,) in training, `unreadable` (names).

    Raises:
        DataError: the images are not of one size.
    """
    sizes = {tuple(sample["pixel_values"].shape) for sample in samples}
    if len(sizes) > 1:
        raise DataError(
            f"The images of a batch must have one size, got {', '.join(map(str, sorted(sizes)))}: use an image processor "
            "that resizes to a fixed height and width, or crops."
        )
    batch = {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples])}
    for key in ("labels", "seeds"):
        if key in samples[0]:
            batch[key] = torch.tensor([sample[key] for sample in samples], dtype=torch.int64)
    batch["unreadable"] = [name for sample in samples for name in sample["unreadable"]]
    return batch
