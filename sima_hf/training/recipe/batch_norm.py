"""BatchNorm whose training statistics cover the batches of all processes, on any device.

On accelerators that is torch.nn.SyncBatchNorm. It refuses tensors on the CPU, where gloo's processes have theirs; there the class
of existing modules is exchanged instead, and autograd does the backward pass. Either way parameters, buffers, names and state
dicts stay what they are.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ...errors import TrainingError


class _Synchronized:
    """Forward pass of a BatchNorm module that takes its statistics from all processes while it trains.

    Input: floating, (B, C) or (B, C, ...), with B of any size in each process; output of the same shape and dtype. The
    gradients are those of one process that has all batches, of the sum of all processes' losses; those of weight and bias are of
    this process's batch, as DDP expects. Statistics are kept in float32 (float64 for float64 inputs).
    """

    process_group: dist.ProcessGroup | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not (self.training and _world_size(self.process_group) > 1):
            return super().forward(input)
        self._check_input_dim(input)
        dims, shape = [dim for dim in range(input.ndim) if dim != 1], (1, -1, *(1,) * (input.ndim - 2))
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        own_count = values.new_full((1,), input.numel() / max(input.shape[1], 1))
        total = _SumOverProcesses.apply(torch.cat([own_count, values.sum(dims)]), self.process_group)
        count, mean = total[:1].detach(), total[1:] / total[:1].detach()
        # Deviations from the mean of all: sums of squares would lose the variance of channels whose mean is large.
        values = values - mean.view(shape)
        variance = _SumOverProcesses.apply(values.square().sum(dims), self.process_group) / count
        if self.track_running_stats and self.running_mean is not None:
            self._follow(mean.detach(), variance.detach(), count)
        output = values * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        return output.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: torch.Tensor, variance: torch.Tensor, count: torch.Tensor) -> None:
        """Move the running statistics as nn.BatchNorm does: by the unbiased variance; momentum None is a plain mean."""
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked.to(mean) if self.momentum is None else self.momentum
        unbiased = variance * count / (count - 1).clamp(min=1)
        for running, value in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.add_(share * (value.to(running.dtype) - running))


class SynchronizedBatchNorm1d(_Synchronized, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over all processes; made by `synchronize_batch_norm`."""


class SynchronizedBatchNorm2d(_Synchronized, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over all processes; made by `synchronize_batch_norm`."""


SYNCHRONIZED = {nn.BatchNorm1d: SynchronizedBatchNorm1d, nn.BatchNorm2d: SynchronizedBatchNorm2d}


def synchronize_batch_norm(
    model: nn.Module, process_group: dist.ProcessGroup | None = None, device_type: str = "cpu"
) -> int:
    """Make every BatchNorm1d and BatchNorm2d of a model take its training statistics from all processes, in place.

    Evaluation, and training in one process, stay as they were. All processes must run the same layers in the same order.

    Args:
        model: any, but no BatchNorm itself; its parameters, buffers and names stay.
        process_group: the processes to cover; None is all of them.
        device_type: where it will be trained, such as "cpu" or "cuda".

    Returns:
        How many modules were converted; those that were already are not counted.

    Raises:
        TrainingError (a RuntimeError): the model has a BatchNorm of a class with a forward of its own, which would stay
            unsynchronized. Nothing is changed then.
    """
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and not isinstance(module, (_Synchronized, nn.SyncBatchNorm))
    ]
    for name, module in found:
        if type(module) not in SYNCHRONIZED:
            raise TrainingError(
                f"{name} is a {type(module).__name__}, which cannot be synchronized across processes; only "
                f"{' and '.join(kind.__name__ for kind in SYNCHRONIZED)} can. Exchange it, or train in one process."
            )
    if device_type != "cpu":
        nn.SyncBatchNorm.convert_sync_batchnorm(model, process_group)
        return len(found)
    for _, module in found:
        module.__class__ = SYNCHRONIZED[type(module)]
        module.process_group = process_group
    return len(found)


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
        ctx.group, total = group, values.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


def _world_size(group: dist.ProcessGroup | None) -> int:
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1
