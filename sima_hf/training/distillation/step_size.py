"""How large a step a student bears: rates in proportion to its weights, and the highest that does not undo what it knows."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn


# Rates that are tried, from above: half a decade apart.
TRIED_RATES = tuple(10 ** (-exponent / 2) for exponent in range(6, 15))
# A parameter's share of the rate is this at least.
SMALLEST_SHARE = 2.0**-10


def relative_sizes(student: nn.Module, teacher: nn.Module) -> dict[str, float]:
    """Root mean square of each of the student's parameters over that of the teacher's, a power of two from 2^-10 to 1, by name.

    Adam's steps know nothing of a parameter's size, and calibration leaves layers that are a small part of the teacher's. Names
    that are not in the result have no smaller size than the teacher's.
    """
    wanted = dict(teacher.named_parameters())
    shares = {}
    for name, parameter in student.named_parameters():
        own, goal = (
            float(one.detach().cpu().double().square().mean().sqrt())
            for one in (parameter, wanted.get(name, parameter))
        )
        if 0 < own < goal < math.inf:
            shares[name] = max(2.0 ** math.ceil(math.log2(own / goal)), SMALLEST_SHARE)
    return shares


def bearable_rate(
    model: nn.Module,
    losses: Callable[[], Iterable[torch.Tensor]],
    measure: Callable[[], float],
    shares: dict[str, float],
) -> float:
    """The highest of `TRIED_RATES` at which Adam's first step leaves the loss on other images no higher than it was.

    That step is the sign of the gradient times the rate; where a calibrated model's outputs are sums of large terms that cancel,
    the loss turns up after very short ones.

    Args:
        model: its weights and gradients are put back.
        losses: one loss after the other, whose gradients are summed.
        measure: the loss on other images, without gradients.
        shares: of the rate, by name of the parameter; 1 for others.

    Returns:
        The rate; the lowest of those tried if each raises the loss.
    """
    parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
    before = {name: (one.detach().clone(), one.grad) for name, one in parameters.items()}
    model.zero_grad()
    try:
        for loss in losses():
            loss.backward()
        signs = {name: one.grad.sign() for name, one in parameters.items() if one.grad is not None}
        start = measure()
        for rate in TRIED_RATES:
            with torch.no_grad():
                for name, sign in signs.items():
                    parameters[name].copy_(before[name][0]).sub_(sign, alpha=rate * shares.get(name, 1.0))
            if measure() <= start:
                return rate
        return TRIED_RATES[-1]
    finally:
        with torch.no_grad():
            for name, (value, gradient) in before.items():
                parameters[name].copy_(value)
                parameters[name].grad = gradient
