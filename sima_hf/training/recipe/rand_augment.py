"""RandAugment (Cubuk et al., arXiv 1909.13719) for batches on the device, with other operations for every image.

The set of operations and their ranges are those of the recipe's "rand-m9-mstd0.5-inc1": all of them grow stronger with the
magnitude. Images are floats in [0, 1] that stand for 256 levels: after each operation they are rounded to these, because
each operation is defined by what Pillow does to bytes. Equalize, Invert, Posterize, Solarize and SolarizeAdd agree with Pillow
exactly, the others within one level, because Pillow cuts off fractions that are rounded here. Rotation, shear and
translation are bicubic, as the recipe asks timm for, by Pillow's own kernel, and the fill color begins at a sharp edge.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from ...data.randomness import normal, uniform
from ...errors import MissingDependencyError


# Salts of this use of the seeds.
CHOICE, MAGNITUDE = 0x52414E44, 0x4D41474E
# Magnitudes count in tenths of the strongest form of an operation.
STRONGEST = 10
APPLIED = 0.5

Numbers = torch.Tensor  # float64 (B,), on the CPU
Images = torch.Tensor  # floating (B, 3, H, W), in [0, 1]


class Operation(NamedTuple):
    """A row of the table of operations.

    Attributes:
        name: as the field calls it.
        argument: from magnitudes in [0, 10] and signs of -1 or 1, both float64 (B,), to what `apply` takes.
        apply: from images, their arguments as float32 (B,) on the images' device, and the fill color (3,) to images.
    """

    name: str
    argument: Callable[[Numbers, Numbers], Numbers]
    apply: Callable[[Images, torch.Tensor, torch.Tensor], Images]


class RandAugment(NamedTuple):
    """What the string of a recipe says.

    Attributes:
        magnitude: mean strength of the operations, 0 to 10.
        deviation: its standard deviation; drawn magnitudes are cut to [0, 10].
        layers: how many operations an image is offered; it takes each with probability 1/2.
    """

    magnitude: float = 9.0
    deviation: float = 0.0
    layers: int = 2

    @classmethod
    def parse(cls, text: str) -> "RandAugment":
        """Read "rand-m9-mstd0.5-inc1" or "m9-mstd0.5-inc1", with an optional "n2" for the number of operations.

        Raises:
            ValueError: it is not of this form, or it asks for operations that do not grow with the magnitude.
        """
        # "inc1" must be there: without it, timm's strings mean another set of operations.
        parts = text.split("-")
        parts = parts[1:] if parts[0] == "rand" else parts
        found = [re.fullmatch(r"(mstd|inc|m|n)(\d+(?:\.\d+)?)", part) for part in parts]
        given = {match[1]: float(match[2]) for match in found if match}
        layers = given.get("n", 2.0)
        if (
            len(given) != len(parts)
            or given.get("inc") != 1
            or not 0 <= given.get("m", -1.0) <= STRONGEST
            or layers < 1
            or layers != int(layers)
        ):
            raise ValueError(
                f"RandAugment is described as 'rand-m9-mstd0.5-inc1' (m: magnitude from 0 to 10, mstd: its standard "
                f"deviation, inc1: the operations whose strength grows with it, the only set there is; also n2: number of "
                f"operations), got {text!r}."
            )
        return cls(given["m"], given.get("mstd", 0.0), int(layers))

    def __call__(self, images: Images, seeds: torch.Tensor, fill: torch.Tensor) -> Images:
        """Augment a batch, each image by its own seed.

        Args:
            images: float32, (B, 3, H, W), in [0, 1].
            seeds: int64, (B,); best on the CPU, since the choices are made there.
            fill: (3,), the color of what comes into the image from outside, in [0, 1].

        Returns:
            Of the same shape, dtype and device.

        Raises:
            MissingDependencyError (an ImportError): kornia is not installed.
        """
        for layer in range(self.layers):
            taken, choice, sign = uniform(seeds, CHOICE, layer, count=3).unbind(1)
            chosen = torch.where(taken < APPLIED, (choice * len(OPERATIONS)).long(), -1)
            magnitudes = self.magnitude + self.deviation * normal(seeds, MAGNITUDE, layer, count=1)[:, 0]
            magnitudes = magnitudes.clamp(0, STRONGEST)
            signs = torch.where(sign < 0.5, -1.0, 1.0).double()
            rows = torch.stack([operation.argument(magnitudes, signs) for operation in OPERATIONS])
            arguments = rows.gather(0, chosen.clamp(min=0)[None])[0]
            images = apply_chosen(images, chosen, arguments, [operation.apply for operation in OPERATIONS], fill)
        return images


def apply_chosen(
    images: Images, chosen: torch.Tensor, arguments: Numbers, functions: Sequence[Callable], fill: torch.Tensor
) -> Images:
    """Apply to each image the function it chose; each function runs once, on all images that chose it.

    Args:
        images: floating, (B, 3, H, W), in [0, 1].
        chosen: int64, (B,), on the CPU: positions in `functions`, -1 for none.
        arguments: float64, (B,), on the CPU: what each image's function takes.
        functions: as `Operation.apply`.
        fill: (3,).

    Returns:
        New images of the same shape, rounded to 256 levels where a function was applied.
    """
    # Sorted by function, the images of each lie side by side: one transfer of indices serves all of them.
    order = torch.argsort(chosen, stable=True)
    counts = torch.bincount(chosen + 1, minlength=len(functions) + 1).tolist()
    values = arguments[order].to(images.device, torch.float32, non_blocking=True)
    order = order.to(images.device, non_blocking=True)
    grouped = images[order]
    start = counts[0]
    for function, count in zip(functions, counts[1:], strict=True):
        if count:
            part = slice(start, start + count)
            grouped[part] = levels(function(grouped[part], values[part], fill))
            start += count
    return torch.empty_like(images).index_copy_(0, order, grouped)


def levels(images: Images) -> Images:
    """Rounded to the nearest of the 256 levels of a byte, in [0, 1]."""
    return torch.round(images * 255).clamp(0, 255) / 255


def enhance() -> Any:
    """The module `kornia.enhance`.

    Raises:
        MissingDependencyError (an ImportError): kornia is not installed.
    """
    try:
        import kornia.enhance
    except ImportError as error:
        raise MissingDependencyError(
            "RandAugment and color jitter need kornia: pip install 'sima-hf[train]'"
        ) from error
    return kornia.enhance


def brightness(images: Images, factors: torch.Tensor, fill: torch.Tensor | None = None) -> Images:
    """Mixture of each image and black, by factors `(B,)`: 0 is black, 1 the image; `ImageEnhance.Brightness`."""
    return enhance().adjust_brightness_accumulative(images, factors)


def contrast(images: Images, factors: torch.Tensor, fill: torch.Tensor | None = None) -> Images:
    """Mixture of each image and its mean gray, by factors `(B,)`: 0 is gray, 1 the image; `ImageEnhance.Contrast`."""
    return enhance().adjust_contrast_with_mean_subtraction(images, factors)


def saturation(images: Images, factors: torch.Tensor, fill: torch.Tensor | None = None) -> Images:
    """Mixture of each image and its gray version, by factors `(B,)`: 0 is gray, 1 the image; `ImageEnhance.Color`."""
    return enhance().adjust_saturation_with_gray_subtraction(images, factors)


def _sharpness(images: Images, factors: torch.Tensor, fill: torch.Tensor) -> Images:
    return enhance().sharpness(images, factors)


def _auto_contrast(images: Images, unused: torch.Tensor, fill: torch.Tensor) -> Images:
    low, high = images.amin((-2, -1), keepdim=True), images.amax((-2, -1), keepdim=True)
    spread = high - low
    stretched = torch.floor((images - low) / torch.where(spread > 0, spread, 1) * 255 + 1e-3) / 255
    return torch.where(spread > 0, stretched, images)


def _equalize(images: Images, unused: torch.Tensor, fill: torch.Tensor) -> Images:
    return enhance().equalize(images)


def _invert(images: Images, unused: torch.Tensor, fill: torch.Tensor) -> Images:
    return enhance().invert(images)


def _posterize(images: Images, bits: torch.Tensor, fill: torch.Tensor) -> Images:
    return enhance().posterize(images, bits.long())


def _solarize(images: Images, thresholds: torch.Tensor, fill: torch.Tensor) -> Images:
    # Half a level lower, so that rounding does not decide about pixels that lie on the threshold.
    return enhance().solarize(images, (thresholds - 0.5) / 255)


def _solarize_add(images: Images, additions: torch.Tensor, fill: torch.Tensor) -> Images:
    # Not kornia's addition, which brightens all pixels: only those below level 128 are meant.
    return torch.where(images * 255 < 127.5, images + additions[:, None, None, None] / 255, images)


def _warp(images: Images, fill: torch.Tensor, *rows: tuple) -> Images:
    """Bicubic sampling where `(x, y, 1)`, in pixels from the image's middle, is mapped to by two rows of a matrix.

    As in Pillow, a pixel whose source lies outside the image has the fill color, and none is mixed with it; kornia's
    warps would mix them.
    """
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device, dtype=torch.float32)[None, None] - (width - 1) / 2
    y = torch.arange(height, device=images.device, dtype=torch.float32)[None, :, None] - (height - 1) / 2
    x_from, y_from = (
        sum(_column(factor) * place for factor, place in zip(row, (x, y, torch.ones_like(x)), strict=True))
        for row in rows
    )
    inside = (x_from >= -width / 2) & (x_from < width / 2) & (y_from >= -height / 2) & (y_from < height / 2)
    columns = _taps(x_from + (width - 1) / 2, width, moves=_depends(rows[0]))
    lines = _taps(y_from + (height - 1) / 2, height, moves=_depends(rows[1]))
    flat, moved = images.flatten(-2), torch.zeros_like(images)
    for line, weight in lines:
        for column, share in columns:
            places = (line * width + column).expand(len(images), height, width).flatten(1)[:, None].expand_as(flat)
            moved += flat.gather(2, places).view_as(images) * (weight * share)[:, None]
    return torch.where(inside[:, None], moved, fill.to(moved)[:, None, None])


def _depends(row: tuple) -> bool:
    """Whether an axis moves by what each image drew; the others are rows of the identity."""
    return any(isinstance(factor, torch.Tensor) for factor in row)


def _taps(positions: torch.Tensor, size: int, moves: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The pixels along an axis that make the value at each position, and their weights, of the shape of the positions.

    The kernel is the cubic convolution with a = -1, as Pillow has it where it moves pixels (torch's has -0.75); pixels beyond
    an edge are those on it. Where an axis does not move, each pixel is its own.
    """
    if not moves:
        return [(positions.round().long(), torch.ones_like(positions))]
    first = positions.floor()
    d = positions - first
    weights = (-d + 2 * d**2 - d**3, 1 - 2 * d**2 + d**3, d + d**2 - d**3, d**3 - d**2)
    return [((first.long() + place).clamp(0, size - 1), one) for place, one in enumerate(weights, start=-1)]


def _column(value: Any) -> Any:
    return value[:, None, None] if isinstance(value, torch.Tensor) else value


def _rotate(images: Images, degrees: torch.Tensor, fill: torch.Tensor) -> Images:
    cosine, sine = torch.cos(torch.deg2rad(degrees)), torch.sin(torch.deg2rad(degrees))
    return _warp(images, fill, (cosine, -sine, 0), (sine, cosine, 0))


def _shear_x(images: Images, factors: torch.Tensor, fill: torch.Tensor) -> Images:
    # The upper edge stays in place, as in Pillow, where coordinates begin in the upper left corner.
    return _warp(images, fill, (1, factors, factors * (images.shape[-2] / 2)), (0, 1, 0))


def _shear_y(images: Images, factors: torch.Tensor, fill: torch.Tensor) -> Images:
    return _warp(images, fill, (1, 0, 0), (factors, 1, factors * (images.shape[-1] / 2)))


def _translate_x(images: Images, shares: torch.Tensor, fill: torch.Tensor) -> Images:
    return _warp(images, fill, (1, 0, shares * images.shape[-1]), (0, 1, 0))


def _translate_y(images: Images, shares: torch.Tensor, fill: torch.Tensor) -> Images:
    return _warp(images, fill, (1, 0, 0), (0, 1, shares * images.shape[-2]))


def _none(magnitudes: Numbers, signs: Numbers) -> Numbers:
    return torch.zeros_like(magnitudes)


def _signed(strongest: float) -> Callable[[Numbers, Numbers], Numbers]:
    return lambda magnitudes, signs: signs * magnitudes * (strongest / STRONGEST)


def _factor(magnitudes: Numbers, signs: Numbers) -> Numbers:
    return (1 + signs * magnitudes * (0.9 / STRONGEST)).clamp(min=0.1)


def _steps(start: int, change: int, most: int = 256) -> Callable[[Numbers, Numbers], Numbers]:
    """`start` plus `change`, of which a tenth counts for each unit of magnitude, cut to a whole number."""
    return lambda magnitudes, signs: (
        start + math.copysign(1, change) * torch.floor(magnitudes * abs(change) / STRONGEST).clamp(max=most)
    )


OPERATIONS = (
    Operation("AutoContrast", _none, _auto_contrast),
    Operation("Equalize", _none, _equalize),
    Operation("Invert", _none, _invert),
    Operation("Rotate", _signed(30), _rotate),
    Operation("Posterize", _steps(4, -4), _posterize),
    Operation("Solarize", _steps(256, -256), _solarize),
    Operation("SolarizeAdd", _steps(0, 110, most=128), _solarize_add),
    Operation("Color", _factor, saturation),
    Operation("Contrast", _factor, contrast),
    Operation("Brightness", _factor, brightness),
    Operation("Sharpness", _factor, _sharpness),
    Operation("ShearX", _signed(0.3), _shear_x),
    Operation("ShearY", _signed(0.3), _shear_y),
    Operation("TranslateXRel", _signed(0.45), _translate_x),
    Operation("TranslateYRel", _signed(0.45), _translate_y),
)
