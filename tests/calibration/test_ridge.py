"""Ridge regression from running sums, against the same written out in float64."""

import pytest
import torch

from sima_hf.calibration.ridge import Solution, choose, ridge_path
from sima_hf.errors import CalibrationError
from tests.helpers.calibration_rows import sums_of


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ridge", [1e-4, 0.3])
def test_the_ridge_solution(bias, ridge):
    """Of the weighted squares plus a penalty on the distance from a prior, the bias free: its gradient is zero."""
    torch.manual_seed(0)
    x, y, weight = torch.randn(40, 5) + 2, torch.randn(40, 3), torch.rand(40) + 0.5
    prior, held = torch.randn(5, 3, dtype=torch.float64), torch.arange(40) % 4 == 0
    sums = sums_of(x, y, held, weight=weight)
    (solution,) = ridge_path(sums.fitted, prior, bias, ridge)
    full = solution.full.clone().requires_grad_()
    x, y, weight = (part[~held].double() for part in (x, y, weight))
    mean = (weight[:, None] * x).sum(dim=0) / weight.sum() if bias else torch.zeros(5)
    scale = (weight[:, None] * (x - mean).square()).sum() / 5
    off = (weight[:, None] * (y - x @ full[:-1] - full[-1]).square()).sum()
    loss = off + ridge * scale * (full[:-1] - prior).square().sum()
    (gradient,) = torch.autograd.grad(loss, full)
    assert gradient[:-1].abs().max() < 1e-9 * scale
    assert gradient[-1].abs().max() < 1e-9 * scale if bias else not solution.full[-1].any()


def test_the_unexplained_share():
    torch.manual_seed(0)
    x, y, now, held = torch.randn(30, 4), torch.randn(30, 2) + 1, torch.randn(30, 2), torch.arange(30) % 3 == 0
    sums, full = sums_of(x, y, held, now=now), torch.randn(5, 2, dtype=torch.float64)
    for part, rows in ((sums.held, held), (sums.fitted, ~held)):
        variance = (y[rows] - y[rows].mean(dim=0)).square().sum().item()
        off = (y[rows].double() - x[rows].double() @ full[:-1] - full[-1]).square().sum().item()
        assert part.unexplained(full) == pytest.approx(off / variance, rel=1e-6)
        assert part.unexplained(None) == pytest.approx(
            (y[rows] - now[rows]).square().sum().item() / variance, rel=1e-6
        )
        matrix = torch.randn(4, 4, dtype=torch.float64)
        inner = torch.block_diag(torch.linalg.inv(matrix), torch.ones(1, 1, dtype=torch.float64)) @ full
        assert part.project(matrix).unexplained(inner) == pytest.approx(off / variance, rel=1e-6)


def test_inputs_that_say_nothing_stay_at_the_prior():
    """A channel that is always zero, and fewer rows than inputs."""
    torch.manual_seed(0)
    x, y, prior = torch.randn(3, 5), torch.randn(3, 2), torch.randn(5, 2, dtype=torch.float64)
    x[:, 4] = 0
    sums = sums_of(x, y, torch.zeros(3, dtype=torch.bool))
    (solution,) = ridge_path(sums.fitted, prior, True, 1e-6)
    torch.testing.assert_close(solution.full[4], prior[4])
    torch.testing.assert_close((x.double() @ solution.full[:-1] + solution.full[-1]).float(), y, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("noise", "images"), [(0.01, 12), (3.0, 12), (3.0, 200)])
def test_the_chosen_ridge_is_the_best_on_held_out_rows(noise, images):
    torch.manual_seed(0)
    true = torch.randn(10, 4)
    x = torch.randn(2 * images, 10)
    y, held = x @ true + noise * torch.randn(2 * images, 4), torch.arange(2 * images) % 2 == 0
    sums, prior = sums_of(x, y, held), torch.zeros(10, 4, dtype=torch.float64)
    solution, _ = choose((ridge_path(sums.fitted, prior, True, None), sums))
    best = min(sums.held.unexplained(one.full) for one in ridge_path(sums.fitted, prior, True, None))
    assert sums.held.unexplained(solution.full) == pytest.approx(best, rel=1e-6)


def test_no_finite_solution():
    sums = sums_of(torch.randn(4, 2), torch.randn(4, 2), torch.arange(4) == 0)
    with pytest.raises(CalibrationError, match="3 unknowns from 3 rows"):
        choose(([Solution(1.0, torch.full((3, 2), torch.nan, dtype=torch.float64))], sums))
    sums = sums_of(torch.full((4, 2), torch.inf), torch.randn(4, 2), torch.arange(4) == 0)
    with pytest.raises(CalibrationError, match="NaN or infinity"):
        sums.check_finite()
