"""The mechanisms of this room, as a table: what each computes, costs, keeps of softmax, and can be asked for."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .inline import inline_attention


@dataclass(frozen=True)
class Mechanism:
    """An attention beside SimA.

    Attributes:
        name: as in `patch_model(attention=...)` and `attn_implementation`.
        title: as in tables.
        formula: of one row of the result, in plain text; s is the scale, N the number of keys.
        source: paper, with its arXiv id, and where the formula was read.
        cost: of a forward pass in multiply-adds, up to a factor.
        remaining: which of "softmax" and "exp" are left in it; empty where neither is.
        linear_in_tokens: whether its cost is.
        linear_in_value: whether the result is a linear function of the values, so that calibration can fit it in closed form.
        has_map: whether its weights are one `N x N` matrix for each head.
        takes_bias: whether a position bias can be added to its logits.
        takes_full_mask: whether it honors a mask of queries by keys; all honor key padding.
        drop_in: whether it takes query, key and value as softmax attention does, and no parameter more.
        note: license, patents, what the published model adds.
        function: `(query, key, value, attn_mask, *, bias, scale, order)` to `(B,H,Nq,Dv)`; a module class where it is no drop-in.
    """

    name: str
    title: str
    formula: str
    source: str
    cost: str
    remaining: tuple[str, ...]
    linear_in_tokens: bool
    linear_in_value: bool
    has_map: bool
    takes_bias: bool
    takes_full_mask: bool
    drop_in: bool
    note: str
    function: Callable[..., torch.Tensor]


_ROWS = (
    Mechanism(
        name="inline",
        title="InLine core",
        formula="mean v + (s/N) q (k - mean k)^T v",
        source="Han et al. 2024, arXiv 2412.06590",
        cost="N D^2",
        remaining=(),
        linear_in_tokens=True,
        linear_in_value=True,
        has_map=True,
        takes_bias=False,
        takes_full_mask=True,
        drop_in=True,
        note="its code has no license; the published block adds a dynamic 3x3 convolution",
        function=inline_attention,
    ),
)
PEERS: dict[str, Mechanism] = {row.name: row for row in _ROWS}


def find_peer(name: str) -> Mechanism:
    """The mechanism of a name.

    Raises:
        ValueError: there is none of that name; the sentence lists the near ones.
    """
    if name in PEERS:
        return PEERS[name]
    near = difflib.get_close_matches(str(name), PEERS, n=3, cutoff=0.5)
    meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(f"`attention` must be 'sima' or one of {', '.join(map(repr, PEERS))}, got {name!r}.{meant}")
