"""The mechanisms of this room, as a table: what each computes, costs, keeps of softmax, and can be asked for."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .efficient import efficient_attention
from .elu import elu_attention
from .hydra import hydra_attention
from .inline import inline_attention
from .mala import mala_attention
from .power_softmax import power_softmax_attention
from .rela import rela_attention
from .relu_kernel import relu_kernel_attention
from .relu_over_tokens import relu_over_tokens_attention
from .sigmoid import sigmoid_attention
from .soft import SoftAttention


@dataclass(frozen=True)
class Mechanism:
    """An attention beside SimA.

    Attributes:
        name: as in `patch_model(attention=...)` and `attn_implementation`.
        title: as in tables.
        formula: in plain text; s is the scale, N the number of keys, f a feature map.
        source: paper, with its arXiv id.
        cost: of a forward pass in multiply-adds, up to a factor; M landmarks.
        note: license of published code, patents, what the published model adds.
        function: `(query, key, value, attn_mask, *, bias, scale, order)` to `(B,H,Nq,Dv)`; a module class where it is no drop-in.
        remaining: which of "softmax" and "exp" are left in it; empty where neither is.
        linear_in_tokens: whether its cost is.
        linear_in_value: whether the result is a linear function of the values, so that calibration can fit it in closed form.
        has_map: whether its weights are one `N x N` matrix for each head.
        takes_bias: whether a position bias can be added to its logits.
        takes_full_mask: whether it honors a mask of queries by keys; all drop-ins honor key padding.
        drop_in: whether it takes query, key and value as softmax attention does, and no parameter more.
    """

    name: str
    title: str
    formula: str
    source: str
    cost: str
    note: str
    function: Callable[..., torch.Tensor]
    remaining: tuple[str, ...] = ()
    linear_in_tokens: bool = True
    linear_in_value: bool = True
    has_map: bool = True
    takes_bias: bool = False
    takes_full_mask: bool = True
    drop_in: bool = True


_ROWS = (
    Mechanism(
        name="inline",
        title="InLine core",
        formula="mean v + (s/N) q (k - mean k)^T v",
        source="Han et al. 2024, arXiv 2412.06590",
        cost="N D^2",
        note="published code has no license; its block adds a dynamic 3x3 convolution",
        function=inline_attention,
    ),
    Mechanism(
        name="mala",
        title="MALA core",
        formula="(1 + 1/z) (s/N) f(q) f(k)^T v - z mean v, z = s f(q) mean f(k), f = elu + 1",
        source="Fan et al. 2025, arXiv 2507.00698",
        cost="N D^2",
        remaining=("exp",),
        note="published code has no license; its model adds rotary positions, a 5x5 convolution and a gate",
        function=mala_attention,
    ),
    Mechanism(
        name="elu",
        title="elu+1",
        formula="f(q) (f(k)^T v) / (f(q) sum f(k)), f = elu + 1",
        source="Katharopoulos et al. 2020, arXiv 2006.16236",
        cost="N D^2",
        remaining=("exp",),
        note="published code: MIT",
        function=elu_attention,
    ),
    Mechanism(
        name="relu_kernel",
        title="ReLU kernel",
        formula="f(q) (f(k)^T v) / (f(q) sum f(k)), f = ReLU",
        source="as elu+1, arXiv 2006.16236",
        cost="N D^2",
        note="a row is zero where a query shares no positive channel with any key",
        function=relu_kernel_attention,
    ),
    Mechanism(
        name="relu_over_tokens",
        title="ReLU/N",
        formula="ReLU(s q k^T) v / N",
        source="Wortsman et al. 2023, arXiv 2309.08586",
        cost="N^2 D",
        note="no official code",
        function=relu_over_tokens_attention,
        linear_in_tokens=False,
        takes_bias=True,
    ),
    Mechanism(
        name="power_softmax",
        title="Power-Softmax",
        formula="(x^p / sum x^p) v, x = s q k^T, p even",
        source="arXiv 2410.09457",
        cost="N^2 D",
        note="no official code; pages of patents exist",
        function=power_softmax_attention,
        linear_in_tokens=False,
        takes_bias=True,
    ),
    Mechanism(
        name="sigmoid",
        title="sigmoid",
        formula="sigmoid(s q k^T - log N) v",
        source="Ramapuram et al. 2024, arXiv 2409.04431",
        cost="N^2 D",
        remaining=("exp",),
        note="published code: Apple's sample license, without a grant of patents",
        function=sigmoid_attention,
        linear_in_tokens=False,
        takes_bias=True,
    ),
    Mechanism(
        name="rela",
        title="ReLA",
        formula="rms_norm(ReLU(s q k^T) v) over the channels of all heads",
        source="Zhang et al. 2021, arXiv 2104.07012",
        cost="N^2 D",
        note="published code: BSD-3; its norm has a scale and a gate of C parameters each: RelaNorm",
        function=rela_attention,
        linear_in_tokens=False,
        linear_in_value=False,
        takes_bias=True,
    ),
    Mechanism(
        name="efficient",
        title="efficient attention",
        formula="softmax_D(q) (softmax_N(k)^T v)",
        source="Shen et al. 2018, arXiv 1812.01243",
        cost="N D^2",
        remaining=("softmax",),
        note="published code: MIT",
        function=efficient_attention,
        takes_full_mask=False,
    ),
    Mechanism(
        name="hydra",
        title="Hydra",
        formula="q' * sum_N(k' * v), q' and k' of length 1 over the channels of all heads",
        source="Bolya et al. 2022, arXiv 2209.07484",
        cost="N D",
        note="no official code",
        function=hydra_attention,
        has_map=False,
        takes_full_mask=False,
    ),
    Mechanism(
        name="soft",
        title="SOFT",
        formula="k(q,m) k(m,m)^-1 k(m,q) v, k(a,b) = exp(-|a-b|^2 / 2), m landmarks; SOFT++ normalizes the inverse",
        source="Lu et al. 2021, arXiv 2110.11945 and 2207.03341",
        cost="N M D",
        remaining=("exp",),
        note="published code: MIT; a layer of its own: no keys, needs the grid, two convolutions",
        function=SoftAttention,
        takes_full_mask=False,
        drop_in=False,
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
