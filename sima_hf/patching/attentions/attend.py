"""What the forwards of this folder share: heads apart, attention, heads together."""

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...attention import PositionBias


def heads_apart(x: torch.Tensor, channels: int) -> torch.Tensor:
    """`(B,H,N,D)` from `(B,N,H*D)`, a view; `channels` is D."""
    return x.unflatten(-1, (-1, channels)).transpose(1, 2)


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    maps: bool = False,
    mask_queries: bool | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """SimA with the gain and the backend that the config of `module` names.

    Args:
        module: a swapped module; its `sima_config` is the SimA<Host>Config of its model.
        query, key, value, mask, bias, mask_queries: as for `sima_attention`.
        maps: also build the signed maps.

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
    )
    return output.flatten(-2), attentions
