"""Image processors at another resolution and crop, and what an image processor does to pixels."""

import copy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from ..errors import DataError
from ..loading.processors import load_processor
from ..models.sima.image_processing_sima import SimAImageProcessor
from .pixels import normalize


IMAGE_SIZE, CROP_PCT = 224, 0.875  # as the original evaluates


def processor_for(name_or_processor, image_size: int | None = None, crop_pct: float | None = None):
    """The image processor of a model, for another resolution or another share of the image.

    With `crop_pct`, the shorter side is resized to `image_size / crop_pct` and the central square of `image_size` cut out, as
    the original evaluates SimA models; mean, standard deviation and resampling stay the host's own. Where the host's class
    does something else with these settings (ConvNeXT's stretches images from 384 pixels on, LeViT's has a crop of its own),
    Transformers' `BitImageProcessor` takes its place. With `image_size` alone, the host's own way is kept, in proportion.

    Args:
        name_or_processor: a model folder or Hub name, an image processor (which is not changed), or None for SimA's.
        image_size: side of the square that the model gets, in pixels; None: as it is.
        crop_pct: share of the shorter side that is seen, in (0, 1]; 1.0 is the full crop. None: as it is.

    Returns:
        An image processor; saved and loaded again it gives the same pixels.

    Raises:
        DataError: `image_size` below 1, `crop_pct` not in (0, 1], a processor without a size to change, or one whose class can
            neither be set so nor replaced.
        CheckpointError: the model comes without an image processor.
    """
    if image_size is not None and image_size < 1:
        raise DataError(f"`image_size` must be 1 pixel or more, got {image_size}.")
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise DataError(f"`crop_pct` must be in (0, 1], such as 0.875 or 1.0 for the full crop, got {crop_pct}.")
    if name_or_processor is None:
        return SimAImageProcessor.for_image_size(image_size or IMAGE_SIZE, crop_pct or CROP_PCT)
    if isinstance(name_or_processor, (str, Path)):
        processor = load_processor(str(name_or_processor))
    else:
        processor = copy.deepcopy(name_or_processor)
    if image_size is None and crop_pct is None:
        return processor
    own = side_of(processor)
    side = image_size or own
    if crop_pct is None:
        changed = _changed(processor, size=_in_proportion(processor.size, side, own), crop_size=_square(side))
        if max(_view(changed).shape[-2:]) != side:
            raise DataError(
                f"{type(processor).__name__} does not make images of {side} pixels when asked to; say which crop to evaluate, too."
            )
        return changed
    wanted = {"size": {"shortest_edge": int(side / crop_pct)}, "crop_size": _square(side), "do_resize": True}
    changed = _changed(processor, **wanted, do_center_crop=True)
    plain = _plain(processor, **wanted)
    if _same_view(changed, plain):
        return changed
    normalization(processor)  # refuses a class that does more to the values than the plain one would
    return plain


def side_of(processor) -> int:
    """Side in pixels of the images that a processor makes; the longer one where they are not square.

    Raises:
        DataError: it has no fixed size.
    """
    crops = getattr(processor, "do_center_crop", False)
    size = getattr(processor, "crop_size" if crops else "size", None)
    sides = [size[key] for key in ("height", "width", "shortest_edge") if size and key in size and size[key]]
    if not sides:
        raise DataError(
            f"{type(processor).__name__} has no fixed size that could be changed ({size}); leave out the image size and the crop."
        )
    return max(sides)


class PixelMapping(NamedTuple):
    """What an image processor does to the pixels of an RGB image, resizing and cropping aside.

    Attributes:
        mean, std: of red, green and blue, as if pixels from 0 to 1 were normalized by them.
        size: (height, width) that it gives to square images; None if it keeps theirs.
        blue_first: whether it returns the channels as blue, green, red.
    """

    mean: list[float]
    std: list[float]
    size: tuple[int, int] | None
    blue_first: bool


def measure_processor(processor) -> PixelMapping:
    """What an image processor does to pixels, found by running it on images of one color.

    So nothing has to be known of its options, of which each class has its own (offsets, a second normalization, blue first).
    Where its settings say the same, their exact numbers are taken.

    Raises:
        DataError: it gives no RGB images, or does more than to scale and shift each channel.
    """
    levels = (0, 64, 128, 191, 255)
    gray = torch.stack([_color_made(processor, (level,) * 3) for level in levels])
    black, slope = gray[0], gray[-1] - gray[0]
    red = _color_made(processor, (255, 0, 0)) - black
    blue_first = bool(red[-1].abs() > red[0].abs())
    only_red = torch.zeros(3, dtype=torch.float64)
    only_red[-1 if blue_first else 0] = slope[-1 if blue_first else 0]
    line = black + slope * torch.tensor(levels, dtype=torch.float64)[:, None] / 255
    tolerance = 1e-4 * slope.abs().max()
    if not (slope > 0).all() or (gray - line).abs().max() > tolerance or (red - only_red).abs().max() > tolerance:
        raise DataError(
            f"{type(processor).__name__} does more to colors than to scale and shift each channel, which cannot be done or undone on "
            "the device. Take an ordinary image processor."
        )
    mean, std = (-black / slope).tolist(), (1 / slope).tolist()
    if np.allclose((mean, std), _settings(processor), rtol=1e-4, atol=1e-4):
        mean, std = _settings(processor)
    if blue_first:
        mean, std = mean[::-1], std[::-1]
    sizes = {_made(processor, (0, 0, 0), side).shape[-2:] for side in (48, 80)}
    return PixelMapping(mean, std, tuple(sizes.pop()) if len(sizes) == 1 else None, blue_first)


def normalization(processor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel with which `pixels.normalize` does what the processor does to bytes.

    The channels are in the order in which the processor returns them. Settings such as `do_normalize=False` or another
    `rescale_factor` are in the numbers.

    Raises:
        DataError: it does something else, or does not give bytes when rescaling and normalization are off.
    """
    mean, std, _, blue_first = measure_processor(processor)
    if blue_first:
        mean, std = mean[::-1], std[::-1]
    made, seen = processor(_probe(), return_tensors="pt")["pixel_values"], _view(processor).to(torch.uint8)
    if seen.shape != made.shape or not torch.allclose(normalize(seen, mean, std), made.float(), rtol=1e-4, atol=1e-4):
        raise DataError(
            f"{type(processor).__name__} does more to an image's bytes than to rescale and normalize them channel by channel, "
            "which cannot be done on the device."
        )
    return mean, std


def _settings(processor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation as the settings of an ordinary processor say."""
    scale = 255 * processor.rescale_factor if getattr(processor, "do_rescale", False) else 255.0
    normalizes = getattr(processor, "do_normalize", False)
    mean, std = (processor.image_mean, processor.image_std) if normalizes else (0.0, 1.0)
    return tuple([float(part) / scale for part in np.broadcast_to(numbers, 3)] for numbers in (mean, std))


def _made(processor, color: tuple[int, int, int], side: int) -> torch.Tensor:
    """What a processor makes of a square of one color, `(1, 3, H, W)`."""
    image = np.full((side, side, 3), color, dtype=np.uint8)
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise DataError(
            f"{type(processor).__name__} must give (1, 3, height, width) for an RGB image, got {tuple(pixels.shape)}."
        )
    return pixels


def _color_made(processor, color: tuple[int, int, int]) -> torch.Tensor:
    """The color `(3,)` float64 at the center of what a processor makes of an image of one color: a crop may pad the borders."""
    pixels = _made(processor, color, 48)
    return pixels[0, :, pixels.shape[-2] // 2, pixels.shape[-1] // 2].double()


def view_size(processor) -> tuple[int, int]:
    """Height and width of the images that a processor makes.

    Raises:
        DataError: they depend on the image.
    """
    sizes = {tuple(_view(processor, probe).shape[-2:]) for probe in (_probe(), _probe().transpose(1, 0, 2))}
    if len(sizes) > 1:
        raise DataError(
            f"{type(processor).__name__} must give images of one size, got {' and '.join(f'{h} x {w}' for h, w in sorted(sizes))}: "
            "set a fixed height and width, or a crop."
        )
    return sizes.pop()


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _in_proportion(size, side: int, own: int) -> dict[str, int]:
    keys = [key for key in ("height", "width", "shortest_edge", "longest_edge") if size.get(key)]
    return {key: size[key] * side // own for key in keys}


def _changed(processor, **settings):
    """The same with other settings; nothing is cropped that was not, unless the settings say so."""
    return type(processor).from_dict({**processor.to_dict(), **settings})


def _plain(processor, **settings):
    """A processor that resizes, crops, rescales and normalizes, nothing else, with the settings of another."""
    if getattr(processor, "backend", "pil") == "torchvision":
        from transformers import BitImageProcessor as kind
    else:
        kind = BitImageProcessorPil
    names = ("resample", "image_mean", "image_std", "do_rescale", "rescale_factor", "do_normalize")
    kept = {name: getattr(processor, name) for name in names if getattr(processor, name, None) is not None}
    return kind(**kept, **settings, do_center_crop=True, do_convert_rgb=True)


def _probe() -> np.ndarray:
    """An image that no two ways of resizing and cropping agree on: noise, oblong, of odd sides; uint8 (H, W, 3)."""
    return np.random.default_rng(0).integers(0, 256, (67, 101, 3), dtype=np.uint8)


def _view(processor, image: np.ndarray | None = None) -> torch.Tensor:
    """The bytes that a processor makes of an image, that one by default, neither rescaled nor normalized: `(1, 3, H, W)`."""
    return processor(_probe() if image is None else image, do_rescale=False, do_normalize=False, return_tensors="pt")[
        "pixel_values"
    ]


def _same_view(one, two) -> bool:
    """Whether two processors make the same bytes of an image, the order of the channels aside."""
    try:
        seen, wanted = _view(one), _view(two)
    except (ValueError, TypeError, KeyError, AttributeError):  # the class cannot take these settings
        return False
    return torch.equal(seen, wanted) or torch.equal(seen, wanted.flip(1))
