"""Rectified linear attention (ReLA): ReLU in the place of softmax, and a norm over the channels that tames the result.

Zhang et al., "Sparse Attention with Linear Units", EMNLP 2021, arXiv 2104.07012. The norm runs over the channels of all heads, before
the output projection. In the published model it has a scale and a gate, `RelaNorm` here; the function alone has no parameters.
"""

import functools

import torch
from torch import nn

from .inputs import Inputs, checked_attention


EPS = 1e-6  # beside the mean square


def rela_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
    order: str = "auto",
    normalize: bool = True,
) -> torch.Tensor:
    """`out = rms_norm(ReLU(s q k^T + bias) v)`, the norm over the channels of all heads, arXiv 2104.07012. No softmax, no exp. `N^2 D`.

    Args:
        query, key, value: `(B,H,Nq,D)`, `(B,Hk,Nk,D)`, `(B,Hk,Nk,Dv)` of one floating dtype; grouped heads are repeated.
        attn_mask: key padding `(B,Nk)` or a full mask `(B or 1,H or 1,Nq,Nk)`, True for what may be seen, or a float mask of 0 and
            -inf.
        bias: position bias `(B or 1,H or 1,Nq,Nk)`, added to the logits.
        scale: of the logits, `D^-1/2` by default.
        order: "auto" or "quadratic".
        normalize: False for what comes before the norm, for a `RelaNorm` to follow.

    Returns:
        `(B,H,Nq,Dv)` in the dtype of `query`; half precision is computed in float32. Zeros where a query may see nothing.

    Raises:
        TypeError, ValueError: see `checked_attention` in `inputs.py`.
    """
    compute = functools.partial(_rela, normalize=normalize)
    return checked_attention(
        "rela_attention",
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


class RelaNorm(nn.Module):
    """ReLA's norm of merged heads, with its parameters: `weight * rms_norm(x) * sigmoid(gate * x)`, `(...,C)` to `(...,C)`.

    Comes before the output projection, after `rela_attention(..., normalize=False)`. Adds 2 C parameters to an attention.
    """

    def __init__(self, channels: int, eps: float = EPS):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.gate = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Of `(...,C)`."""
        wide = hidden_states.float() if hidden_states.dtype in (torch.float16, torch.bfloat16) else hidden_states
        normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return (self.weight * normed * torch.sigmoid(self.gate * wide)).to(hidden_states.dtype)


def _rela(given: Inputs, normalize: bool) -> torch.Tensor:
    output = given.sum_up(torch.relu(given.logits()))
    return output * torch.rsqrt(output.square().mean(dim=(1, 3), keepdim=True) + EPS) if normalize else output


def rela_reference(query, key, value, visible=None, bias=0.0, scale=None) -> torch.Tensor:
    """The formula pair by pair, on inputs of as many heads each; `visible` boolean `(B,H,Nq,Nk)`."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    weights = scale * (query[:, :, :, None] * key[:, :, None]).sum(-1) + bias
    weights = weights * (weights > 0) * (1 if visible is None else visible)
    output = weights[..., None].mul(value[:, :, None]).sum(3)
    merged = output.transpose(1, 2).flatten(2)  # (B,Nq,H*Dv)
    merged = merged / ((merged**2).sum(-1, keepdim=True) / merged.shape[-1] + EPS).sqrt()
    return merged.unflatten(2, (output.shape[1], -1)).transpose(1, 2)
