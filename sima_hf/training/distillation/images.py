"""Images without labels, as `SimATrainer` reads them: some to train on, others to measure on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...data.calibration_images import image_column, image_files
from ...data.images import EvalImages, TrainImages
from ...data.processors import view_size
from ...data.sampling import Draw
from ...data.views import EvalView, TrainView
from ...errors import DataError


# Below the first, agreement says nothing; beyond the second, measuring would outlast training.
FEWEST_HELD_OUT, MOST_HELD_OUT = 32, 1000
# What images are trained on is a crop of at least this share of their area, flipped or not.
SMALLEST_CROP = 0.5


def split_images(images: Any, processor: Any, share: float, seed: int, max_unreadable: int) -> tuple[Any, Any]:
    """Images to train on, under random views if they are files, and others to measure on.

    Args:
        images: a folder, a split of `datasets` with a column of images, or processed pixels, each `(C, H, W)`.
        processor: the image processor; needed with a folder or a split.
        share: of the images to measure on, `FEWEST_HELD_OUT` at least and `MOST_HELD_OUT` at most.
        seed: of the draw.
        max_unreadable: files that are passed over.

    Raises:
        DataError: too few images, images of another kind, or no image processor where one is needed.
    """
    if not 0 < share < 1:
        raise DataError(f"`held_out` must be above 0 and below 1, got {share}.")
    data = _rows(images, processor)
    held = max(FEWEST_HELD_OUT, min(MOST_HELD_OUT, round(share * len(data))))
    if len(data) < 2 * FEWEST_HELD_OUT:
        raise DataError(
            f"`images` must be {2 * FEWEST_HELD_OUT} or more, got {len(data)}: {FEWEST_HELD_OUT} of them are for measuring alone."
        )
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).tolist()
    own, rest = order[:held], order[held:]
    if isinstance(data, Pixels):
        return Pixels(data.pixels, rest), Pixels(data.pixels, own)
    size = view_size(processor)
    view = TrainView(size, scale=(SMALLEST_CROP, 1.0))
    return TrainImages(data.select(rest), view, max_unreadable), EvalImages(data.select(own), EvalView(processor))


def _rows(images: Any, processor: Any) -> Any:
    """`Pixels`, or a split of `datasets` with the columns `image` (not decoded) and `label` (0)."""
    from datasets import Dataset, Image

    if isinstance(images, (str, Path)):
        images = Dataset.from_dict({"image": [str(path) for path in image_files(images)]}).cast_column(
            "image", Image()
        )
    if not isinstance(images, Dataset):
        return Pixels(images)
    if processor is None:
        raise DataError("`processor` must be the model's image processor where images come as files, got None.")
    images = image_column(images)
    return images.add_column("label", [0] * len(images))


class Pixels(torch.utils.data.Dataset):
    """Processed images as the training loader asks for them.

    Args:
        pixels: `(C, H, W)` each.
        indices: of those that there are; by default all.
    """

    def __init__(self, pixels: Sequence[torch.Tensor], indices: list[int] | None = None):
        self.pixels = pixels
        self.indices = list(range(len(pixels))) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, draw: Draw | int) -> dict:
        index, seed = draw if isinstance(draw, tuple) else (draw, None)
        pixels = self.pixels[self.indices[index]]
        if not isinstance(pixels, torch.Tensor) or pixels.dim() != 3 or not pixels.is_floating_point():
            found = tuple(pixels.shape) if isinstance(pixels, torch.Tensor) else type(pixels).__name__
            raise DataError(
                f"`images` must be processed pixels (C, H, W) of floating point, a folder or a split, got {found}."
            )
        seeds = {} if seed is None else {"seeds": seed}
        return {"pixel_values": pixels, "labels": 0, "unreadable": [], **seeds}
