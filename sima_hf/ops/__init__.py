"""SimA attention as an operation on tensors: checks the inputs, picks the order and the backend, computes."""

import torch

from .autocast import without_autocast
from .backends import backend_names, backend_report, pick_backend
from .checks import check_bias, check_mask, check_mask_queries, check_tensors, one_of
from .group import group_attention
from .order import GAINS, ORDERS, cheaper_order


__all__ = ["backend_names", "backend_report", "check_gain", "sima_attention"]


def check_gain(gain: str) -> None:
    """Raise ValueError unless a gain is one that `sima_attention` takes.

    Args:
        gain: "none" or "tokens".
    """
    one_of("gain", gain, GAINS)


def sima_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    gain: str = "none",
    order: str = "auto",
    backend: str = "auto",
    bias: torch.Tensor | None = None,
    mask_queries: bool | None = None,
    group: "torch.distributed.ProcessGroup | None" = None,
    shared_tokens: int = 0,
) -> torch.Tensor:
    """Softmax-free attention: query and key are L1-normalized over the tokens, then three matrices are multiplied.

    `out = (q / |q|_1) (k / |k|_1)^T v` with the norms taken per head and channel over the token axis, floored at
    1e-12 (SimA, arXiv 2206.08898, section 3). No softmax, no exp, no `1/sqrt(D)`. A channel that is zero at every
    token contributes nothing and receives no gradient.

    Args:
        query: `(B, H, Nq, D)`, float64, float32, float16 or bfloat16, on any device and with any strides.
        key: `(B, Hk, Nk, D)`, dtype and device of `query`. `H` is a multiple of `Hk`: grouped heads are repeated.
        value: `(B, Hk, Nk, Dv)`, dtype and device of `query`.
        mask: who may see whom; True, or 0.0 in a float mask, means "may". One of

            - `None`: everyone sees everyone;
            - key padding, boolean `(B, Nk)`: tokens marked False are out as keys: of the norm of the key and of the
              sum. With `mask_queries` the queries at the same positions are out as well: of the norm of the query, and their
              rows of the result are zero;
            - boolean `(B or 1, H or 1, N, N)`: row i attends to the j with `mask[..., i, j]`, and the norms of row i run
              over those j alone. Needs `Nq == Nk`; costs `N x N`;
            - a float mask of either shape whose entries are all 0 or at most -100 (`-inf` too), meaning the same.
        gain: "none" (the paper's formula, whose result shrinks about as `N^-1.5`) or "tokens" (times the number of
            keys that the query may see, which keeps the scale when the number of tokens changes).
        order: "linear" for `q (k^T v)`, "quadratic" for `(q k^T) v`, "auto" for the one with fewer operations. The fused
            backends take the linear one whatever it says.
        backend: "auto", or a name listed by `sima_hf.ops.backend_report()`.
        bias: position bias, floating point `(B or 1, H or 1, Nq, Nk)`, added to the product of the normalized query and key
            before the mask and the gain: `out = gain * (q^ k^T + bias) v`. Costs `N x N`.
        mask_queries: whether key padding hides the queries at the same positions as well; by default where there are as many
            queries as keys. False where queries are tokens of their own that happen to be as many. Without key padding it
            changes nothing. With a `group` and key padding it has to be said.
        group: the processes over which the tokens of each image are split (context parallelism); None: this one has all. Each
            process gives its own queries, keys and values, of any number, none too, and gets the rows of its own queries; all
            call it, with the same `gain`, and all run backward through it or none. One all-reduce forward and one backward, of
            `B (H D + Hk D + Hk D Dv)` numbers in float32 or wider, and B more with gain="tokens", whatever the number of tokens.
            The gradient is that of the sum of all processes' losses.
        shared_tokens: how many of the first queries and keys every process of `group` has in common, such as a class token; they
            enter the norms and the sum once.

    Returns:
        `(B, H, Nq, Dv)`, dtype of `query`. Half-precision inputs are accumulated in float32, under autocast too.

    Raises:
        TypeError: an argument is no tensor, or its dtype is not one of the four.
        ValueError: shapes, dtypes or devices do not fit together, the mask or the bias is none of the above, an option is
            unknown, or `mask_queries` is True with another number of queries than keys. With a `group`: the quadratic
            order, a full mask or a bias, which need every pair of tokens; no process group that is initialized; `mask_queries` left
            out with key padding; a graph that is traced or exported. `BackendError` (a ValueError) if `backend` does not exist or
            cannot serve these inputs.
    """
    check_tensors(query, key, value)
    check_gain(gain)
    one_of("order", order, ORDERS)
    keep, allow = check_mask(mask, query, key)
    check_bias(bias, query, key)
    if group is not None:
        given = {"keep": keep, "allow": allow, "bias": bias, "gain": gain, "order": order, "backend": backend}
        return group_attention(
            query, key, value, **given, mask_queries=mask_queries, group=group, shared_tokens=shared_tokens
        )
    if shared_tokens:
        raise ValueError(f"`shared_tokens` must be 0 without a `group`, got {shared_tokens}.")
    mask_queries = check_mask_queries(mask_queries, keep, query, key)
    if order == "auto":
        order = cheaper_order(query.shape[-2], key.shape[-2], query.shape[-1], value.shape[-1], allow is not None)
    attend = pick_backend(backend, query)
    with without_autocast(query.device.type):  # backends choose their own dtypes
        return attend(
            query, key, value, keep=keep, allow=allow, bias=bias, gain=gain, order=order, mask_queries=mask_queries
        )
