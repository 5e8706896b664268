"""Rows that a convolution needs of the bands above and below, from the processes that have them."""

import torch
from torch import distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .bands import TokenSplit


class _Halo(torch.autograd.Function):
    """A band with the last rows of the band above and the first rows of the one below, zeros at the ends of the image."""

    @staticmethod
    def forward(ctx, x, above, below, split):
        ctx.rows, ctx.split = (above, x.shape[2], below), split
        from_above, from_below = _swap(x[:, :, :below], x[:, :, x.shape[2] - above :], split)
        return torch.cat((from_above, x, from_below), dim=2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        above, own, below = ctx.rows
        to_above, grad, to_below = grad.split(ctx.rows, dim=2)
        from_above, from_below = _swap(to_above, to_below, ctx.split)  # the gradients of the rows that were sent
        grad = grad + F.pad(from_above, (0, 0, 0, own - below)) + F.pad(from_below, (0, 0, own - above, 0))
        return grad, None, None, None


def with_halo(x: torch.Tensor, above: int, below: int, split: TokenSplit) -> torch.Tensor:
    """`(B,C,above+h+below,W)` from a band `(B,C,h,W)`; differentiable, once.

    Every band must have as many rows as are asked for, and every process must call it. Each sends `above + below` rows and gets
    as many, in one exchange with its two neighbors, forward and again backward.
    """
    return _Halo.apply(x, above, below, split)


def _swap(up: torch.Tensor, down: torch.Tensor, split: TokenSplit) -> tuple[torch.Tensor, torch.Tensor]:
    """Send `up` to the process above and `down` to the one below; what those sent, zeros where there is none."""
    found = down.new_zeros(down.shape), up.new_zeros(up.shape)  # contiguous, whatever the format of the map
    transfers = []
    for neighbor, sent, got in ((split.rank - 1, up, found[0]), (split.rank + 1, down, found[1])):
        if 0 <= neighbor < split.processes:
            peer = distributed.get_global_rank(split.group, neighbor)
            if sent.numel():
                transfers.append(distributed.P2POp(distributed.isend, sent.contiguous(), peer, split.group))
            if got.numel():
                transfers.append(distributed.P2POp(distributed.irecv, got, peer, split.group))
    for work in distributed.batch_isend_irecv(transfers) if transfers else ():
        work.wait()
    return found
