"""Models sharded over processes (FSDP2): which layers by themselves, and states to and from whole tensors."""

from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from ...errors import CheckpointError


AVERAGE = "ema_state.pt"


def fsdp_wrap_layers(accelerator: Accelerator, model: PreTrainedModel) -> None:
    """Have Accelerate's FSDP2 wrap the model's layers one by one, where the user has not said what.

    By itself it takes `_no_split_modules`, in which most vision models of Transformers name their embeddings too; their
    patch embedding is then sharded twice, which torch refuses (accelerate 1.15).
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None or plugin.transformer_cls_names_to_wrap:
        return
    present = {type(module).__name__ for module in model.modules()}
    layers = [name for name in model._no_split_modules or () if name in present and not name.endswith("Embeddings")]
    if layers:
        plugin.transformer_cls_names_to_wrap = layers


def all_finite(model: torch.nn.Module) -> torch.Tensor:
    """Whether no weight of a model is infinite or NaN: a boolean scalar, on the model's device; all processes ask together."""
    found = [parameter.detach().isfinite().all() for parameter in model.parameters()]
    return torch.stack([one.full_tensor() if hasattr(one, "full_tensor") else one for one in found]).all()


def read_average(checkpoint: Path) -> dict:
    """The state of a checkpoint's `WeightAverage`, whole, on the CPU.

    Raises:
        CheckpointError: the run that made it kept no average.
    """
    path = checkpoint / AVERAGE
    if not path.is_file():
        raise CheckpointError(f"{checkpoint} has no average of the weights; go on with --ema_decay 0.")
    return torch.load(path, map_location="cpu", weights_only=True)


def unshard(state: dict) -> dict:
    """The same nested state with every sharded tensor whole; all processes must call it together."""
    return {name: _full(value) for name, value in state.items()}


def _full(value):
    if isinstance(value, dict):
        return unshard(value)
    # On the CPU, what full_tensor returns may still be on its way; a copy waits for it.
    return value.full_tensor().detach().cpu().clone() if hasattr(value, "full_tensor") else value


def shard_like(state: dict, pattern: dict) -> dict:
    """A state of whole tensors, sharded as the tensors of the same names in `pattern` are."""
    return {name: _like(value, pattern.get(name)) for name, value in state.items()}


def _like(value, pattern):
    if isinstance(value, dict) and isinstance(pattern, dict):
        return shard_like(value, pattern)
    if isinstance(value, torch.Tensor) and hasattr(pattern, "placements"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(pattern.to_local().device), pattern.device_mesh, pattern.placements)
    return value
