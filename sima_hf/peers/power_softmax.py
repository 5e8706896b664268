"""Power-Softmax: an even power in the place of exp, so that only sums, products and one division remain.

Made for inference on encrypted numbers, where exp is dear: arXiv 2410.09457. There is no official code; what is here is the formula
of the abstract. Pages of patents on it exist (docs/peers.md); ask somebody who knows before selling it.
"""

import functools

import torch

from .inputs import Inputs, checked_attention


POWER = 4


def power_softmax_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
    order: str = "auto",
    power: int = POWER,
) -> torch.Tensor:
    """`out = (x^p / sum x^p) v` with `x = s q k^T + bias` and p even, arXiv 2410.09457. No softmax, no exp. `N^2 D`.

    Args:
        query, key, value: `(B,H,Nq,D)`, `(B,Hk,Nk,D)`, `(B,Hk,Nk,Dv)` of one floating dtype; grouped heads are repeated.
        attn_mask: key padding `(B,Nk)` or a full mask `(B or 1,H or 1,Nq,Nk)`, True for what may be seen, or a float mask of 0 and
            -inf.
        bias: position bias `(B or 1,H or 1,Nq,Nk)`, added to the logits.
        scale: of the logits, `D^-1/2` by default.
        order: "auto" or "quadratic".
        power: p, even and at least 2.

    Returns:
        `(B,H,Nq,Dv)` in the dtype of `query`; half precision is computed in float32. Zeros where a query may see nothing, or all
        its logits are 0.

    Raises:
        TypeError, ValueError: see `checked_attention` in `inputs.py`.
    """
    if not isinstance(power, int) or power < 2 or power % 2:
        raise ValueError(f"`power` must be an even number of 2 or more, got {power!r}.")
    compute = functools.partial(_power_softmax, power=power)
    return checked_attention(
        "power_softmax_attention",
        compute,
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


def _power_softmax(given: Inputs, power: int) -> torch.Tensor:
    logits = given.hide(given.logits())
    # The largest becomes 1 before the power is taken: neither overflows, and a constant leaves the ratio what it was.
    largest = logits.detach().abs().amax(dim=-1, keepdim=True)
    squares = (logits / largest.masked_fill(largest == 0, 1)).square()
    weights = squares ** (power // 2)  # torch is quick at squares, and slow at other powers
    # The sum is 1 at least, or 0 where all logits are.
    return given.sum_up(weights) / weights.sum(dim=-1, keepdim=True).clamp_min(0.5)


def power_softmax_reference(query, key, value, visible=None, bias=0.0, scale=None, power=POWER) -> torch.Tensor:
    """The formula pair by pair, on inputs of as many heads each; `visible` boolean `(B,H,Nq,Nk)`."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    weights = (scale * (query[:, :, :, None] * key[:, :, None]).sum(-1) + bias) ** power
    if visible is not None:
        weights = weights * visible
    total = weights.sum(-1, keepdim=True)
    return weights[..., None].mul(value[:, :, None]).sum(3) / torch.where(total == 0, 1, total)
