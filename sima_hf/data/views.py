"""From a decoded image to bytes of one size: a random view for training, the image processor's view for evaluation.

What is left to do (colors, erasing, mixing, normalization) is done on the device, a batch at a time.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from .randomness import combine


# Tells the numbers drawn here from those that the augmentation on the device draws from the same seed.
SALT = 0x56494557
ATTEMPTS = 10

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class TrainView:
    """Random resized crop and horizontal flip (Szegedy et al., "Going deeper with convolutions", CVPR 2015).

    Args:
        size: side of the view in pixels, or (height, width).
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos".
        scale: smallest and largest area of the crop, as a share of the image's. None, for small symbols: no crop; the image
            is resized to `size` and moved by up to `shift` of it, its edges repeated.
        ratio: least and greatest width / height of the crop.
        flip: probability of a horizontal flip.
        shift: with `scale=None`, largest move as a share of the side.
        flip_channels: blue first, as MobileViT's image processor gives it.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        interpolation: str = "bicubic",
        scale: tuple[float, float] | None = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        shift: float = 0.1,
        flip_channels: bool = False,
    ):
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"`interpolation` must be one of {', '.join(INTERPOLATIONS)}, got {interpolation!r}.")
        if scale is not None and not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"`scale` must be two shares with 0 < least <= greatest <= 1, got {scale}.")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"`ratio` must be two numbers with 0 < least <= greatest, got {ratio}.")
        if not 0 <= flip <= 1 or not 0 <= shift < 1:
            raise ValueError(f"`flip` must be in [0, 1] and `shift` in [0, 1), got {flip} and {shift}.")
        self.height, self.width = (size, size) if isinstance(size, int) else size
        self.interpolation, self.scale, self.ratio, self.flip, self.shift = interpolation, scale, ratio, flip, shift
        self.flip_channels = flip_channels

    def __call__(self, image: Image.Image, seed: int) -> torch.Tensor:
        """The view of an RGB image that belongs to a seed: uint8, (3, height, width)."""

        def number(index: int) -> float:
            # As `uniform(seeds, SALT, count=...)` gives it, one at a time: most views need five of 23.
            return (combine(seed, SALT, index) >> 10) * 2.0**-53

        if self.scale is not None:
            left, top, width, height = crop_box(*image.size, number, self.scale, self.ratio)
            # Cut first: a resize with `box` would let the pixels around the crop shine in.
            image = image.crop((left, top, left + width, top + height))
        image = image.resize((self.width, self.height), INTERPOLATIONS[self.interpolation])
        pixels = as_tensor(image)
        if self.flip_channels:
            pixels = pixels.flip(0)
        if self.scale is None:
            pixels = self._moved(pixels, number(0), number(1))
        return pixels.flip(-1) if self.flip and number(2 * ATTEMPTS + 2) < self.flip else pixels

    def _moved(self, pixels: torch.Tensor, down: float, right: float) -> torch.Tensor:
        """Moved by whole pixels; `down` and `right` in [0, 1) choose evenly among all moves allowed."""
        for dim, number in ((-2, down), (-1, right)):
            side = pixels.shape[dim]
            most = int(self.shift * side)
            move = int(number * (2 * most + 1)) - most
            if move:
                pixels = pixels.index_select(dim, (torch.arange(side) - move).clamp(0, side - 1))
        return pixels


def crop_box(
    width: int, height: int, number: Callable[[int], float], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """A crop of random area, shape and place: the first of ten that fits, else the central one nearest to the ratios.

    Args:
        width, height: of the image, in pixels.
        number: gives 22 numbers in [0, 1) by index: ten pairs for area and shape, then two for the place.
        scale: range of the area, as a share of the image's.
        ratio: range of width / height, whose logarithm is evenly distributed.

    Returns:
        Left, top, width and height in pixels.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(ATTEMPTS):
        area = width * height * (scale[0] + (scale[1] - scale[0]) * number(2 * attempt))
        shape = math.exp(low + (high - low) * number(2 * attempt + 1))
        wide, tall = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < wide <= width and 0 < tall <= height:
            across, down = number(2 * ATTEMPTS), number(2 * ATTEMPTS + 1)
            return int(across * (width - wide + 1)), int(down * (height - tall + 1)), wide, tall
    wide = min(width, max(1, round(height * ratio[1])))
    tall = min(height, max(1, round(width / ratio[0])))
    return (width - wide) // 2, (height - tall) // 2, wide, tall


class EvalView:
    """The pixels that a Transformers image processor makes, before it rescales and normalizes them.

    Args:
        processor: an image processor that returns images of one size.
    """

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """uint8, (3, H, W).

        Raises:
            ValueError: the processor gives something other than three channels of bytes.
        """
        made = self.processor(image, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"][0]
        if made.ndim != 3 or made.shape[0] != 3:
            raise ValueError(f"The image processor must give tensors (3, H, W), got {tuple(made.shape)}.")
        pixels = made.to(torch.uint8)
        if not torch.equal(pixels.to(made.dtype), made):
            raise ValueError(
                f"{type(self.processor).__name__} gives {made.dtype} that are not whole numbers from 0 to 255 although "
                "rescaling and normalization are off; use a processor that keeps bytes, such as SimAImageProcessor."
            )
        return pixels


def as_tensor(image: Image.Image) -> torch.Tensor:
    """An RGB image as uint8, (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
