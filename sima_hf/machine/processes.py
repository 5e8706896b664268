"""Processes that work together under `accelerate launch` or torchrun."""

import os

import torch

from ..errors import MissingDependencyError


def make_accelerator(device: str | None):
    """An Accelerator under `accelerate launch` or torchrun with several processes, else None.

    Raises:
        MissingDependencyError: accelerate is not installed.
        ValueError: the processes cannot be joined.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return None
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingDependencyError("Several processes need accelerate: pip install 'sima-hf[train]'") from error
    # Without an accelerator, Accelerate leaves the processes apart unless it is told that they run on the CPU.
    accelerator = Accelerator(cpu=device == "cpu" or not torch.accelerator.is_available())
    if accelerator.num_processes == 1:
        raise ValueError(
            f"{os.environ['WORLD_SIZE']} processes were started, but Accelerate does not join them on {accelerator.device}; start "
            "one, or say --device cpu."
        )
    return accelerator
