"""ReLU in the place of softmax, divided by the number of tokens.

Wortsman et al., "Replacing softmax with ReLU in Vision Transformers", 2023, arXiv 2309.08586.
"""

import torch

from .inputs import Inputs, checked_attention


def relu_over_tokens_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
    order: str = "auto",
) -> torch.Tensor:
    """`out = ReLU(s q k^T + bias) v / N`, arXiv 2309.08586. No softmax, no exp. `N^2 D`.

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
        "relu_over_tokens_attention",
        _relu_over_tokens,
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


def _relu_over_tokens(given: Inputs) -> torch.Tensor:
    return given.sum_up(torch.relu(given.logits())) / given.count


def relu_over_tokens_reference(query, key, value, visible=None, bias=0.0, scale=None) -> torch.Tensor:
    """The formula pair by pair, on inputs of as many heads each; `visible` boolean `(B,H,Nq,Nk)`."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    weights = scale * (query[:, :, :, None] * key[:, :, None]).sum(-1) + bias
    weights = weights * (weights > 0)
    seen = torch.ones_like(weights) if visible is None else visible.to(weights.dtype)
    return (weights * seen)[..., None].mul(value[:, :, None]).sum(3) / seen.sum(-1, keepdim=True).clamp_min(1)
