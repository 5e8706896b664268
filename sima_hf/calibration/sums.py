"""Running sums of what images say about a layer: all that its fits need, in float64, however many rows came."""

import math
from dataclasses import dataclass

import torch

from ..errors import CalibrationError


# A symmetric product in this many strips takes 9/16 of the operations of a whole one; strips narrower than this gain nothing.
STRIPS, MIN_STRIP = 8, 128


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape in float64; from Apple's GPUs, which have none, on the CPU."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


@dataclass
class LayerBatch:
    """What one batch says about a layer, in rows.

    Attributes:
        x: `(R, inputs)` of the layer.
        y: `(R, C)`, what its output should be.
        now: `(R, C)`, what its output is.
        weight: `(R,)`.
        goal: `(R, C)`, what the teacher has where the output arrives.
        scale: `(C,)`, from the layer's output to there.
        held: `(R,)`, rows of images that are kept from the fit.
    """

    x: torch.Tensor
    y: torch.Tensor
    now: torch.Tensor
    weight: torch.Tensor
    goal: torch.Tensor
    scale: torch.Tensor
    held: torch.Tensor


class LayerSums:
    """Sums of `x x^T`, `x y^T` and what shares of variance need; memory is `O(inputs * (inputs + outputs))`.

    A constant 1 is the last of the inputs, for the bias.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device):
        self.device = widened(torch.empty(0, device=device)).device

        def zeros(*shape):
            return torch.zeros(*shape, dtype=torch.float64, device=self.device)

        self.xx, self.xy = zeros(inputs + 1, inputs + 1), zeros(inputs + 1, outputs)
        self.yy, self.off, self.first, self.second, self.scale = (zeros(outputs) for _ in range(5))
        self.rows, self.weight = 0, 0.0

    def add(self, batch: LayerBatch, rows: torch.Tensor) -> None:
        """Take in the chosen `rows` `(R,)` of a batch."""
        x, y, now, goal, weight = (
            widened(part[rows]) for part in (batch.x, batch.y, batch.now, batch.goal, batch.weight)
        )
        root = weight.sqrt()[:, None]
        x, y, now, goal = (root * part for part in (torch.cat([x, torch.ones_like(root)], dim=1), y, now, goal))
        self._add_products(x)
        self.xy.addmm_(x.T, y)
        self.yy += y.square().sum(dim=0)
        self.off += (y - now).square().sum(dim=0)
        self.first += (root * goal).sum(dim=0)
        self.second += goal.square().sum(dim=0)
        self.scale = widened(batch.scale)
        self.weight += weight.sum().item()
        self.rows += len(x)

    def _add_products(self, x: torch.Tensor) -> None:
        """Add `x^T x`, strip by strip: what lies below the diagonal is what lies above, and most of calibration's time is here."""
        width = max(MIN_STRIP, math.ceil(x.shape[1] / STRIPS))
        for first in range(0, x.shape[1], width):
            last = first + width
            strip = x[:, first:last].T
            self.xx[first:last, first:last].addmm_(strip, x[:, first:last])
            beside = strip @ x[:, last:]
            self.xx[first:last, last:] += beside
            self.xx[last:, first:last] += beside.T

    def check_finite(self) -> None:
        """Refuse sums that are not finite.

        Raises:
            CalibrationError: they are not.
        """
        if not all(part.isfinite().all() for part in (self.xx, self.xy, self.yy)):
            raise CalibrationError(
                f"Sums over {self.rows} rows of {len(self.xx)} inputs are not finite. Look for NaN or infinity in the batches and in "
                "both models."
            )

    def centered(self, bias: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """`x x^T` and `x y^T` without the constant, about the means if a bias is free to take these up."""
        xx, xy = self.xx[:-1, :-1], self.xy[:-1]
        if not bias:
            return xx, xy
        mean = self.xx[:-1, -1] / self.weight
        return xx - self.weight * torch.outer(mean, mean), xy - torch.outer(mean, self.xy[-1])

    def with_bias(self, weight: torch.Tensor, bias: bool) -> torch.Tensor:
        """A solution `(inputs, C)` with its best bias, or zeros, as a last row."""
        last = (self.xy[-1] - self.xx[-1, :-1] @ weight) / self.weight if bias else 0 * weight[0]
        return torch.cat([weight, last[None]])

    def project(self, matrix: torch.Tensor) -> "LayerSums":
        """The sums for inputs `x @ matrix`, where `matrix` is `(inputs, fewer)`."""
        made = LayerSums(matrix.shape[1], self.xy.shape[1], self.device)
        matrix = torch.block_diag(matrix, torch.ones(1, 1).to(matrix))
        made.__dict__.update(vars(self), xx=matrix.T @ self.xx @ matrix, xy=matrix.T @ self.xy)
        return made

    def unexplained(self, solution: torch.Tensor | None) -> float:
        """Share of the goal's variance that is missed with a solution `(inputs + 1, C)`; None: with the layer as it was."""
        off = self.off
        if solution is not None:
            off = self.yy - 2 * (solution * self.xy).sum(dim=0) + ((self.xx @ solution) * solution).sum(dim=0)
        total = (self.second - self.first.square() / max(self.weight, 1e-300)).sum().item()
        return max((off * self.scale.square()).sum().item(), 0.0) / max(total, 1e-300)


class SplitSums:
    """Sums over images to fit to, and over images held out of the fit."""

    def __init__(self, inputs: int, outputs: int, device: torch.device):
        self.fitted, self.held = (LayerSums(inputs, outputs, device) for _ in range(2))

    def add(self, batch: LayerBatch) -> None:
        """Take in a batch, each row where it belongs."""
        self.fitted.add(batch, ~batch.held)
        if batch.held.any():
            self.held.add(batch, batch.held)

    def check_finite(self) -> None:
        """Refuse sums that are not finite, as `LayerSums.check_finite`."""
        self.fitted.check_finite()
        self.held.check_finite()

    def project(self, matrix: torch.Tensor) -> "SplitSums":
        """As `LayerSums.project`, of both; `matrix` is `(inputs, fewer)`."""
        made = object.__new__(SplitSums)
        made.fitted, made.held = self.fitted.project(matrix), self.held.project(matrix)
        return made
