"""Queries, keys, values, masks and biases reach SimA as the host has them: with softmax in SimA's place, a swapped model gives
the host's own outputs. This is what tells heads that are cut wrongly, or a bias on the wrong axis, from right ones."""

import pytest
import torch

import sima_hf
from sima_hf import attention
from sima_hf.patching.hosts import HOSTS
from tests.helpers.hosts import own
from tests.helpers.hosts.at_hand import CONFIGS, given, make, tensors, type_of
from tests.helpers.tensors import relative_error


WHOLE_WIDTH = ("cvt",)  # divides by the root of all heads' width, not of one head's
# Their softmax has another form than softmax(q k^T / sqrt(D) + bias) v.
OTHER_FORM = {"swinv2": "a cosine with a scale of each head", "swin2sr": "a cosine with a scale of each head"}
OWN = [
    (case, name)
    for case, name in CONFIGS
    if case in own.CASES and type_of(case) in HOSTS and type_of(case) not in OTHER_FORM
]


def softmax(query, key, value, mask=None, bias=None, whole_width=False):
    """`(B,H,Nq,Dv)` by softmax, with the mask and the bias of `sima_attention`."""
    width = query.shape[-1] * (query.shape[1] if whole_width else 1)
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    logits = query @ key.transpose(-2, -1) * width**-0.5
    if bias is not None:
        logits = logits + bias
    if mask is not None:
        mask = mask[:, None, None] if mask.dim() == 2 else mask
        hidden = ~mask if mask.dtype == torch.bool else mask <= -100
        logits = logits.masked_fill(hidden, torch.finfo(logits.dtype).min)
    return logits.softmax(dim=-1) @ value


@pytest.mark.parametrize(("case", "name"), OWN, ids=[f"{case}-{name}" for case, name in OWN])
def test_with_softmax_in_its_place_the_host_comes_back(case, name, monkeypatch):
    inputs = {
        key: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for key, x in given(case, name).items()
    }
    model = make(case, name).double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.mul_(8)  # as they start, attention hardly tells one token from another

    @torch.no_grad()
    def run():
        torch.manual_seed(2)  # ViLT draws an order of the patches each time
        return tensors(model(**inputs))

    expected = run()
    sima_hf.patch_model(model)
    swapped = run()
    monkeypatch.setattr(
        attention,
        "sima_attention",
        lambda query, key, value, mask=None, bias=None, **options: softmax(
            query, key, value, mask, bias, type_of(case) in WHOLE_WIDTH
        ),
    )
    found = run()
    assert len(found) == len(expected)
    # Some hosts compute their tables of positions in float32.
    assert max(relative_error(one, two) for one, two in zip(found, expected, strict=True)) < 1e-6
    assert max(relative_error(one, two) for one, two in zip(swapped, expected, strict=True)) > 1e-4
