"""BatchNorm whose training statistics cover the batches of all processes, on any device and backend.

torch.nn.SyncBatchNorm refuses tensors on the CPU, where gloo's processes have theirs. Here the class of existing modules is
exchanged instead, so parameters, buffers, names and state dicts stay what they are.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import batch_norm

from ...errors import TrainingError


class _Synchronized:
    """Forward pass of a BatchNorm module that takes its statistics from all processes while it trains.

    Input: floating, (B, C) or (B, C, ...), with B of any size in each process; output of the same shape and dtype. The
    gradients are those of one process that has all batches, of the sum of all processes' losses. Statistics are kept in float32
    (float64 for float64 inputs).
    """

    process_group: dist.ProcessGroup | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not (self.training and _world_size(self.process_group) > 1):
            return super().forward(input)
        self._check_input_dim(input)
        output, mean, variance, count = _NormOverProcesses.apply(
            input, self.weight, self.bias, self.eps, self.process_group
        )
        if self.track_running_stats and self.running_mean is not None:
            with torch.no_grad():
                self._follow(mean, variance, count)
        return output

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


def synchronize_batch_norm(model: nn.Module, process_group: dist.ProcessGroup | None = None) -> int:
    """Make every BatchNorm1d and BatchNorm2d of a model take its training statistics from all processes, in place.

    Evaluation, and training in one process, stay as they were. All processes must run the same layers in the same order.

    Args:
        model: any; its parameters, buffers and names stay.
        process_group: the processes to cover; None is all of them.

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
    for _, module in found:
        module.__class__ = SYNCHRONIZED[type(module)]
        module.process_group = process_group
    return len(found)


class _NormOverProcesses(torch.autograd.Function):
    """Batch normalization with one exchange of 2C + 1 numbers forward, and one of 2C numbers backward."""

    @staticmethod
    def forward(
        ctx: Any,
        input: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
        group: dist.ProcessGroup | None,
    ) -> tuple[torch.Tensor, ...]:
        """To output, and mean (C,), biased variance (C,) and number of values (1,) over all processes."""
        dims = _all_but_channels(input)
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        count = values.new_full((1,), input.numel() / max(input.shape[1], 1))
        # Deviations from each process's own mean, put together by Chan, Golub and LeVeque's formula (1979): sums of squares
        # would lose the variance of channels whose mean is large.
        own_mean = values.sum(dims) / count.clamp(min=1)
        own_squares = (values - _spread(own_mean, input)).square().sum(dims)
        everyone = _gathered(torch.cat([count, own_mean, own_squares]), group)
        counts, means, squares = everyone.split([1, len(own_mean), len(own_mean)], dim=1)
        count = counts.sum(0)
        mean = (counts * means).sum(0) / count
        variance = (squares + counts * (means - mean).square()).sum(0) / count
        output = batch_norm(
            values,
            mean,
            variance,
            None if weight is None else weight.to(values.dtype),
            None if bias is None else bias.to(values.dtype),
            eps=eps,
        )
        ctx.save_for_backward(input, weight, mean, torch.rsqrt(variance + eps), count)
        ctx.group, ctx.has_bias = group, bias is not None
        ctx.mark_non_differentiable(mean, variance, count)
        return output.to(input.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor, *unused: Any) -> tuple[torch.Tensor | None, ...]:
        """Gradients of input, weight and bias; those of weight and bias are of this process's batch, as DDP expects."""
        input, weight, mean, inverse, count = ctx.saved_tensors
        dims = _all_but_channels(input)
        gradient = gradient.to(mean.dtype)
        normalized = (input.to(mean.dtype) - _spread(mean, input)) * _spread(inverse, input)
        sums = torch.stack([gradient.sum(dims), (gradient * normalized).sum(dims)])
        for_bias, for_weight = sums.unbind(0)
        for_input = None
        if ctx.needs_input_grad[0]:
            of_all = sums.clone()
            dist.all_reduce(of_all, group=ctx.group)
            shift, slope = (_spread(value / count, input) for value in of_all.unbind(0))
            scale = inverse if weight is None else inverse * weight.to(mean.dtype)
            for_input = ((gradient - shift - normalized * slope) * _spread(scale, input)).to(input.dtype)
        return (
            for_input,
            for_weight.to(weight.dtype) if weight is not None else None,
            for_bias.to(weight.dtype) if ctx.has_bias else None,
            None,
            None,
        )


def _world_size(group: dist.ProcessGroup | None) -> int:
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def _gathered(values: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    """A vector of each process, (processes, length).

    By a sum with zeros, which is exact: the functions that gather have other names from one torch to the next.
    """
    everyone = values.new_zeros(dist.get_world_size(group), len(values))
    everyone[dist.get_rank(group)] = values
    dist.all_reduce(everyone, group=group)
    return everyone


def _all_but_channels(input: torch.Tensor) -> list[int]:
    return [dim for dim in range(input.ndim) if dim != 1]


def _spread(values: torch.Tensor, input: torch.Tensor) -> torch.Tensor:
    """Values of channels, (C,), in a shape that broadcasts with the input."""
    return values.view(-1, *(1,) * (input.ndim - 2))
