"""The basis of queries and keys, and biases in it, against softmax."""

import pytest
import torch
from torch import nn

import sima_hf
from sima_hf.calibration.qk_basis import HeadMoments, apply_basis, choose_basis, product_scale, scaled_bias


def test_a_basis_keeps_softmax_and_makes_channels_equal():
    torch.manual_seed(0)
    mix = torch.randn(3, 8, 8, dtype=torch.float64)
    query, key = (torch.randn(500, 3, 8, dtype=torch.float64) + 1 for _ in range(2))
    query, key = torch.einsum("nhc,hcd->nhd", query, mix), torch.einsum("nhc,hdc->nhd", key, mix)
    moments = [HeadMoments(3, 8, torch.device("cpu")) for _ in range(2)]
    for sums, rows in zip(moments, (query, key), strict=True):
        sums.add(rows.flatten(1))
    map_q, map_k, offset, added = choose_basis(*moments, center=True, constant=False)
    new_q = torch.einsum("hdc,nhc->nhd", map_q, query)
    new_k = torch.einsum("hdc,nhc->nhd", map_k, key - offset)
    logits, wanted = (torch.einsum("nhc,mhc->hnm", *pair) for pair in ((new_q, new_k), (query, key)))
    torch.testing.assert_close(logits.softmax(-1), wanted.softmax(-1))
    for rows in (new_q, new_k):
        power = rows.square().mean(dim=0)
        torch.testing.assert_close(power, power.mean(dim=1, keepdim=True).expand_as(power))
    map_q, map_k, offset, added = choose_basis(*moments, center=True, constant=True)
    torch.testing.assert_close(added.square().sum(dim=1), torch.full((3,), 8**0.5, dtype=torch.float64))


@pytest.mark.parametrize("constant", [True, False])
def test_a_scaled_bias_gives_softmaxs_map_to_first_order(constant):
    """Maps of SimA after the change of basis against softmax's, with the bias as it was made for logits and as it is scaled."""
    torch.manual_seed(0)
    heads, tokens, channels = 2, 24, 16
    query, key = 0.6 * torch.randn(2, 40, tokens, heads * channels, dtype=torch.float64)
    bias = 0.3 * torch.randn(tokens * tokens, heads, dtype=torch.float64)
    layers = [nn.Linear(heads * channels, heads * channels).double() for _ in range(2)]
    moments = [HeadMoments.of(layer, heads) for layer in layers]
    with torch.no_grad():
        for layer, sums, rows in zip(layers, moments, (query, key), strict=True):
            layer.weight.copy_(torch.eye(heads * channels))
            layer.bias.zero_()
            sums.add(layer(rows))
        apply_basis(*layers, choose_basis(*moments, center=True, constant=constant))
        new = [layer(rows) for layer, rows in zip(layers, (query, key), strict=True)]
    scaled = scaled_bias(bias, product_scale(*new, heads), channels, constant)

    def split(rows):
        return rows.unflatten(-1, (heads, channels)).transpose(1, 2)

    def square(table):
        return table.T.reshape(1, heads, tokens, tokens)

    wanted = (split(query) @ split(key).transpose(-2, -1) / channels**0.5 + square(bias)).softmax(-1)
    eye = torch.eye(tokens, dtype=torch.float64).expand(40, heads, -1, -1)

    def likeness(table):
        found = sima_hf.sima_attention(split(new[0]), split(new[1]), eye, bias=square(table))
        return torch.corrcoef(torch.stack([found.flatten(), wanted.flatten()]))[0, 1].item()

    assert likeness(scaled) > 0.9
    assert likeness(bias) < 0.8
    assert likeness(0 * bias) < 0.85
