"""Random erasing (Zhong et al., arXiv 1708.04896): a rectangle of noise in some of the images, in place of what was there."""

import math

import torch

from ...data.randomness import combine_each, uniform


# Salts of this use of the seeds.
PLACE, NOISE = 0x45524153, 0x4E4F4953
ATTEMPTS = 10


def draw_boxes(
    seeds: torch.Tensor,
    height: int,
    width: int,
    probability: float,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> torch.Tensor:
    """Draw at most one rectangle for each image, vectorized.

    Of ten attempts with an area uniform in `area` and an aspect log-uniform in `aspect`, the first that is smaller than the
    image in both directions counts; where none is, the image stays whole, as in the reference implementations.

    Args:
        seeds: int64, (B,).
        height, width: of the images, in pixels.
        probability: of an image to get a rectangle at all.
        area: smallest and largest share of the image.
        aspect: smallest and largest height divided by width.

    Returns:
        int64, (B, 4), on the CPU: top, left, height, width in pixels; all 0 for none.
    """
    numbers = uniform(seeds, PLACE, count=3 + 2 * ATTEMPTS)
    chosen, top, left = numbers[:, :3].unbind(1)
    sizes, shapes = numbers[:, 3:].chunk(2, dim=1)
    sizes = (area[0] + sizes * (area[1] - area[0])) * height * width
    low, high = (math.log(value) for value in aspect)
    shapes = torch.exp(low + shapes * (high - low))
    heights = torch.round(torch.sqrt(sizes * shapes)).long()
    widths = torch.round(torch.sqrt(sizes / shapes)).long()
    fits = (heights < height) & (widths < width) & (heights > 0) & (widths > 0)
    first = fits.int().argmax(dim=1, keepdim=True)
    heights, widths = heights.gather(1, first)[:, 0], widths.gather(1, first)[:, 0]
    boxes = torch.stack(
        [(top * (height - heights + 1)).long(), (left * (width - widths + 1)).long(), heights, widths], dim=1
    )
    return boxes * ((chosen < probability) & fits.any(dim=1))[:, None]


def random_erasing(images: torch.Tensor, seeds: torch.Tensor, probability: float) -> torch.Tensor:
    """Fill one rectangle in some of the images with standard normal noise, pixel by pixel ("pixel" mode), in place.

    The noise comes from a generator of its own, seeded anew for each image, so that an image's view depends on neither the
    rest of its batch nor the global random state. CPU and CUDA give other noise for the same seed, in the same places.

    Args:
        images: floating, (B, C, H, W), normalized, on any device. Changed in place.
        seeds: int64, (B,); best on the CPU, since places are computed there.
        probability: of an image to get a rectangle.

    Returns:
        `images`.

    Raises:
        ValueError: the probability is not in [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"The probability of random erasing must lie between 0 and 1, got {probability!r}.")
    boxes = draw_boxes(seeds, *images.shape[-2:], probability)
    generator = torch.Generator(images.device)
    salted = combine_each(seeds.cpu(), NOISE).tolist()
    for index, (top, left, height, width) in enumerate(boxes.tolist()):
        if height:
            generator.manual_seed(salted[index])
            box = images[index, :, top : top + height, left : left + width]
            box.copy_(torch.randn(box.shape, generator=generator, device=images.device, dtype=images.dtype))
    return images
