"""Whether an exported file computes what the model computes: both run on the same inputs, output by output."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ExportError
from .library_noise import first_line


# The largest error of an output, relative to its largest number, against the model in float32, by the dtype of the file.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Agreement:
    """What was compared.

    Attributes:
        tolerance: what each error may be at most.
        runs: for each run the shapes of the inputs and the error of each output, in the order of the model's.
    """

    tolerance: float
    runs: tuple[dict[str, Any], ...]

    @property
    def error(self) -> float:
        """The largest of all errors."""
        return max((error for run in self.runs for error in run["errors"]), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {"tolerance": self.tolerance, "error": self.error, "runs": list(self.runs)}


def compare(
    run: Callable[..., Any], reference: Callable[..., Any], inputs: list[Mapping[str, Any]], tolerance: float
) -> Agreement:
    """Run an exported file and the model that it is of on the same inputs.

    Args:
        run: the file, called with keyword arguments.
        reference: the model, likewise; its outputs have the same structure.
        inputs: for each run.
        tolerance: see `TOLERANCES`.

    Raises:
        ExportError: an output differs by more, is not finite where the model's is, or has another shape; or one of both does not run.
    """
    runs = []
    for given in inputs:
        tensors = {name: value for name, value in given.items() if isinstance(value, torch.Tensor)}
        shapes = {name: list(value.shape) for name, value in tensors.items()}
        try:
            found, expected = leaves(run(**tensors)), leaves(reference(**given))
        except Exception as error:  # of the runtime, whose types are not public, or of a model that takes no such size
            raise ExportError(f"It does not run on inputs of {shapes}: {first_line(error)}") from error
        errors = [difference(one, two) for one, two in zip(found, expected, strict=True)]
        runs.append({"inputs": shapes, "errors": errors})
        worst = max(errors, default=0.0)
        if not worst <= tolerance:
            raise ExportError(
                f"The exported file differs from the model on inputs of {shapes}: by {worst:.2g} of the largest output, where "
                f"{tolerance:g} is allowed."
            )
    return Agreement(tolerance, tuple(runs))


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference relative to the largest number expected; for whole numbers the share that differs; inf for another shape."""
    if found.shape != expected.shape:
        return float("inf")
    if not expected.is_floating_point():
        return float((found != expected).double().mean()) if expected.numel() else 0.0
    found, expected = found.double(), expected.double()
    same = (found == expected) | (found.isnan() & expected.isnan())
    gap = (found - expected).abs().masked_fill(same, 0.0)  # infinities that are the same are no difference
    finite = expected[expected.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    worst = float(gap.nan_to_num(nan=float("inf"), posinf=float("inf")).max()) if gap.numel() else 0.0
    return worst / largest if largest else worst


def leaves(output: Any) -> list[torch.Tensor]:
    """The tensors of an output, in their order."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]
