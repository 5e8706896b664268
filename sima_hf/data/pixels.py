"""From bytes to the normalized floats that a model takes."""

from collections.abc import Sequence

import torch


def unit_interval(pixel_values: torch.Tensor) -> torch.Tensor:
    """Bytes 0..255 as float32 in [0, 1].

    Args:
        pixel_values: uint8, any shape and device.

    Raises:
        TypeError: another dtype; images that are floats already may be scaled already.
    """
    if pixel_values.dtype != torch.uint8:
        raise TypeError(
            f"Images must come as bytes (torch.uint8, 0 to 255), neither rescaled nor normalized, got {pixel_values.dtype}."
        )
    return pixel_values.float() / 255


def normalize(pixel_values: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Bytes as a model takes them: `(pixel / 255 - mean) / std`, channel by channel, as an image processor does it.

    Args:
        pixel_values: uint8, (B, C, H, W), on any device.
        mean, std: one number for each channel, on the scale of [0, 1].

    Returns:
        float32, of the same shape, on the same device.

    Raises:
        TypeError: another dtype.
        ValueError: another number of channels.
    """
    return standardize(unit_interval(pixel_values), mean, std)


def standardize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """`(images - mean) / std`, channel by channel.

    Args:
        images: float, (B, C, H, W).
        mean, std: one number for each channel.

    Raises:
        ValueError: another number of channels.
    """
    if not len(mean) == len(std) == images.shape[-3]:
        raise ValueError(
            f"Mean and standard deviation need one number for each channel, got {len(mean)} and {len(std)} for images of "
            f"shape {tuple(images.shape)}."
        )
    return (images - images.new_tensor(mean)[:, None, None]) / images.new_tensor(std)[:, None, None]
