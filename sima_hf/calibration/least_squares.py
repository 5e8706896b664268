"""Ridge regression from running sums: what calibration solves for each linear layer it refits."""

import torch

from ..errors import CalibrationError


class NormalEquations:
    """Sums of `x x^T` and `x y^T` in float64, however many rows came; memory is `O(inputs * (inputs + outputs))`.

    The unknown is a change of the layer, so that a ridge keeps the layer near what it is wherever the rows say nothing:
    unused directions, dead channels, fewer rows than inputs.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool, device: torch.device):
        self.bias = bias
        # Apple's GPUs have no float64.
        self.device = torch.device("cpu") if device.type == "mps" else device
        zeros = torch.zeros(inputs + bias, inputs + bias + outputs, dtype=torch.float64, device=self.device)
        self.xx, self.xy = zeros.split([inputs + bias, outputs], dim=1)
        self.yy = torch.zeros(outputs, dtype=torch.float64, device=self.device)
        self.rows = 0

    @classmethod
    def of(cls, layer: torch.nn.Linear) -> "NormalEquations":
        """Empty sums for a layer."""
        return cls(layer.in_features, layer.out_features, layer.bias is not None, layer.weight.device)

    def add(self, x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> None:
        """Take in rows: `x` `(R, inputs)`, `y` `(R, outputs)` wanted change of the output, `weight` `(R,)`."""
        x, y, weight = (tensor.to(self.device, torch.float64) for tensor in (x, y, weight))
        if self.bias:
            x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        weighted = (x * weight[:, None]).T
        self.xx += weighted @ x
        self.xy += weighted @ y
        self.yy += (weight[:, None] * y.square()).sum(dim=0)
        self.rows += int((weight > 0).sum())

    def solve(self, ridge: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The change of weight `(outputs, inputs)` and bias `(outputs,)` that explains most of `y`, in float64.

        Args:
            ridge: weight of the squared change, each input measured by its own mean square; the bias is free of it. Not
                the mean over all inputs: SimA's outputs differ in scale from channel to channel by far.

        Raises:
            CalibrationError: the sums are not finite, or the equations cannot be solved.
        """
        diagonal = self.xx.diagonal()
        scale = torch.where(diagonal > 0, diagonal, 1).rsqrt()
        matrix = self.xx * scale[:, None] * scale
        penalty = torch.full_like(scale, ridge)
        if self.bias:
            penalty[-1] = 0
        penalty[diagonal <= 0] = 1  # a channel that is always zero keeps its weights
        factor, failed = torch.linalg.cholesky_ex(matrix + penalty.diag())
        solution = scale[:, None] * torch.cholesky_solve(self.xy * scale[:, None], factor)
        if failed or not solution.isfinite().all():
            raise CalibrationError(
                f"The equations of {len(diagonal)} unknowns from {self.rows} rows have no finite solution. Look for NaN or "
                "infinity in the batches and in both models, or raise `ridge`."
            )
        solution = solution.T
        return (solution[:, :-1], solution[:, -1]) if self.bias else (solution, None)

    def unexplained(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """What is left of the sum of squares of each output `(outputs,)` with a change of weight and bias."""
        solution = weight if bias is None else torch.cat([weight, bias[:, None]], dim=1)
        fitted = 2 * (solution * self.xy.T).sum(dim=1) - ((solution @ self.xx) * solution).sum(dim=1)
        return (self.yy - fitted).clamp_min(0)
