"""A sigmoid for every pair in the place of softmax: no sum over a row, so blocks of keys do not wait for each other.

Ramapuram et al., "Theory, Analysis, and Best Practices for Sigmoid Self-Attention", ICLR 2025, arXiv 2409.04431.
"""

import torch

from .inputs import Inputs, checked_attention


def sigmoid_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
    order: str = "auto",
) -> torch.Tensor:
    """`out = sigmoid(s q k^T + bias - log N) v`, arXiv 2409.04431. No softmax; one exp for each pair. `N^2 D`.

    Args:
        query, key, value: `(B,H,Nq,D)`, `(B,Hk,Nk,D)`, `(B,Hk,Nk,Dv)` of one floating dtype; grouped heads are repeated.
        attn_mask: key padding `(B,Nk)` or a full mask `(B or 1,H or 1,Nq,Nk)`, True for what may be seen, or a float mask of 0 and
            -inf; N counts the keys that a query may see.
        bias: position bias `(B or 1,H or 1,Nq,Nk)`, added to the logits.
        scale: of the logits, `D^-1/2` by default.
        order: "auto" or "quadratic".

    Returns:
        `(B,H,Nq,Dv)` in the dtype of `query`; half precision is computed in float32. Zeros where a query may see nothing.

    Raises:
        TypeError, ValueError: see `checked_attention` in `inputs.py`.
    """
    return checked_attention(
        "sigmoid_attention",
        _sigmoid,
        query,
        key,
        value,
        attn_mask,
        bias=bias,
        scale=scale,
        order=order,
        orders=("quadratic",),
        has_logits=True,
    )


def _sigmoid(given: Inputs) -> torch.Tensor:
    count = torch.as_tensor(given.count, dtype=given.query.dtype, device=given.query.device)
    return given.sum_up(torch.sigmoid(given.logits() - count.log()))


def sigmoid_reference(query, key, value, visible=None, bias=0.0, scale=None) -> torch.Tensor:
    """The formula pair by pair, on inputs of as many heads each; `visible` boolean `(B,H,Nq,Nk)`."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = scale * (query[:, :, :, None] * key[:, :, None]).sum(-1) + bias
    seen = torch.ones_like(logits) if visible is None else visible.to(logits.dtype)
    odds = logits.exp() / seen.sum(-1, keepdim=True).clamp_min(1)  # exp(x - log N)
    return (odds / (1 + odds) * seen)[..., None].mul(value[:, :, None]).sum(3)
