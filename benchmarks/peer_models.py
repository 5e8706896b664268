"""The attentions that compare_attentions.py compares, each in Transformers' ViT and alone on tensors."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AttentionInterface, ViTConfig, ViTForImageClassification

from sima_hf import sima_attention
from sima_hf.attention import peer_attention_forward, register_attention_functions
from sima_hf.peers import PEERS
from sima_hf.peers.rela import RelaNorm
from sima_hf.peers.soft import SoftAttention


@dataclass(frozen=True)
class Contestant:
    """An attention of the comparison.

    Attributes:
        title: as in tables and pictures.
        implementation: Transformers' name of it, or None where a module of its own takes the place of ViT's.
        remaining: "softmax", "exp" or "none".
        swapped: options of `patch_model` that swap to it, where calibration can then fit it.
        gain: of SimA.
        normalize: SOFT++ in the place of SOFT.
    """

    title: str
    implementation: str | None
    remaining: str
    swapped: dict | None = None
    gain: str = "none"
    normalize: bool = False


def _peer(name: str) -> Contestant:
    peer = PEERS[name]
    swapped = {"attention": name} if peer.linear_in_value else None
    return Contestant(peer.title, name, " ".join(peer.remaining) or "none", swapped)


RELA_IN_PARTS = "rela_before_norm"
CONTESTANTS = {
    "softmax": Contestant("softmax", "sdpa", "softmax"),
    "sima": Contestant("SimA", "sima", "none", {"gain": "tokens"}, gain="tokens"),
    "sima_none": Contestant('SimA, gain "none"', "sima", "none", {"gain": "none"}),
    **{name: _peer(name) for name, peer in PEERS.items() if peer.drop_in},
    "rela": Contestant("ReLA, scale and gate", RELA_IN_PARTS, "exp"),  # of the gate
    "soft": Contestant("SOFT", None, "exp"),
    "soft_plus": Contestant("SOFT++", None, "exp", normalize=True),
}


def build(name: str, fields: dict) -> ViTForImageClassification:
    """An untrained ViT with an attention; `fields` of its config."""
    register_attention_functions()
    rela = functools.partial(peer_attention_forward, mechanism=PEERS["rela"], mechanism_options={"normalize": False})
    AttentionInterface.register(RELA_IN_PARTS, rela)
    contestant = CONTESTANTS[name]
    config = ViTConfig(**fields, attn_implementation=contestant.implementation or "sdpa")
    config.attention_gain = contestant.gain
    model = ViTForImageClassification(config)
    for layer in model.vit.layers:
        if contestant.implementation == RELA_IN_PARTS:
            layer.attention.o_proj = nn.Sequential(RelaNorm(config.hidden_size), layer.attention.o_proj)
        elif contestant.implementation is None:
            layer.attention = SoftAttention(
                config.hidden_size, config.num_attention_heads, normalize=contestant.normalize
            )
            layer.attention.apply(model._init_weights)
    return model


LANDMARKS = 8  # SOFT's, each way, at most
FUSED = "sima_fused"


def on_tensors(name: str, tokens: int, heads: int, channels: int) -> Callable[..., torch.Tensor]:
    """The attention alone: of query, key and value `(B,H,N,D)`. SimA in plain torch as all others, and its fused kernel as FUSED."""
    if name == "softmax":
        return nn.functional.scaled_dot_product_attention
    if name == FUSED:
        return functools.partial(sima_attention, gain="tokens")
    contestant = CONTESTANTS[name]
    if contestant.implementation == "sima":
        return functools.partial(sima_attention, gain=contestant.gain, backend="eager")
    if contestant.implementation is not None:
        return PEERS["rela" if name == "rela" else name].function
    side = int(tokens**0.5)
    layer = SoftAttention(
        heads * channels,
        heads,
        ratio=max(2, -(-side // LANDMARKS)),
        prefix_tokens=tokens - side * side,
        normalize=contestant.normalize,
    ).requires_grad_(False)
    return lambda query, key, value: layer.attend(query, value, side, side)
