"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) of a batch with itself in reverse order, and the soft targets."""

import math
import random
from typing import NamedTuple

import torch

from ...data.randomness import combine


# Salt of this use of the seeds.
MIX = 0x4D495855


class Mix(NamedTuple):
    """How a batch is mixed with itself in reverse order.

    Attributes:
        share: what an image keeps of its own, in [0, 1]; its partner gives the rest.
        box: top, bottom, left, right in pixels of the region that comes from the partner (CutMix), None for mixup.
    """

    share: float
    box: tuple[int, int, int, int] | None


def soft_targets(labels: torch.Tensor, num_labels: int, smoothing: float = 0.0) -> torch.Tensor:
    """Distributions over the labels: `1 - s + s / K` at the label, `s / K` elsewhere.

    Args:
        labels: int64, (B,).
        num_labels: K.
        smoothing: s, in [0, 1).

    Returns:
        float32, (B, K), on the device of the labels.
    """
    off = smoothing / num_labels
    targets = torch.full((len(labels), num_labels), off, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1 - smoothing + off)


def draw_mix(
    seeds: torch.Tensor, height: int, width: int, mixup: float, cutmix: float, switch_probability: float = 0.5
) -> Mix:
    """Draw what happens to one batch, from the seeds of its images alone.

    Args:
        seeds: int64, (B,).
        height, width: of the images, in pixels.
        mixup, cutmix: alpha of the symmetric Beta distribution of the share; 0 turns one off.
        switch_probability: of CutMix, where both are on.

    Returns:
        A `Mix`. CutMix's region has the share of the image that the distribution gives, its center anywhere; what lies
        outside the image is cut off, and the share is that of the pixels that stay.
    """
    if not mixup and not cutmix:
        return Mix(1.0, None)
    # Python's own generator: its Beta distribution is written in Python, so it is the same everywhere.
    source = random.Random(combine(*seeds.tolist(), MIX))
    cut = cutmix > 0 and (mixup == 0 or source.random() < switch_probability)
    alpha = cutmix if cut else mixup
    share = source.betavariate(alpha, alpha)
    if not cut:
        return Mix(share, None)
    side = math.sqrt(1 - share)
    edges = []
    for length in (height, width):
        center, half = source.randrange(length), int(length * side) // 2
        edges += [max(center - half, 0), min(center + half, length)]
    top, bottom, left, right = edges
    return Mix(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))


def mix_images(images: torch.Tensor, mix: Mix) -> torch.Tensor:
    """Mix each image with the one that stands as far from the end as it does from the beginning; a middle one with itself.

    Args:
        images: floating, (B, C, H, W). CutMix changes them in place.
        mix: from `draw_mix`.

    Returns:
        The mixed images, of the same shape and dtype.
    """
    if mix.share == 1:
        return images
    if mix.box is None:
        return mix.share * images + (1 - mix.share) * images.flip(0)
    top, bottom, left, right = mix.box
    region = images[:, :, top:bottom, left:right]
    region.copy_(region.flip(0))
    return images


def mix_targets(targets: torch.Tensor, mix: Mix) -> torch.Tensor:
    """Mix soft targets as `mix_images` mixes the images.

    Args:
        targets: floating, (B, K).
        mix: from `draw_mix`.

    Returns:
        Of the same shape and dtype.
    """
    return mix.share * targets + (1 - mix.share) * targets.flip(0)
