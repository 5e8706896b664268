"""Multi-crop: two large and some small views of an image, side by side in one tensor, as the loading of images has it."""

import math
from collections.abc import Sequence

import torch
from PIL import Image

from ...data.randomness import combine
from ...data.views import TrainView
from .loss import GLOBAL_CROPS


# Tells a crop's own seed from the other uses of the image's.
CROP = 0x43524F50


class MultiCrop:
    """Random resized crops of an image: two global ones and `local_crops` local ones, each perhaps flipped.

    Args:
        global_size: (height, width) of the global crops, in pixels.
        local_size: side of the local crops.
        local_crops: how many.
        split: share of the image's area, from which up to all of it a global crop takes, and from `min_area` up to which a
            local one.
        min_area: least share of a local crop.
        interpolation, flip, flip_channels: as for `TrainView`.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        global_size: tuple[int, int],
        local_size: int = 96,
        local_crops: int = 8,
        split: float = 0.4,
        min_area: float = 0.05,
        interpolation: str = "bicubic",
        flip: float = 0.5,
        flip_channels: bool = False,
    ):
        options = {"interpolation": interpolation, "flip": flip, "flip_channels": flip_channels}
        large = TrainView(global_size, scale=(split, 1.0), **options)
        small = TrainView(local_size, scale=(min_area, split), **options)
        self.views = [large] * GLOBAL_CROPS + [small] * local_crops
        self.shapes = [(view.height, view.width) for view in self.views]

    def __call__(self, image: Image.Image, seed: int) -> torch.Tensor:
        """The crops that belong to a seed: uint8, (3, P), P the pixels of all of them."""
        crops = [view(image, combine(seed, CROP, number)) for number, view in enumerate(self.views)]
        return torch.cat([crop.flatten(1) for crop in crops], dim=1)

    def split(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """The crops `(n * B, 3, H, W)` of a batch `(B, 3, P)`, those of one size together, crop by crop; the global ones first."""
        crops = pixels.split([height * width for height, width in self.shapes], dim=-1)
        return [
            torch.cat([crops[number] for number in numbers]).unflatten(-1, self.shapes[numbers[0]])
            for numbers in self.numbers
        ]

    @property
    def numbers(self) -> list[range]:
        """The crops that `split` puts together."""
        return [
            range(GLOBAL_CROPS),
            *([range(GLOBAL_CROPS, len(self.views))] if len(self.views) > GLOBAL_CROPS else []),
        ]

    def join(self, groups: Sequence[torch.Tensor]) -> torch.Tensor:
        """What `split` undoes."""
        crops = [
            crop for group, numbers in zip(groups, self.numbers, strict=True) for crop in group.chunk(len(numbers))
        ]
        return torch.cat([crop.flatten(-2) for crop in crops], dim=-1)

    @property
    def num_pixels(self) -> int:
        """P."""
        return sum(math.prod(shape) for shape in self.shapes)
