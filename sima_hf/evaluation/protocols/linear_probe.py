"""Linear probe: multinomial logistic regression on frozen features, solved to its optimum by L-BFGS.

The problem is convex, so a full-batch quasi-Newton method finds the one optimum: no learning rate, no epochs, no seed, and the
same result each time, which is why CLIP's linear probes (Radford et al., ICML 2021) are solved so. torch's L-BFGS runs where the
features are; ridge regression in closed form would be quicker, but fits other things than probabilities.
"""

from dataclasses import dataclass

import torch

from ...errors import DataError


# Tried from strong to weak, each from the solution before it.
REGULARIZATIONS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
HELD_OUT = 5  # every fifth image of each class chooses among them
MOST_ITERATIONS = 1000
ROWS = 16384  # at a time


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of features.

    Attributes:
        weight: `(K, D)`, float64, of features as they come (their standardization is in it).
        bias: `(K,)`, float64.
        regularization: strength of the L2 penalty that it was solved with.
        chosen: accuracy on the held-out training images for each strength that was tried; {} where it was given.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    regularization: float
    chosen: dict[float, float]

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """`(N, K)`, float64, on the CPU, of features `(N, D)`."""
        return torch.cat([rows.to(self.weight) @ self.weight.T + self.bias for rows in features.split(ROWS)]).cpu()


def fit_linear_probe(
    features: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    regularization: float | None = None,
    device: torch.device | str = "cpu",
) -> LinearProbe:
    """Minimize `mean cross-entropy + regularization / 2 * |W|^2` over weights `W` and biases of standardized features, in float64.

    Each channel is brought to mean 0 and variance 1 over the training images first, so that the penalty does not depend on its
    scale. In scikit-learn's terms: `StandardScaler`, then `LogisticRegression(C=1 / (N * regularization))`.

    Args:
        features: `(N, D)`, any floating dtype.
        labels: int64 `(N,)`, from 0 to `num_classes` - 1.
        num_classes: K.
        regularization: strength; None: the one of `REGULARIZATIONS` that is best for every fifth image of each class when fitted
            to the others, the stronger of equals; then fitted to all.
        device: on which it is computed; MPS, which has no float64, leaves it to the CPU.

    Raises:
        DataError: a regularization that is not positive, or no class with five images to choose it by.
    """
    device = "cpu" if torch.device(device).type == "mps" else device
    features, labels = features.to(device, torch.float64), labels.to(device)
    check_regularization(regularization)
    chosen: dict[float, float] = {}
    if regularization is None:
        held = _held_out(labels)
        if not held.any():
            raise DataError(
                f"No class has {HELD_OUT} training images, so there are none to choose `regularization` by; give it, such as 0.01."
            )
        start = None
        for strength in REGULARIZATIONS:
            start = _solve(features[~held], labels[~held], num_classes, strength, start, tolerance=1e-6)
            probe = LinearProbe(*_for_raw(*start), strength, {})
            right = probe.logits(features[held]).argmax(dim=1) == labels[held].cpu()
            chosen[strength] = right.double().mean().item()
        regularization = max(chosen, key=chosen.get)  # the first of equals
    solved = _solve(features, labels, num_classes, regularization)
    return LinearProbe(*_for_raw(*solved), regularization, chosen)


def check_regularization(regularization: float | None) -> None:
    """Refuse a regularization that is not positive.

    Raises:
        DataError: it is not.
    """
    if regularization is not None and not regularization > 0:
        raise DataError(f"`regularization` must be positive, got {regularization}.")


def _held_out(labels: torch.Tensor) -> torch.Tensor:
    """Boolean `(N,)`: every fifth image of each class."""
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank = torch.arange(len(labels), device=labels.device) - first
    held = torch.zeros_like(labels, dtype=torch.bool)
    held[order] = rank % HELD_OUT == HELD_OUT - 1
    return held


def _solve(
    features: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    strength: float,
    start: tuple | None = None,
    tolerance: float = 1e-9,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights and biases of standardized features at the optimum, and the mean and deviation that standardize them."""
    mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    both = features.new_zeros(num_classes, features.shape[1] + 1)
    if start is not None:
        both[:, :-1], both[:, -1] = start[0], start[1]
    both.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [both],
        max_iter=MOST_ITERATIONS,
        tolerance_grad=tolerance,
        tolerance_change=1e-5 * tolerance,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def objective() -> torch.Tensor:
        weight, bias = both.detach()[:, :-1], both.detach()[:, -1]
        loss = strength / 2 * weight.square().sum()
        gradient = torch.cat([strength * weight, torch.zeros_like(bias)[:, None]], dim=1)
        for rows, wanted in zip(features.split(ROWS), labels.split(ROWS), strict=True):
            rows = (rows - mean) / deviation
            logarithms = (rows @ weight.T + bias).log_softmax(dim=1)
            loss = loss - logarithms.gather(1, wanted[:, None]).sum() / len(features)
            error = logarithms.exp()
            error[torch.arange(len(wanted), device=error.device), wanted] -= 1
            gradient[:, :-1] += error.T @ rows / len(features)
            gradient[:, -1] += error.sum(dim=0) / len(features)
        both.grad = gradient
        return loss

    optimizer.step(objective)
    return both.detach()[:, :-1], both.detach()[:, -1], mean, deviation


def _for_raw(weight, bias, mean, deviation) -> tuple[torch.Tensor, torch.Tensor]:
    """The same classifier of features that are not standardized."""
    weight = weight / deviation
    return weight, bias - weight @ mean
