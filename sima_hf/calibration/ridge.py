"""Ridge regression of a linear layer, its ridge chosen on images that were held out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from ..errors import CalibrationError
from .sums import LayerSums, SplitSums


# Weights of the squared change that are tried, relative to the mean square of an input; the last all but forbids a change.
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e6)


@dataclass(frozen=True)
class Solution:
    """One fit of a layer.

    Attributes:
        ridge: with which it was made.
        full: weight and bias `(inputs + 1, C)`, float64.
        value: if the value layer was fitted as well, its weights `(heads, inputs of it + 1, channels)`.
        output: then also the output layer's, `(heads, channels, C)`.
    """

    ridge: float
    full: torch.Tensor
    value: torch.Tensor | None = None
    output: torch.Tensor | None = None


def ridge_path(sums: LayerSums, prior: torch.Tensor, bias: bool, ridge: float | None) -> Iterator[Solution]:
    """Solutions for all ridges, from the strongest down, or for the one given.

    Args:
        sums: of the layer.
        prior: weight `(inputs, C)` to which a ridge pulls, float64. Where the rows say nothing (unused directions, fewer
            rows than inputs) the solution stays there.
        bias: the layer has one; it is free of the ridge.
        ridge: relative to the mean square of the inputs; None for all.
    """
    xx, xy = sums.centered(bias)
    values, vectors = torch.linalg.eigh(xx)
    values, mean = values.clamp_min(0), xx.diagonal().mean().clamp_min(1e-300)
    missing = vectors.T @ (xy - xx @ prior)
    for one in reversed(RIDGES) if ridge is None else (ridge,):
        weight = prior + vectors @ (missing / (values + one * mean)[:, None])
        yield Solution(one, sums.with_bias(weight, bias))


def choose(*paths: tuple[Iterable[Solution], SplitSums]) -> tuple[Solution, SplitSums]:
    """The solution that leaves least unexplained on held-out images, and the sums it belongs to.

    Args:
        paths: solutions and the sums to measure them on; each path is left where it has become worse twice in a row.

    Raises:
        CalibrationError: none is finite.
    """
    best, found = float("inf"), None
    for path, measured in paths:
        before, worse = float("inf"), 0
        for solution in path:
            share = measured.held.unexplained(solution.full)
            if share < best:
                best, found = share, (solution, measured)
            worse = worse + 1 if share > before else 0
            before = share
            if worse == 2:
                break
    if found is None or not found[0].full.isfinite().all():
        sums = paths[0][1].fitted
        raise CalibrationError(
            f"The equations of {len(sums.xx)} unknowns from {sums.rows} rows have no finite solution. Look for NaN or infinity in the "
            "batches and in both models, or raise `ridge`."
        )
    return found
