"""ReLA's norm with its parameters, and the drop-in as that norm without them."""

import torch

from sima_hf.peers.rela import EPS, RelaNorm, rela_attention
from tests.helpers.tensors import inputs, relative_error


def test_the_norm():
    torch.manual_seed(0)
    norm = RelaNorm(6).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.gate)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    expected = torch.empty_like(x)
    for b in range(2):
        for i in range(5):
            row = x[b, i]
            expected[b, i] = norm.weight * row / (row.pow(2).sum() / 6 + EPS) ** 0.5 / (1 + (-norm.gate * row).exp())
    assert relative_error(norm(x), expected) < 1e-12
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    assert sum(parameter.numel() for parameter in norm.parameters()) == 2 * 6


def test_the_drop_in_is_the_norm_without_a_gate():
    torch.manual_seed(0)
    tensors, norm = inputs(), RelaNorm(24).double()
    merged = rela_attention(*tensors, normalize=False).transpose(1, 2).flatten(2)
    torch.nn.init.zeros_(norm.gate)  # a gate of one half for every channel
    expected = 2 * norm(merged)
    assert relative_error(rela_attention(*tensors).transpose(1, 2).flatten(2), expected) < 1e-12
