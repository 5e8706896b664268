"""Efficient attention: a softmax over the channels of the query, and one over the tokens of the key.

Shen et al., "Efficient Attention: Attention with Linear Complexities", WACV 2021, arXiv 1812.01243.
"""

import torch

from ..ops.eager import apply_context, matmul
from .inputs import Inputs, checked_attention


def efficient_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
    order: str = "auto",
) -> torch.Tensor:
    """`out = softmax_D(q) (softmax_N(k)^T v)`, arXiv 1812.01243. Two softmaxes, none of them `N x N`. `N D^2` or `N^2 D`.

    Args:
        query, key, value: `(B,H,Nq,D)`, `(B,Hk,Nk,D)`, `(B,Hk,Nk,Dv)` of one floating dtype; grouped heads are repeated.
        attn_mask: key padding `(B,Nk)`, True for what may be seen, or a float mask of 0 and -inf; full masks are refused.
        bias: refused; there are no logits that it could be added to.
        scale: ignored; the formula has none.
        order: "linear", "quadratic", or "auto" for the cheaper one.

    Returns:
        `(B,H,Nq,Dv)` in the dtype of `query`; half precision is computed in float32. Zeros where a query may see nothing.

    Raises:
        TypeError, ValueError: see `checked_attention` in `inputs.py`.
    """
    return checked_attention(
        "efficient_attention",
        _efficient,
        query,
        key,
        value,
        attn_mask,
        bias=bias,
        scale=scale,
        order=order,
        full_mask=False,
    )


def _efficient(given: Inputs) -> torch.Tensor:
    query, key = given.query.softmax(dim=-1), given.key
    if given.keep is not None:
        key = key.masked_fill(~given.keep, torch.finfo(key.dtype).min)
    key = key.softmax(dim=-2)
    if given.order == "quadratic":
        return given.sum_up(matmul(query, key.transpose(-2, -1)))
    return apply_context(query, given.context(key))


def efficient_reference(query, key, value, keep=None) -> torch.Tensor:
    """The formula in plain exp and sums, on inputs of as many heads each; `keep` boolean `(B,Nk)`."""
    query, key = query.exp(), key.exp()
    if keep is not None:
        key = key * keep[:, None, :, None]
    weights = (query / query.sum(-1, keepdim=True)) @ (key / key.sum(-2, keepdim=True)).transpose(-2, -1)
    return weights @ value
