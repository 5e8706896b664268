"""The exponential moving average of a model's weights, which can be evaluated and saved in their place."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ...errors import CheckpointError


class WeightAverage:
    """Exponential moving average of everything floating in a model's state dict: parameters and BatchNorm's statistics.

    Held in float32 on the devices of the entries whatever the model's dtype is (float64 stays): at a decay of 0.99996, an
    average in bfloat16 would never move. What is not floating, such as counters, is copied. Nothing but elementwise
    operations, so entries may be DTensors, each process averaging its shard.

    Args:
        model: its entries are where the average starts. Give the bare model, as it is saved, not a wrapper around it.
        decay: share of the average that stays at each update, in [0, 1).
        warmup: let the decay of update n = 1, 2, ... be at most `n / (9 + n)`, so that a run that is short against
            `1 / (1 - decay)` updates averages its later weights, not where it started.

    Raises:
        ValueError: the decay is not in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool = True):
        if not 0 <= decay < 1:
            raise ValueError(
                f"The decay of averaged weights must be at least 0 and below 1, such as 0.99996, got {decay!r}."
            )
        self.decay, self.warmup, self.num_updates = decay, warmup, 0
        self.averages = {
            name: (value.to(_average_dtype(value)) if value.is_floating_point() else value).detach().clone()
            for name, value in _entries(model)
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's present weights into the average: `average += (1 - decay) (weights - average)`.

        Raises:
            ValueError: this is another model, by the names of its entries.
        """
        values = dict(_entries(model))
        self._check_names(values)
        self.num_updates += 1
        decay = self.decay
        if self.warmup:
            decay = min(decay, self.num_updates / (9 + self.num_updates))
        floating = [name for name, value in values.items() if value.is_floating_point()]
        averages = [_local(self.averages[name]) for name in floating]
        weights = [_local(values[name]).to(average.dtype) for name, average in zip(floating, averages, strict=True)]
        if floating:
            torch._foreach_lerp_(averages, weights, 1 - decay)
        for name in values.keys() - set(floating):
            self.averages[name].copy_(values[name])

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[nn.Module]:
        """The model with the averaged weights, rounded to its dtypes; its own come back afterwards, bit for bit.

        They come back also after an exception. The model's copies wait on its devices meanwhile.

        Raises:
            ValueError: this is another model, by the names of its entries.
        """
        values = dict(_entries(model))
        self._check_names(values)
        kept = {name: value.detach().clone() for name, value in values.items()}
        try:
            _copy(self.averages, values)
            yield model
        finally:
            _copy(kept, values)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: `num_updates` and `averages`, the tensors themselves, not copies of them."""
        return {"num_updates": self.num_updates, "averages": dict(self.averages)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`, on the devices that this average has; decay and warm-up stay those given at the start.

        Raises:
            CheckpointError (a ValueError): names or shapes are not those of this model. Nothing is changed then.
        """
        missing = [name for name in ("num_updates", "averages") if name not in state]
        if missing:
            raise CheckpointError(
                f"The averaged weights of a checkpoint need {' and '.join(missing)}, which this one lacks: it was not "
                "written by WeightAverage.state_dict()."
            )
        own, new = (
            {name: tuple(value.shape) for name, value in d.items()} for d in (self.averages, state["averages"])
        )
        if own != new:
            name = next(key for key in {**own, **new} if own.get(key) != new.get(key))
            raise CheckpointError(
                f"The checkpoint's averaged weights belong to another model: {name!r} is {new.get(name, 'missing')} there "
                f"and {own.get(name, 'missing')} here. Resume with the configuration that the run was started with."
            )
        _copy(state["averages"], self.averages)
        self.num_updates = int(state["num_updates"])

    def _check_names(self, values: Mapping[str, torch.Tensor]) -> None:
        if values.keys() != self.averages.keys():
            name = sorted(values.keys() ^ self.averages.keys())[0]
            raise ValueError(
                f"The averaged weights were started from another model: {name!r} is only in "
                f"{'the model given now' if name in values else 'the one given at the start'}. Give the bare model both "
                "times, without the wrappers of DistributedDataParallel or torch.compile."
            )


def _entries(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [(name, value) for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)]


def _local(value: torch.Tensor) -> torch.Tensor:
    """This process's shard of a DTensor, the same memory; a plain tensor as it is. One list may not hold both kinds."""
    return value.to_local() if hasattr(value, "to_local") else value


def _average_dtype(value: torch.Tensor) -> torch.dtype:
    return torch.promote_types(value.dtype, torch.float32)


@torch.no_grad()
def _copy(source: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> None:
    for name, value in target.items():
        value.copy_(source[name])
