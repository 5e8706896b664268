"""Rates that follow the size of weights, and the highest that a model bears, on losses whose answer is known."""

import copy

import pytest
import torch
from torch import nn

from sima_hf.training.distillation.step_size import LOST, TRIED_RATES, TRIED_STEPS, bearable_rate, relative_sizes


def test_rates_follow_the_size_of_the_teachers_weights():
    teacher = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student[0].weight.mul_(0.01)
        student[1].weight.mul_(3.0)
        student[1].bias.zero_()
    assert relative_sizes(student, teacher) == {"0.weight": 2.0**-6}


def quadratic(distance, shares=None):
    """The rate for `x^2 / 2` at a distance from the least."""
    model = nn.Module()
    model.x = nn.Parameter(torch.ones(4, dtype=torch.float64))

    def loss():
        return ((model.x - 1 + distance) ** 2).sum()

    rate = bearable_rate(
        model, lambda: (loss() for _ in range(TRIED_STEPS)), lambda: float(loss().detach()), shares or {}
    )
    assert torch.equal(model.x, torch.ones(4, dtype=torch.float64))
    assert model.x.grad is None
    return rate


def run_of_adam(rate, distance):
    """Mean of the iterates of the trial's run, written out; the distance from the least afterwards."""
    x, first, second, seen = distance, 0.0, 0.0, []
    for step in range(1, TRIED_STEPS + 1):
        gradient = 2 * x
        gradient /= max(1.0, (abs(gradient) * 2) / 1.0)  # four equal entries, clipped at a norm of 1
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        x -= rate * step / TRIED_STEPS * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)) ** 0.5 + 1e-8)
        seen.append(x)
    return abs(distance + sum(seen) / len(seen)) / 2, max(map(abs, [distance, *seen[:-1]]))


@pytest.mark.parametrize("distance", [1e-3, 1e-4, 1e-5])
def test_the_rate_is_the_highest_that_leaves_the_average_no_worse(distance):
    for rate in TRIED_RATES:
        average, farthest = run_of_adam(rate, distance)
        if farthest**2 <= LOST * distance**2 and average <= distance:
            break
    assert quadratic(distance) == rate
    assert rate > TRIED_RATES[-1]


def test_shares_shorten_the_step():
    assert quadratic(1e-5, {"x": 2.0**-6}) > 8 * quadratic(1e-5)


def test_the_lowest_rate_is_left_where_every_run_ends_worse():
    model = nn.Linear(2, 1)
    measured = iter(range(100))
    assert bearable_rate(model, lambda: [model.weight.sum()], lambda: next(measured), {}) == TRIED_RATES[-1]
    assert model.weight.grad is None
