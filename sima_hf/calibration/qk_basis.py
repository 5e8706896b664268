"""Another basis for queries and keys, in which SimA's map is softmax's to first order.

Softmax sees the logits `q k^T / sqrt(D)` only: any invertible `T` gives `(T q)^T (T^-T k) = q^T k`, and one vector added to
all keys changes nothing. SimA divides every channel by its own sum over the tokens, so to SimA the basis is everything. The
one chosen here, for each head, from second moments of q and k:

- keys are centered, which softmax does not notice;
- q and k get the same, diagonal second moments `s`; the channel with the least is given up for a constant `D^(1/4)` in q and
  k, so that `q^T k + sqrt(D)` is what SimA sees, for `exp(x) = 1 + x + ...` with `x = q^T k / sqrt(D)`;
- a rotation makes all channels equally strong, so that SimA's division by channel is, on the whole, one by a number.

SimA adds position biases to what is left after that division, of the order of 1 / tokens^2, while softmax added them to the
logits: `exp(x + b) = exp(b) + x + ...`, so `exp(b) - 1`, divided by the same number, takes the place of `b`.
"""

import math

import torch
from torch import nn

from ..errors import CalibrationError


class HeadMoments:
    """Sums of `x x^T` and of `x` for each head of a projection, in float64."""

    def __init__(self, heads: int, channels: int, device: torch.device):
        self.heads, self.channels = heads, channels
        self.device = torch.device("cpu") if device.type == "mps" else device
        self.second = torch.zeros(heads, channels, channels, dtype=torch.float64, device=self.device)
        self.first = torch.zeros(heads, channels, dtype=torch.float64, device=self.device)
        self.rows = 0

    @classmethod
    def of(cls, layer: nn.Linear, heads: int) -> "HeadMoments":
        """Empty sums for the output of a layer."""
        return cls(heads, layer.out_features // heads, layer.weight.device)

    def add(self, output: torch.Tensor) -> None:
        """Take in the projection's output, `(..., heads * channels)`."""
        x = output.reshape(-1, self.heads, self.channels).transpose(0, 1).to(self.device, torch.float64)
        self.second += x.transpose(1, 2) @ x
        self.first += x.sum(dim=1)
        self.rows += x.shape[1]


def choose_basis(query: HeadMoments, key: HeadMoments, center: bool, constant: bool) -> tuple[torch.Tensor, ...]:
    """Maps of q and of k `(H, D, D)`, an offset of the keys `(H, D)`, and what is added to both `(H, D)`, all float64.

    The new vectors are `map_q @ q + added` and `map_k @ (k - offset) + added`.

    Args:
        query, key: sums of the two projections' outputs.
        center: take the mean off the keys.
        constant: give up a channel for the constant; without it softmax's map stays what it is.

    Raises:
        CalibrationError: the sums are not finite.
    """
    if not (query.second.isfinite().all() and key.second.isfinite().all()):
        raise CalibrationError(
            "Queries or keys are not finite. Look for NaN or infinity in the batches and in both models."
        )
    found = [
        _basis_of_head(
            query.second[head] / query.rows, key.second[head] / key.rows, center * key.first[head] / key.rows, constant
        )
        for head in range(query.heads)
    ]
    return tuple(torch.stack(parts) for parts in zip(*found, strict=True))


def _basis_of_head(
    query: torch.Tensor, key: torch.Tensor, offset: torch.Tensor, constant: bool
) -> tuple[torch.Tensor, ...]:
    channels = len(query)
    key = key - offset[:, None] * offset
    (root_q, inverse_q), (root_k, inverse_k) = _roots(query), _roots(key)
    left, strength, right = torch.linalg.svd(root_q @ root_k)
    map_q = strength.sqrt()[:, None] * left.T @ inverse_q
    map_k = strength.sqrt()[:, None] * right @ inverse_k
    added = torch.zeros_like(strength)
    if constant and channels > 1:
        map_q[-1], map_k[-1] = 0, 0
        strength[-1], added[-1] = channels**0.5, channels**0.25
    rotation = _equal_diagonal(strength.diag())
    return rotation @ map_q, rotation @ map_k, offset, rotation @ added


def _roots(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Square root of a symmetric matrix and its inverse; directions that do not occur count as very weak ones."""
    values, vectors = torch.linalg.eigh(matrix)
    root = values.clamp_min(values.max().clamp_min(1e-300) * 1e-12).sqrt()
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T


def _equal_diagonal(matrix: torch.Tensor) -> torch.Tensor:
    """An orthogonal `Q` for which all of the diagonal of `Q matrix Q^T` is its mean, by rotations in planes."""
    matrix, rotation = matrix.clone(), torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    mean = matrix.trace() / len(matrix)
    for _ in range(len(matrix) - 1):  # each sets one entry of the diagonal for good
        diagonal = matrix.diagonal()
        pair = torch.stack([diagonal.argmax(), diagonal.argmin()])
        (a, c), (_, b) = matrix[pair][:, pair]
        half, middle = (a - b) / 2, (a + b) / 2
        radius = torch.hypot(half, c)
        if radius <= 1e-12 * mean:
            break
        angle = (torch.arccos(((mean - middle) / radius).clamp(-1, 1)) + torch.atan2(c, half)) / 2
        turn = torch.stack([torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])])
        rotation[pair] = turn @ rotation[pair]
        matrix[pair] = turn @ matrix[pair]
        matrix[:, pair] = matrix[:, pair] @ turn.T
    return rotation


def apply_basis(query: nn.Linear, key: nn.Linear, basis: tuple[torch.Tensor, ...]) -> None:
    """Write a basis into the two projections; a projection without bias must have nothing added or taken off.

    Args:
        query, key: the layers; changed in place.
        basis: what `choose_basis` gives: two maps `(H, D, D)`, an offset `(H, D)` and what is added `(H, D)`.
    """
    map_q, map_k, offset, added = basis
    for layer, mapping, shift in ((query, map_q, 0 * offset), (key, map_k, offset)):
        heads, channels, _ = mapping.shape
        weight = mapping @ layer.weight.to(mapping).reshape(heads, channels, -1)
        layer.weight.copy_(weight.reshape_as(layer.weight))
        if layer.bias is not None:
            bias = mapping @ (layer.bias.to(mapping).reshape(heads, channels) - shift)[..., None]
            layer.bias.copy_((bias[..., 0] + added).reshape_as(layer.bias))


def product_scale(query: torch.Tensor, key: torch.Tensor, heads: int) -> torch.Tensor:
    """By what SimA's division multiplies `q k^T` of each head, `(heads,)` float64, from the projections' outputs `(B, N, C)`."""
    norms = [
        x.double().unflatten(-1, (heads, -1)).abs().sum(dim=-3).clamp_min(torch.finfo(torch.float32).tiny)
        for x in (query, key)
    ]
    return (1 / (norms[0] * norms[1])).mean(dim=(0, 2))


def scaled_bias(table: torch.Tensor, scale: torch.Tensor, channels: int, constant: bool) -> torch.Tensor:
    """A table `(positions, heads)` of biases for logits as one for SimA's product, whose constant it holds if nothing else does."""
    table = table.double()
    weights = (table - table.logsumexp(dim=0) + math.log(len(table))).exp()
    return (weights - 1 if constant else weights) * channels**0.5 * scale.to(table)
