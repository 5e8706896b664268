"""Tokens split over processes (context parallelism): three sums over the tokens are all that they exchange.

With `a` and `b` the sums of |q| and |k|, `K = k^T v` and the number of keys t (for gain="tokens"), every process sums its own tokens
and one all-reduce adds the sums of all of them, `H D + Hk D + Hk D Dv (+ 1)` numbers an image. Then each has the whole

    M = diag(t / (a b)) K        and computes        out = q M        for its own queries.

The gradient of a sum over processes is the sum of their gradients, so backward is one all-reduce of as many numbers. Neither depends
on the number of tokens. The sums are float32 or wider and are divided after they have been added, as in `eager_attention`.
"""

import torch
from torch import distributed

from ..errors import BackendError
from .autocast import without_autocast
from .checks import check_mask_queries
from .eager import EPS, absolute_sum, apply_context, floor_norm, matmul, repeat_heads


SERVING = ("auto", "eager")


class _SumOverGroup(torch.autograd.Function):
    """The sum of a tensor over the processes of a group, on each of them."""

    @staticmethod
    def forward(x, group):
        total = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.group = inputs[1]

    @staticmethod
    def backward(ctx, grad):
        return _SumOverGroup.apply(grad, ctx.group), None


def sum_over_group(parts: list[torch.Tensor], group: "distributed.ProcessGroup") -> list[torch.Tensor]:
    """Each of some tensors of one dtype, summed over the processes of a group by one all-reduce; differentiable.

    All processes have to call it, with the same shapes, and all have to run backward through it or none.
    """
    total = _SumOverGroup.apply(torch.cat([part.flatten() for part in parts]), group)
    pieces = total.split([part.numel() for part in parts])
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]


def group_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    keep: torch.Tensor | None,
    allow: torch.Tensor | None,
    bias: torch.Tensor | None,
    gain: str,
    order: str,
    backend: str,
    mask_queries: bool | None,
    group: "distributed.ProcessGroup",
    shared_tokens: int,
) -> torch.Tensor:
    """`(B,H,Nq,Dv)` for this process's queries; arguments as for `sima_attention`, the mask as `check_mask` gives it.

    Raises:
        TypeError, ValueError: the tokens cannot be split with these arguments.
    """
    check_group(group, query, key, allow, keep, bias, order, backend, mask_queries, shared_tokens)
    mask_queries = check_mask_queries(mask_queries, keep, query, key)
    dtype = query.dtype
    with without_autocast(query.device.type):
        if dtype in (torch.float16, torch.bfloat16):
            query, key, value = query.float(), key.float(), value.float()
        tokens = key.shape[-2]
        if keep is not None:
            hidden = ~keep[:, None, :, None]
            query = query.masked_fill(hidden, 0) if mask_queries else query
            key, value = key.masked_fill(hidden, 0), value.masked_fill(hidden, 0)
        # What all processes hold enters the sums on the first of them.
        skipped = shared_tokens if distributed.get_rank(group) > 0 else 0
        tokens = tokens - skipped if keep is None else keep[:, skipped:].sum(dim=-1)
        rows = query[:, :, skipped:], key[:, :, skipped:], value[:, :, skipped:]
        context = shared_context(*rows, tokens if gain == "tokens" else None, group)
        return apply_context(query, context).to(dtype)


def shared_context(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    tokens: torch.Tensor | int | None,
    group: "distributed.ProcessGroup",
    eps: float = EPS,
) -> torch.Tensor:
    """M, `(B,H,D,Dv)`, which every query is multiplied with, by one all-reduce.

    Args:
        query, key, value: `(B,H,Nq,D)`, `(B,Hk,Nk,D)`, `(B,Hk,Nk,Dv)`, the share of this process, float32 or float64.
        tokens: how many keys are seen in this share, for the gain: `(B,)` or a number; None for gain="none".
        group: the processes.
        eps: floor of the norms.
    """
    parts = [absolute_sum(query.transpose(1, 2)), absolute_sum(key.transpose(1, 2)), matmul(key.mT, value)]
    if tokens is not None:
        parts.append(torch.as_tensor(tokens, dtype=query.dtype, device=query.device).expand(query.shape[0]))
    query_norm, key_norm, context, *counts = sum_over_group(parts, group)
    groups = query.shape[1] // key.shape[1]
    scale = (counts[0][:, None, None] if counts else 1.0) / floor_norm(query_norm, eps)
    scale = scale / repeat_heads(floor_norm(key_norm, eps), groups)
    return repeat_heads(context, groups) * scale.unsqueeze(-1)


def check_process_group(group: object) -> None:
    """Raise TypeError or ValueError unless `group` is a process group that this process is in."""
    if distributed.is_available() and isinstance(group, distributed.ProcessGroup):
        return
    if not distributed.is_available() or not distributed.is_initialized():
        raise ValueError(
            "`group` needs processes that are joined, and these are not: call torch.distributed.init_process_group first."
        )
    if group is None or group is distributed.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(
            "`group` must be a process group that this process is in, and it is not in this one; "
            "torch.distributed.group.WORLD is the group of all processes."
        )
    raise TypeError(
        f"`group` must be a torch.distributed.ProcessGroup, got {type(group).__name__}; `mesh.get_group()` gives that of a "
        "one-dimensional DeviceMesh."
    )


def check_group(
    group: object,
    query: torch.Tensor,
    key: torch.Tensor,
    allow: torch.Tensor | None,
    keep: torch.Tensor | None,
    bias: torch.Tensor | None,
    order: str,
    backend: str,
    mask_queries: bool | None,
    shared_tokens: int,
) -> None:
    """Raise unless `sima_attention` can have its tokens split over `group` with these arguments, each as it is given there."""
    check_process_group(group)
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        raise ValueError(
            "`group` must be None while a graph is exported or traced: a file holds one process's program."
        )
    if backend not in SERVING:
        raise BackendError(
            f"The backend {backend!r} cannot serve here: tokens that are split over a `group` are plain torch's alone. Leave it out, "
            "or choose 'eager'."
        )
    quadratic = {
        "order='quadratic'": order == "quadratic",
        "a full mask": allow is not None,
        "`bias`": bias is not None,
    }
    for name, asked in quadratic.items():
        if asked:
            raise ValueError(
                f"{name} needs every pair of tokens, which no process has where they are split over a `group`. Leave it out; "
                "key padding (B, Nk) is the mask that can be split."
            )
    if keep is not None and mask_queries is None:
        raise ValueError(
            "`mask_queries` must be True or False with key padding and a `group`: one process's share does not show whether "
            "queries and keys are the same tokens."
        )
    least = min(query.shape[-2], key.shape[-2])
    if not 0 <= shared_tokens <= least:
        raise ValueError(
            f"`shared_tokens` must be from 0 to {least}, of which this process has queries and keys, got {shared_tokens}."
        )
