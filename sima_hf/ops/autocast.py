"""Autocast: its dtype where it is on, and a context without it."""

import contextlib

import torch


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """The dtype of autocast where it is on; None elsewhere, and on devices that have none, such as meta."""
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return None


def without_autocast(device_type: str) -> contextlib.AbstractContextManager:
    """A context in which products have the dtype of their factors."""
    if autocast_dtype(device_type) is None:
        return contextlib.nullcontext()
    return torch.autocast(device_type, enabled=False)
