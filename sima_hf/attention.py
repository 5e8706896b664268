"""The adapter between Transformers' AttentionInterface and `sima_attention`: layout, options, maps."""

import functools

import torch

from .ops import backend_report, sima_attention


def sima_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    gain: str | None = None,
    backend: str = "auto",
    output_attentions: bool = False,
    is_causal: bool | None = None,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """SimA as an attention function of Transformers.

    Args:
        module: the attention module that calls; its `config.attention_gain` is the gain where none is given.
        query, key, value: `(B,H,N,D)`, `(B,Hk,Nk,D)`, `(B,Hk,Nk,Dv)`.
        attention_mask: any mask that `sima_attention` takes.
        gain, backend: as for `sima_attention`; without either gain, "none".
        output_attentions: also build the map, `N x Nk`.
        is_causal: True is refused.
        kwargs: what else Transformers passes; `scaling` and `dropout` among it have no meaning in SimA.

    Returns:
        The output, contiguous `(B,N,H,Dv)`, and the signed map `(B,H,N,Nk)` or None.

    Raises:
        ValueError: `is_causal` without a mask that says so, and whatever `sima_attention` refuses.
    """
    if is_causal and attention_mask is None:
        raise ValueError(
            "SimA attention is not causal by itself: give the causal mask as a boolean `attention_mask` of shape "
            "(1, 1, tokens, tokens), or leave this module's softmax attention in place."
        )
    if gain is None:
        gain = getattr(getattr(module, "config", None), "attention_gain", "none")
    output = sima_attention(query, key, value, attention_mask, gain=gain, backend=backend)
    attentions = None
    if output_attentions:
        # Attending to the identity returns the map itself, from the very same code.
        identity = torch.eye(key.shape[-2], dtype=key.dtype, device=key.device).expand(*key.shape[:2], -1, -1)
        attentions = sima_attention(query, key, identity, attention_mask, gain=gain, backend=backend)
    return output.transpose(1, 2).contiguous(), attentions


def attention_function_names() -> list[str]:
    """What `attn_implementation` may be: "sima", which takes the best backend, and one "sima_<backend>" each."""
    return ["sima", *(f"sima_{backend}" for backend in backend_report())]


def register_attention_functions() -> None:
    """Register them with Transformers, with boolean masks: an unregistered name would have its 2-D masks dropped."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    for name in attention_function_names():
        backend = name.removeprefix("sima").removeprefix("_") or "auto"
        AttentionInterface.register(name, functools.partial(sima_attention_forward, backend=backend))
        AttentionMaskInterface.register(name, sdpa_mask)
