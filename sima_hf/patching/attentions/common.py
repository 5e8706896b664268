"""What the forwards of this folder share: split heads, attention, outputs."""

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...attention import PositionBias


def split_heads(x: torch.Tensor, head_dim: int) -> torch.Tensor:
    """`(B,H,N,D)` from `(B,N,H*D)`, a view; `head_dim` is D."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def project_heads(x: torch.Tensor, head_dim: int, *projections: nn.Module) -> tuple[torch.Tensor, ...]:
    """Each projection of `x`, `(B,N,C)`, split into heads: `(B,H,N,D)`."""
    return tuple(split_heads(project(x), head_dim) for project in projections)


def split_qkv(qkv: torch.Tensor, heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three views `(B,H,N,D)` of `(B,N,3*H*D)`, laid out as 3, H, D."""
    return qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def outputs(context: torch.Tensor, maps: torch.Tensor | None, wanted: bool) -> tuple:
    """`(B,N,C)` and, if wanted, the maps `(B,H,Nq,Nk)`, in a tuple: what most attentions return."""
    return (context, maps) if wanted else (context,)


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    maps: bool = False,
    mask_queries: bool | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The attention that the config of `module` names: SimA with its gain and backend, or a peer.

    Args:
        module: a swapped module; its `sima_config` is the SimA<Host>Config of its model.
        query, key, value, mask, bias, mask_queries: as for `sima_attention`.
        maps: also build the signed maps.
        scale: of a peer's logits, where the host has one of its own; SimA has none.

    Returns:
        `(B,Nq,H*Dv)`, the heads side by side, and `(B,H,Nq,Nk)` or None.
    """
    config = module.sima_config
    if bias is not None:
        mask = PositionBias(bias, mask)
    output, attentions = ALL_ATTENTION_FUNCTIONS[config._attn_implementation](
        module,
        query,
        key,
        value,
        mask,
        gain=config.attention_gain,
        output_attentions=bool(maps),
        mask_queries=mask_queries,
        scaling=scale,
    )
    return output.flatten(-2), attentions
