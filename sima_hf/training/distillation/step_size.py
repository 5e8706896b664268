"""How large a step a student bears: rates in proportion to its weights, and the highest that does not undo what it knows."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn


# Rates that are tried, from above: half a decade apart.
TRIED_RATES = tuple(10 ** (-exponent / 2) for exponent in range(6, 15))
# Steps of each trial, and by how much the loss of one may rise until it is given up.
TRIED_STEPS, LOST = 12, 2.0
# The way from the start to the mean of a trial's weights at which it is measured.
HALF = 0.5
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
    """The highest of `TRIED_RATES` that leads to averaged weights which are no worse on other images than the start.

    Each rate is tried by a short run of Adam under a linear warm-up, and measured half way from the start to the mean of its
    weights, as the slow average of a whole run would be by then. Single steps raise the loss of a calibrated model at rates
    that serve it well: what they lose is noise, which an average of the weights does not have.

    Args:
        model: its weights and gradients are put back.
        losses: gives the losses of one run, one a step, each made from the weights of its time.
        measure: the loss on other images, without gradients.
        shares: of the rate, by name of the parameter; 1 for others.

    Returns:
        The rate; the lowest of those tried if none serves.
    """
    parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
    before = {name: (one.detach().clone(), one.grad) for name, one in parameters.items()}
    start = measure()
    try:
        for rate in TRIED_RATES:
            averages = _average_of_run(parameters, losses, {name: rate * shares.get(name, 1.0) for name in parameters})
            if averages is not None:
                _load(parameters, {name: torch.lerp(before[name][0], one, HALF) for name, one in averages.items()})
                if measure() <= start:
                    return rate
            _load(parameters, {name: value for name, (value, _) in before.items()})
        return TRIED_RATES[-1]
    finally:
        _load(parameters, {name: value for name, (value, _) in before.items()})
        for name, (_, gradient) in before.items():
            parameters[name].grad = gradient


def _average_of_run(
    parameters: dict[str, nn.Parameter],
    losses: Callable[[], Iterable[torch.Tensor]],
    rates: dict[str, float],
) -> dict[str, torch.Tensor] | None:
    """Mean of the weights after each step; None if the loss has gone to more than `LOST` times the first."""
    groups = [{"params": [one], "lr": rates[name]} for name, one in parameters.items()]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / TRIED_STEPS)
    sums = {name: torch.zeros_like(one) for name, one in parameters.items()}
    first, steps = None, 0
    for loss in losses():
        value = float(loss.detach())
        first = value if first is None else first
        if not value <= LOST * first:
            return None
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        warm_up.step()
        steps += 1
        for name, one in parameters.items():
            sums[name] += one.detach()
    return {name: total / steps for name, total in sums.items()}


@torch.no_grad()
def _load(parameters: dict[str, nn.Parameter], values: dict[str, torch.Tensor]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)
