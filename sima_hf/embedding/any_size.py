"""A forward at the resolution at which the images come."""

import inspect
from typing import Any

import torch
from torch import nn

from ..errors import DataError


def run_at_size(model: nn.Module, pixels: torch.Tensor, forward: Any = None, **inputs: Any) -> Any:
    """The output of a model for images of any size; position embeddings are interpolated where it can (`interpolate_pos_encoding`).

    Args:
        model: may be wrapped, as by DistributedDataParallel.
        pixels: `(B, C, H, W)`, normalized.
        forward: the method to call; None: the model itself.
        inputs: what it takes besides.

    Raises:
        DataError: it cannot take images of this size.
    """
    inner = getattr(model, "module", model)
    config = getattr(inner, "config", None)
    own = getattr(config, "image_size", None) or getattr(getattr(config, "vision_config", None), "image_size", None)
    own = tuple(own) if isinstance(own, (list, tuple)) else (own, own)
    elsewhere = own[0] is not None and own != tuple(pixels.shape[-2:])
    takes = "interpolate_pos_encoding" in inspect.signature(forward or inner.forward).parameters
    options = {"interpolate_pos_encoding": True} if elsewhere and takes else {}
    try:
        return (forward or model)(pixels, **inputs, **options)
    except (RuntimeError, ValueError, IndexError) as error:
        if not elsewhere or isinstance(error, torch.OutOfMemoryError):
            raise
        raise DataError(
            f"{type(inner).__name__}, made for images of {own[0]} x {own[1]} pixels, cannot take {pixels.shape[-2]} x "
            f"{pixels.shape[-1]}: {str(error).splitlines()[0]}"
        ) from error
