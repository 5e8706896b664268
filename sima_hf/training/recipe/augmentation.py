"""What happens to a training batch on the device: bytes in, augmented and normalized images with soft targets out."""

from collections.abc import Sequence

import torch

from ...data.pixels import standardize, unit_interval
from ...data.randomness import uniform
from .erasing import random_erasing
from .mixup import draw_mix, mix_images, mix_targets, soft_targets
from .rand_augment import RandAugment, apply_chosen, brightness, contrast, enhance, saturation


# Salts of this use of the seeds.
JITTER_ORDER, JITTER = 0x4F524452, 0x4A495454

JITTERS = (brightness, contrast, saturation)


def color_jitter(images: torch.Tensor, seeds: torch.Tensor, strength: float) -> torch.Tensor:
    """Change brightness, contrast and saturation of each image, in an order of its own, each by a factor of its own.

    Args:
        images: float32, (B, 3, H, W), in [0, 1].
        seeds: int64, (B,); best on the CPU.
        strength: factors are uniform in `[max(0, 1 - strength), 1 + strength]`.

    Returns:
        Of the same shape, on 256 levels.

    Raises:
        MissingDependencyError (an ImportError): kornia is not installed.
    """
    orders = uniform(seeds, JITTER_ORDER, count=len(JITTERS)).argsort(dim=1)
    low, high = max(0.0, 1 - strength), 1 + strength
    factors = low + (high - low) * uniform(seeds, JITTER, count=len(JITTERS))
    for turn in orders.unbind(1):
        images = apply_chosen(images, turn, factors.gather(1, turn[:, None])[:, 0], JITTERS, images.new_zeros(3))
    return images


class BatchAugmentation:
    """The recipe's augmentation of a batch, on the device where it lies.

    In the order of the original: RandAugment (or color jitter where that is off), normalization, random erasing, mixup or
    CutMix with soft targets. What is drawn depends on the images' seeds only. Everything up to erasing depends on the image's
    own seed, mixing on those of the whole batch, as does its partner.

    Args:
        mean, std: what the model's images are normalized with, one number for each of 3 channels.
        num_labels: K.
        rand_augment: such as "rand-m9-mstd0.5-inc1" (the "rand-" may be missing); None or "none" is off.
        color_jitter: strength; None or 0 is off.
        random_erasing: probability of an image to get a rectangle of noise.
        mixup, cutmix: alpha of the Beta distribution of the share; 0 is off.
        mixup_switch_prob: probability of CutMix where both are on.
        label_smoothing: share of the target that is spread over all labels.
        color_jitter_with_rand_augment: jitter colors besides RandAugment, before it; else RandAugment replaces it.

    Raises:
        ValueError: a number or string out of its range.
        MissingDependencyError (an ImportError): RandAugment or color jitter is on and kornia is not installed.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        num_labels: int,
        rand_augment: str | None = "m9-mstd0.5-inc1",
        color_jitter: float | None = 0.4,
        random_erasing: float = 0.25,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        mixup_switch_prob: float = 0.5,
        label_smoothing: float = 0.1,
        color_jitter_with_rand_augment: bool = False,
    ):
        self.mean, self.std, self.num_labels = tuple(mean), tuple(std), num_labels
        self.rand_augment = None if rand_augment in (None, "none") else RandAugment.parse(rand_augment)
        jitter = self.rand_augment is None or color_jitter_with_rand_augment
        self.color_jitter = (color_jitter or 0.0) if jitter else 0.0
        self.random_erasing, self.label_smoothing = random_erasing, label_smoothing
        self.mixup, self.cutmix, self.mixup_switch_prob = mixup, cutmix, mixup_switch_prob
        for name in ("random_erasing", "label_smoothing", "mixup_switch_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must lie between 0 and 1, got {getattr(self, name)!r}.")
        for name in ("color_jitter", "mixup", "cutmix"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)!r}; 0 is off.")
        if self.rand_augment is not None or self.color_jitter:
            enhance()

    @torch.no_grad()
    def __call__(
        self, pixel_values: torch.Tensor, labels: torch.Tensor, seeds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment a batch.

        Args:
            pixel_values: uint8, (B, 3, H, W), on any device.
            labels: int64, (B,), in [0, num_labels).
            seeds: int64, (B,), those of the images' draws. Best on the CPU: all that is drawn is drawn there, and seeds on
                another device would have to be waited for.

        Returns:
            Images, float32 (B, 3, H, W), normalized; targets, float32 (B, num_labels), each row with sum 1; on the device of
            the pixels.

        Raises:
            TypeError: the pixels are not uint8, or the seeds not int64.
            ValueError: the numbers of images, labels and seeds differ, or mean and std are of other channels.
        """
        if not len(pixel_values) == len(labels) == len(seeds):
            raise ValueError(
                f"Each image needs a label and a seed, got {len(pixel_values)} images, {len(labels)} labels and {len(seeds)} "
                "seeds."
            )
        images, seeds = unit_interval(pixel_values), seeds.cpu()
        if self.color_jitter:
            images = color_jitter(images, seeds, self.color_jitter)
        if self.rand_augment is not None:
            images = self.rand_augment(images, seeds, fill=images.new_tensor(self.mean))
        images = standardize(images, self.mean, self.std)
        if self.random_erasing:
            images = random_erasing(images, seeds, self.random_erasing)
        mix = draw_mix(seeds, *images.shape[-2:], self.mixup, self.cutmix, self.mixup_switch_prob)
        targets = soft_targets(labels.to(images.device), self.num_labels, self.label_smoothing)
        return mix_images(images, mix), mix_targets(targets, mix)
