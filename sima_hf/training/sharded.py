"""States whose tensors may be shared out among processes (FSDP2's DTensor), to and from whole tensors."""

import torch


def full_state(state: dict) -> dict:
    """The same nested state with every shared-out tensor whole; all processes must call it together."""
    return {name: _full(value) for name, value in state.items()}


def _full(value):
    if isinstance(value, dict):
        return full_state(value)
    return value.full_tensor().cpu() if hasattr(value, "full_tensor") else value


def shard_like(state: dict, pattern: dict) -> dict:
    """A state of whole tensors, shared out as the tensors of the same names in `pattern` are."""
    return {name: _like(value, pattern.get(name)) for name, value in state.items()}


def _like(value, pattern):
    if isinstance(value, dict) and isinstance(pattern, dict):
        return shard_like(value, pattern)
    if isinstance(value, torch.Tensor) and hasattr(pattern, "placements"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(pattern.to_local().device), pattern.device_mesh, pattern.placements)
    return value
