"""Sums over rows against the same written out, at widths of one strip and of several."""

import pytest
import torch

from sima_hf.calibration.sums import LayerBatch, LayerSums


@pytest.mark.parametrize("inputs", [1, 7, 127, 128, 300, 1100])
def test_products_are_those_of_the_weighted_rows(inputs):
    torch.manual_seed(0)
    sums = LayerSums(inputs, 2, torch.device("cpu"))
    whole, cross = 0, 0
    for rows in (5, 33):
        x, y, now, goal = (torch.randn(rows, width) for width in (inputs, 2, 2, 2))
        weight = torch.rand(rows)
        chosen = torch.rand(rows) < 0.7
        sums.add(LayerBatch(x, y, now, weight, goal, torch.ones(2), ~chosen), chosen)
        rows_in = torch.cat([x, torch.ones(rows, 1)], dim=1)[chosen].double()
        weighted = rows_in * weight[chosen].double()[:, None]
        whole, cross = whole + weighted.T @ rows_in, cross + weighted.T @ y[chosen].double()
    torch.testing.assert_close(sums.xx, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sums.xy, cross, rtol=1e-12, atol=1e-12)
