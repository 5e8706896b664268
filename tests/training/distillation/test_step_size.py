"""Rates that follow the size of weights, and the highest that a model bears, on losses whose answer is known."""

import copy

import torch
from torch import nn

from sima_hf.training.distillation.step_size import TRIED_RATES, bearable_rate, relative_sizes


def test_rates_follow_the_size_of_the_teachers_weights():
    teacher = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student[0].weight.mul_(0.01)
        student[1].weight.mul_(3.0)
        student[1].bias.zero_()
    assert relative_sizes(student, teacher) == {"0.weight": 2.0**-6}


def quadratic(curvature, shares=None):
    """The rate for `curvature / 2 * x^2` at x = 1: steps up to 2 do not raise it."""
    model = nn.Module()
    model.x = nn.Parameter(torch.ones(4))
    scale = torch.tensor(curvature)

    def loss():
        return (scale / 2 * (model.x - 1 + 1e-4) ** 2).sum()

    rate = bearable_rate(model, lambda: [loss()], lambda: float(loss().detach()), shares or {})
    assert torch.equal(model.x, torch.ones(4))
    assert model.x.grad is None
    return rate


def test_the_rate_is_the_largest_step_that_does_not_raise_the_loss():
    """At a distance of 1e-4 from the least, sign steps up to 2e-4 do not."""
    assert quadratic([1.0] * 4) == next(rate for rate in TRIED_RATES if rate <= 2e-4)


def test_shares_shorten_the_step():
    assert quadratic([1.0] * 4, {"x": 2.0**-6}) == TRIED_RATES[0]


def test_the_lowest_rate_is_left_where_every_step_raises_the_loss():
    model = nn.Linear(2, 1)
    measured = iter(range(100))
    assert bearable_rate(model, lambda: [model.weight.sum()], lambda: next(measured), {}) == TRIED_RATES[-1]
