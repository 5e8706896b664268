"""What happens to crops on the device: colors, gray, blur, solarization and normalization, drawn from the images' seeds."""

import math
from collections.abc import Sequence

import torch

from ...data.pixels import standardize, unit_interval
from ...data.randomness import combine_each, uniform
from ...errors import MissingDependencyError
from ..recipe.rand_augment import apply_chosen, brightness, contrast, enhance, levels, saturation
from .loss import GLOBAL_CROPS
from .multi_crop import CROP, MultiCrop


# Salts of this use of the seeds.
CHOICES, ORDER, FACTOR, SIGMA = 0x44494E4F, 0x4F524452, 0x46414354, 0x5349474D
JITTERED = 0.8
LEAST_SIGMA = 0.1
# Probabilities of a blur in the first global, the second global and the local crops; solarization is the second's alone.
BLURRED = (1.0, 0.1, 0.5)
GRAY = (0.299, 0.587, 0.114)


def hue(images: torch.Tensor, turns: torch.Tensor, fill: torch.Tensor | None = None) -> torch.Tensor:
    """Each image with its hues turned by a share of the circle `(B,)`."""
    return enhance().adjust_hue(images, turns * (2 * math.pi))


JITTERS = (brightness, contrast, saturation, hue)


class MultiCropAugmentation:
    """The augmentation of BYOL and DINO, on bytes of multi-crops, on the device where they lie.

    In the order of the original: with probability 0.8 brightness, contrast, saturation and hue, in an order of the crop's own;
    gray; blur; in the second global crop solarization; then normalization. What is drawn depends on the crop's seed alone,
    which follows from the image's.

    Args:
        crops: how a batch is split.
        mean, std: what the model's images are normalized with.
        color_jitter: s; brightness and contrast change by up to s, saturation by s / 2, hue by s / 4 of the circle; 0 is off.
        grayscale: probability of a gray crop.
        blur: largest standard deviation of the Gaussian, in pixels; 0 is off.
        solarize: probability of solarization in the second global crop.

    Raises:
        MissingDependencyError (an ImportError): color jitter or blur is on and kornia is not installed.
    """

    def __init__(
        self,
        crops: MultiCrop,
        mean: Sequence[float],
        std: Sequence[float],
        color_jitter: float = 0.4,
        grayscale: float = 0.2,
        blur: float = 2.0,
        solarize: float = 0.2,
    ):
        self.crops, self.mean, self.std = crops, tuple(mean), tuple(std)
        self.color_jitter, self.grayscale, self.blur, self.solarize = color_jitter, grayscale, blur, solarize
        if color_jitter:
            enhance()
        if blur:
            _filters()

    @torch.no_grad()
    def __call__(
        self, pixel_values: torch.Tensor, labels: torch.Tensor, seeds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment a batch.

        Args:
            pixel_values: uint8, (B, 3, P), as `MultiCrop` makes them.
            labels: (B,), which come back as they are.
            seeds: int64, (B,); best on the CPU.

        Returns:
            Crops, float32 (B, 3, P), normalized; and the labels.
        """
        seeds, groups = seeds.cpu(), []
        for images, numbers in zip(self.crops.split(pixel_values), self.crops.numbers, strict=True):
            own = torch.cat([combine_each(seeds, CROP, number) for number in numbers])
            number = torch.tensor(list(numbers)).repeat_interleave(len(seeds))
            images = self._colors(unit_interval(images), own)
            draws = uniform(own, CHOICES, count=4)
            images = _where(draws[:, 1] < self.grayscale, images, _gray)
            images = self._blurred(images, draws[:, 2], own, number)
            images = _where((number == 1) & (draws[:, 3] < self.solarize), images, _solarized)
            groups.append(standardize(images, self.mean, self.std))
        return self.crops.join(groups), labels

    def _colors(self, images: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        s = self.color_jitter
        if not s:
            return images
        spans = torch.tensor([(max(0, 1 - s), 1 + s), (max(0, 1 - s), 1 + s), (1 - s / 2, 1 + s / 2), (-s / 4, s / 4)])
        low, high = spans.double().unbind(1)
        factors = low + (high - low) * uniform(seeds, FACTOR, count=len(JITTERS))
        taken = uniform(seeds, CHOICES, count=1)[:, 0] < JITTERED
        for turn in uniform(seeds, ORDER, count=len(JITTERS)).argsort(dim=1).unbind(1):
            chosen = torch.where(taken, turn, -1)
            images = apply_chosen(images, chosen, factors.gather(1, turn[:, None])[:, 0], JITTERS, images.new_zeros(3))
        return images

    def _blurred(
        self, images: torch.Tensor, draws: torch.Tensor, seeds: torch.Tensor, number: torch.Tensor
    ) -> torch.Tensor:
        if not self.blur:
            return images
        sigma = LEAST_SIGMA + (self.blur - LEAST_SIGMA) * uniform(seeds, SIGMA, count=1)
        reach = min(math.ceil(3 * self.blur), min(images.shape[-2:]) - 1)  # the border is reflected once
        chosen = draws < torch.tensor(BLURRED)[number.clamp(max=GLOBAL_CROPS)]
        sigma = sigma[chosen].expand(-1, 2).to(images)
        return _where(
            chosen, images, lambda some: levels(_filters().gaussian_blur2d(some, (2 * reach + 1,) * 2, sigma))
        )


def _where(chosen: torch.Tensor, images: torch.Tensor, change) -> torch.Tensor:
    """The images, those that are chosen `(B,)`, on the CPU, changed."""
    places = chosen.nonzero()[:, 0].to(images.device)
    return images.index_copy(0, places, change(images[places])) if len(places) else images


def _gray(images: torch.Tensor) -> torch.Tensor:
    weights = images.new_tensor(GRAY)[:, None, None]
    return levels((images * weights).sum(1, keepdim=True)).expand_as(images)


def _solarized(images: torch.Tensor) -> torch.Tensor:
    return torch.where(images * 255 > 127.5, 1 - images, images)  # from level 128 on, as Pillow


def _filters():
    try:
        import kornia.filters
    except ImportError as error:
        raise MissingDependencyError("The blur needs kornia: pip install 'sima-hf[train]'") from error
    return kornia.filters
