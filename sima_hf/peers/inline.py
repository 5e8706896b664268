"""InLine attention's core: softmax to first order, which needs neither softmax nor exp.

`softmax_j(s q k_j) = (1 + s q (k_j - mean k)) / N` up to second order in the logits. The rows of these weights sum to 1, and like
softmax they do not change when all keys move by the same vector. Han et al., "Bridging the Divide: Reconsidering Softmax and
Linear Attention", NeurIPS 2024, arXiv 2412.06590; the block published with it adds a convolution, which is no part of this.
"""

import torch

from ..ops.eager import apply_context
from .inputs import Inputs, checked_attention


def inline_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
    order: str = "auto",
) -> torch.Tensor:
    """`out = mean v + (s/N) q (k - mean k)^T v`, arXiv 2412.06590. No softmax, no exp. `N D^2` or `N^2 D`.

    Args:
        query, key, value: `(B,H,Nq,D)`, `(B,Hk,Nk,D)`, `(B,Hk,Nk,Dv)` of one floating dtype; grouped heads are repeated.
        attn_mask: key padding `(B,Nk)` or a full mask `(B or 1,H or 1,Nq,Nk)`, True for what may be seen, or a float mask of 0 and
            -inf; means and N are those of the keys that a query may see.
        bias: refused; there are no logits that it could be added to.
        scale: s, `D^-1/2` by default.
        order: "linear", "quadratic", or "auto" for the cheaper one.

    Returns:
        `(B,H,Nq,Dv)` in the dtype of `query`; half precision is computed in float32. Zeros where a query may see nothing.

    Raises:
        TypeError, ValueError: see `checked_attention` in `inputs.py`.
    """
    return checked_attention(
        "inline_attention", _inline, query, key, value, attn_mask, bias=bias, scale=scale, order=order
    )


def _inline(given: Inputs) -> torch.Tensor:
    if given.order == "quadratic":
        logits = given.hide(given.logits())
        centered = 1 + logits - logits.sum(dim=-1, keepdim=True) / given.count
        return given.sum_up(centered / given.count)
    mean_key = given.key.sum(dim=-2, keepdim=True) / given.count  # (B,H,1,D)
    mean_value = given.value.sum(dim=-2, keepdim=True) / given.count
    context = given.context(given.key) / given.count - mean_key.transpose(-2, -1) * mean_value
    return apply_context(given.query, context * given.scale) + mean_value


def inline_reference(query, key, value, visible=None, scale=None) -> torch.Tensor:
    """The formula row by row, on inputs of as many heads each; `visible` boolean `(B,H,Nq,Nk)`."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    rows = []
    for i in range(query.shape[2]):
        seen = key.new_ones(key.shape[:3]) if visible is None else visible[:, :, i].to(key.dtype)
        count = seen.sum(-1, keepdim=True).clamp_min(1)  # (B,H,1)
        mean_key = (seen[..., None] * key).sum(2) / count
        mean_value = (seen[..., None] * value).sum(2) / count
        logits = scale * (query[:, :, i, None] * (key - mean_key[:, :, None])).sum(-1) * seen
        rows.append(mean_value + (logits[..., None] * value).sum(2) / count)
    return torch.stack(rows, dim=2)
