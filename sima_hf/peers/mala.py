"""MALA's core: linear attention whose rows sum to 1 and grow sharper with the query's length, as softmax's do.

Fan et al., "Rectifying Magnitude Neglect in Linear Attention", ICCV 2025, arXiv 2507.00698. The published model adds rotary
positions, a convolution and a gate, which are no part of this.
"""

import torch

from ..ops.eager import apply_context, matmul
from .elu import elu_features
from .inputs import Inputs, checked_attention


LEAST = 1e-6  # of z, by which it is divided


def mala_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
    order: str = "auto",
) -> torch.Tensor:
    """`out = (1 + 1/z) (s/N) f(q) f(k)^T v - z mean v` with `f = elu + 1` and `z = s f(q) mean f(k)`, arXiv 2507.00698.

    No softmax; exp in elu. `N D^2` or `N^2 D`. The weights of a row sum to 1, and may be negative.

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
        "mala_attention", _mala, query, key, value, attn_mask, bias=bias, scale=scale, order=order
    )


def _mala(given: Inputs) -> torch.Tensor:
    query, key = elu_features(given.query) * given.scale, elu_features(given.key)
    if given.order == "quadratic":
        products = given.hide(matmul(query, key.transpose(-2, -1)))
        z = products.sum(dim=-1, keepdim=True) / given.count
        return given.sum_up((1 + 1 / z.clamp_min(LEAST)) * products / given.count - z / given.count)
    if given.keep is not None:
        key = key.masked_fill(~given.keep, 0)
    z = matmul(query, (key.sum(dim=-2, keepdim=True) / given.count).transpose(-2, -1))  # (B,H,Nq,1)
    mean_value = given.value.sum(dim=-2, keepdim=True) / given.count
    return (1 + 1 / z.clamp_min(LEAST)) * apply_context(query, given.context(key) / given.count) - z * mean_value


def mala_reference(query, key, value, visible=None, scale=None) -> torch.Tensor:
    """The formula row by row, on inputs of as many heads each; `visible` boolean `(B,H,Nq,Nk)`."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    query, key = (torch.where(x > 0, x + 1, x.clamp(max=0).exp()) for x in (query, key))
    rows = []
    for i in range(query.shape[2]):
        seen = key.new_ones(key.shape[:3]) if visible is None else visible[:, :, i].to(key.dtype)
        count = seen.sum(-1, keepdim=True).clamp_min(1)  # (B,H,1)
        products = scale * (query[:, :, i, None] * key).sum(-1) * seen
        z = products.sum(-1, keepdim=True) / count
        weights = ((1 + 1 / z.clamp_min(LEAST)) * products - z * seen) / count
        rows.append((weights[..., None] * value).sum(2))
    return torch.stack(rows, dim=2)
