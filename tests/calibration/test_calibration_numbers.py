"""The mathematics below calibration: routes, bases, biases, normal equations."""

import pytest
import torch
from torch import nn

import sima_hf
from sima_hf.calibration.least_squares import NormalEquations
from sima_hf.calibration.qk_basis import HeadMoments, apply_basis, choose_basis, product_scale, scaled_bias
from sima_hf.calibration.residual_map import ResidualMap, probe_residual_map


def test_a_route_with_many_rows_and_a_tiny_scale():
    rows, channels = 300_000, 3
    order = torch.randperm(rows)[: rows // 2]
    scale = torch.tensor([1e-5, -3e-5, 2e-5])
    residual = probe_residual_map(lambda y: scale * y[order], rows, channels, torch.zeros(1))
    assert isinstance(residual, ResidualMap)
    assert torch.equal(residual.rows, order)
    torch.testing.assert_close(residual.scale, scale)
    assert probe_residual_map(lambda y: (scale * y[order]).softmax(-1), rows, channels, torch.zeros(1)) is None


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


def test_normal_equations_without_rows_for_some_inputs():
    """A channel that is always zero keeps its weights; fewer rows than inputs still give a small change."""
    sums = NormalEquations(5, 2, True, torch.device("cpu"))
    x, y = torch.randn(3, 5), torch.randn(3, 2)
    x[:, 4] = 0
    sums.add(x, y, torch.ones(3))
    weight, bias = sums.solve(1e-6)
    assert torch.equal(weight[:, 4], torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close((x.double() @ weight.T + bias).float(), y, rtol=1e-3, atol=1e-3)
