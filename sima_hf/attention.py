"""The adapters between Transformers' AttentionInterface and attention on tensors, SimA and its peers: layout, options, maps."""

import functools
from dataclasses import dataclass

import torch
from transformers.utils import is_torchdynamo_compiling, output_capturing

from .ops import backend_names, sima_attention
from .ops.autocast import autocast_dtype, without_autocast
from .peers import PEERS, Mechanism


@dataclass
class PositionBias:
    """Carries a position bias and a mask separately through a model that adds the two.

    In Transformers, models with relative positions hand the sum of bias and mask to the attention function. Softmax can read
    that; SimA adds the bias to the product of the normalized query and key, while a mask changes the norms.
    """

    bias: torch.Tensor
    mask: torch.Tensor | None = None

    def __add__(self, other):
        if isinstance(other, PositionBias):
            if other.mask is not None and self.mask is not None:
                raise ValueError("Two position biases with an attention mask each were added; give one mask.")
            return PositionBias(self.bias + other.bias, self.mask if other.mask is None else other.mask)
        if self.mask is not None:
            raise ValueError("A second attention mask was added to a position bias that has one; give one.")
        return PositionBias(self.bias, other)

    __radd__ = __add__


def one_dtype(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """query `(B,H,N,D)`, key and value `(B,Hk,Nk,D)` in one dtype: autocast's where it is on and none is float64, else the value's.

    Rotary positions and norms in float32 leave query and key wider than the value, which comes from its projection unchanged
    and so has the dtype that the next layer takes.
    """
    dtype = autocast_dtype(query.device.type)
    if dtype is None or torch.float64 in (query.dtype, key.dtype, value.dtype):
        dtype = value.dtype
    return query.to(dtype), key.to(dtype), value.to(dtype)


def maps_recorded() -> bool:
    """Whether Transformers is recording attention maps: what a model's call or its config asked for, wherever it was said.

    Most models hand `output_attentions` no further than to the hooks that pick maps up from whatever attention returns.
    """
    # Not public, so it may go: what remains then is what attention is told, and its config.
    recorder = getattr(output_capturing, "_active_collector", None)
    if recorder is None:
        return False
    # A compiler cannot follow the variable of the context, in whose place there is one for it.
    recorded = recorder.global_var if is_torchdynamo_compiling() else recorder.get()
    return any(name.endswith("attentions") for name in recorded or ())


def apply_maps(maps: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The output as a function of the maps, so that gradients reach the very maps that a model returns, in whatever form.

    Args:
        maps: `(B,H,...,N,Nk)`.
        value: `(B,Hk,...,Nk,Dv)`.

    Returns:
        `(B,...,N,H,Dv)`, contiguous, in the dtype of `value`.
    """
    with without_autocast(value.device.type):
        output = maps @ value.repeat_interleave(maps.shape[1] // value.shape[1], dim=1).to(maps.dtype)
    return output.to(value.dtype).movedim(1, -2).contiguous()


def sima_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | PositionBias | None = None,
    gain: str | None = None,
    backend: str = "auto",
    output_attentions: bool | None = None,
    is_causal: bool | None = None,
    mask_queries: bool | None = None,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """SimA as an attention function of Transformers.

    Args:
        module: the attention module that calls; its `config.attention_gain` is the gain where none is given. A `token_split` on it,
            as `split_tokens` leaves there, names the processes over which the tokens are split.
        query, key, value: `(B,H,N,D)`, `(B,Hk,Nk,D)`, `(B,Hk,Nk,Dv)`; of several dtypes, and under autocast, they become one.
        attention_mask: any mask that `sima_attention` takes, padding as `(B,1,1,Nk)` too, or a `PositionBias`, alone or with
            such a mask.
        gain, backend: as for `sima_attention`; without either gain, "none".
        output_attentions: also build the map, `N x Nk`; by default, if the config of `module` asks for maps. Built as well
            while Transformers records maps. With gradients the output is then computed from the map, so that the gradient of
            what follows reaches it.
        is_causal: True is refused.
        mask_queries: as for `sima_attention`.
        kwargs: what else Transformers passes; `scaling` and `dropout` among it have no meaning in SimA.

    Returns:
        The output, contiguous `(B,N,H,Dv)`, and the signed map `(B,H,N,Nk)`, float32 or wider, or None.

    Raises:
        ValueError: `is_causal` without a mask that says so, maps of tokens that are split over processes, and whatever
            `sima_attention` refuses.
    """
    _check_causal("SimA", is_causal, attention_mask)
    if gain is None:
        gain = getattr(getattr(module, "config", None), "attention_gain", "none")
    query, key, value = one_dtype(query, key, value)
    attention_mask, bias = _mask_and_bias(attention_mask, query.shape[0])
    attend = functools.partial(
        sima_attention, mask=attention_mask, gain=gain, backend=backend, bias=bias, mask_queries=mask_queries
    )
    wanted = _maps_wanted(module, output_attentions)
    split = getattr(module, "token_split", None)
    if split is not None:
        if wanted:
            raise ValueError(
                "`output_attentions` must be False while tokens are split over processes: a map needs every pair of them."
            )
        attend = functools.partial(attend, group=split.group, shared_tokens=split.shared_tokens)
    return _attend_with_maps(attend, query, key, value, wanted)


def peer_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | PositionBias | None = None,
    *,
    mechanism: Mechanism,
    scaling: float | None = None,
    output_attentions: bool | None = None,
    is_causal: bool | None = None,
    mechanism_options: dict | None = None,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One of SimA's peers as an attention function of Transformers.

    Args:
        module, query, key, value, attention_mask, output_attentions, is_causal: as for `sima_attention_forward`.
        mechanism: a row of `sima_hf.peers.PEERS` that is a drop-in.
        scaling: of the logits, where the mechanism has some; `D^-1/2` by default.
        mechanism_options: further options of its function.
        kwargs: what else Transformers passes, without meaning here.

    Returns:
        The output, contiguous `(B,N,H,Dv)`, and the map `(B,H,N,Nk)`, float32 or wider, or None.

    Raises:
        ValueError: `is_causal` without a mask that says so, maps of a mechanism that has none, and what its function refuses.
    """
    _check_causal(mechanism.title, is_causal, attention_mask)
    wanted = _maps_wanted(module, output_attentions)
    if wanted and not (mechanism.linear_in_value and mechanism.has_map):
        reason = "its weights are no matrix" if mechanism.linear_in_value else "it is not linear in the values"
        raise ValueError(
            f"`output_attentions` must be False with {mechanism.title} attention, which has no maps: {reason}."
        )
    query, key, value = one_dtype(query, key, value)
    attention_mask, bias = _mask_and_bias(attention_mask, query.shape[0])
    attend = functools.partial(
        mechanism.function, attn_mask=attention_mask, bias=bias, scale=scaling, **(mechanism_options or {})
    )
    return _attend_with_maps(attend, query, key, value, wanted)


def _check_causal(title: str, is_causal: bool | None, attention_mask: torch.Tensor | PositionBias | None) -> None:
    if is_causal and attention_mask is None:
        raise ValueError(
            f"{title} attention is not causal by itself: give the causal mask as a boolean `attention_mask` of shape "
            "(1, 1, tokens, tokens), or leave this module's softmax attention in place."
        )


def _maps_wanted(module: torch.nn.Module, output_attentions: bool | None) -> bool:
    if output_attentions is None:
        output_attentions = bool(getattr(getattr(module, "config", None), "output_attentions", False))
    return output_attentions or maps_recorded()


def _mask_and_bias(attention_mask, batch: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Mask and position bias of what Transformers hands on, padding as `(B,Nk)`."""
    bias = None
    # By its attributes: code that is published beside a model has a PositionBias of its own.
    if attention_mask is not None and not isinstance(attention_mask, torch.Tensor):
        bias, attention_mask = attention_mask.bias, attention_mask.mask
    if attention_mask is not None and attention_mask.dim() == 4 and attention_mask.shape[1:3] == (1, 1):
        attention_mask = attention_mask[:, 0, 0].expand(batch, -1)  # the same keys for every query: padding
    return attention_mask, bias


def _attend_with_maps(attend, query, key, value, maps: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    attentions = None
    if maps:
        # Attending to the identity gives the map, from the same code. Its entries shrink as N^-2, too small for float16.
        wide = torch.promote_types(query.dtype, torch.float32)
        identity = torch.eye(key.shape[-2], dtype=wide, device=key.device).expand(*key.shape[:2], -1, -1)
        attentions = attend(query.to(wide), key.to(wide), identity)
        if torch.is_grad_enabled():
            return apply_maps(attentions, value), attentions
    output = attend(query, key, value)
    return output.transpose(1, 2).contiguous(), attentions


def attention_function_names() -> list[str]:
    """What `attn_implementation` may be: "sima", which takes the best backend, and one "sima_<backend>" each."""
    return ["sima", *(f"sima_{backend}" for backend in backend_names())]


def register_attention_functions() -> None:
    """Register them and those of the peers with Transformers, masks included: an unregistered name would have its 2-D masks dropped."""
    from transformers import AttentionInterface, AttentionMaskInterface

    for name in attention_function_names():
        backend = name.removeprefix("sima").removeprefix("_") or "auto"
        AttentionInterface.register(name, functools.partial(sima_attention_forward, backend=backend))
        AttentionMaskInterface.register(name, sima_mask)
    for name, mechanism in PEERS.items():
        if mechanism.drop_in:
            AttentionInterface.register(name, functools.partial(peer_attention_forward, mechanism=mechanism))
            AttentionMaskInterface.register(name, sima_mask)


def sima_mask(
    *args, attention_mask: torch.Tensor | None = None, mask_function=None, q_length=None, kv_length=None, **kwargs
) -> torch.Tensor | None:
    """The mask that Transformers makes for SimA's attention functions.

    Plain padding becomes `(B,1,1,Nk)`, boolean, which SimA honors in linear time; anything else becomes the full boolean mask
    that scaled_dot_product_attention would get.
    """
    from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

    if mask_function is bidirectional_mask_function and kwargs.get("local_size") is None:
        if attention_mask is None and kwargs.get("allow_is_bidirectional_skip"):
            return None  # `sdpa_mask` says so too, but not while a graph is exported, which a full mask would make quadratic
        if attention_mask is not None and attention_mask.dim() == 2:
            return attention_mask.bool()[:, None, None]
    if mask_function is not None:
        kwargs["mask_function"] = mask_function
    return sdpa_mask(*args, attention_mask=attention_mask, q_length=q_length, kv_length=kv_length, **kwargs)
