"""The ReLU kernel: linear attention whose features need no exp.

Katharopoulos et al., arXiv 2006.16236, section 3.2, with ReLU for the feature map, as Shen et al. and many after them use it.
"""

import torch

from .inputs import checked_attention
from .kernels import kernel_attention, kernel_reference


def relu_kernel_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
    order: str = "auto",
) -> torch.Tensor:
    """`out = f(q) (f(k)^T v) / (f(q) sum f(k))` with `f = ReLU`. No softmax, no exp. `N D^2` or `N^2 D`.

    Args:
        query, key, value: `(B,H,Nq,D)`, `(B,Hk,Nk,D)`, `(B,Hk,Nk,Dv)` of one floating dtype; grouped heads are repeated.
        attn_mask: key padding `(B,Nk)` or a full mask `(B or 1,H or 1,Nq,Nk)`, True for what may be seen, or a float mask of 0 and
            -inf.
        bias: refused; there are no logits that it could be added to.
        scale: ignored; the formula has none.
        order: "linear", "quadratic", or "auto" for the cheaper one.

    Returns:
        `(B,H,Nq,Dv)` in the dtype of `query`; half precision is computed in float32. Zeros where a query may see nothing, or has no
        channel above zero in common with a key.

    Raises:
        TypeError, ValueError: see `checked_attention` in `inputs.py`.
    """
    return checked_attention(
        "relu_kernel_attention",
        lambda given: kernel_attention(given, torch.relu),
        query,
        key,
        value,
        attn_mask,
        bias=bias,
        scale=scale,
        order=order,
    )


def relu_kernel_reference(query, key, value, visible=None) -> torch.Tensor:
    """The formula row by row, on inputs of as many heads each; `visible` boolean `(B,H,Nq,Nk)`."""
    return kernel_reference(query, key, value, visible, lambda x: x * (x > 0))
