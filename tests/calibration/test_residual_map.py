"""How a layer enters the stream, found by asking."""

import torch

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
