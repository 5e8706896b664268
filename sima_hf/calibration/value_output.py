"""Value and output layer of an attention fitted jointly, by reduced-rank regression.

The output of SimA, and of most of its peers, is linear in the values, and these in the value layer's input `x`: head `h` gives
`A_h [x, 1] V_h P_h` to the output, `V_h` being its value weights and `P_h` its output weights. So the products `W_h = V_h P_h`,
of a rank no higher than the head's width, are what is fitted to features `Z_h = A_h [x, 1]`. For one head, with those of the
others fixed, that is reduced-rank ridge regression, whose solution is closed (Izenman, 1975): the ridge solution `B`, projected onto the leading
eigenvectors of `B^T (Z^T Z + ridge) B`. Sweeps over the heads do the rest; as every solution starts at the one before, a few
steps of subspace iteration find the eigenvectors.
"""

from collections.abc import Iterator

import torch

from .ridge import RIDGES, Solution
from .sums import LayerSums


SWEEPS, STEPS = 3, 2  # over the heads; of subspace iteration for each


def joint_path(
    sums: LayerSums, prior: torch.Tensor, width: int, bias: bool, ridge: float | None
) -> Iterator[Solution]:
    """Solutions for all ridges, from the strongest down, each begun at the one before; or only that for the ridge given.

    Args:
        sums: of features `(heads * F)`, head by head.
        prior: products `(heads, F, C)` to which a ridge pulls, float64.
        width: channels of a head.
        bias: the output layer has one.
        ridge: relative to the mean square of a head's features; None for all.
    """
    heads, features, _ = prior.shape
    xx, xy = sums.centered(bias)
    place = [slice(head * features, (head + 1) * features) for head in range(heads)]
    spectra = [torch.linalg.eigh(xx[own, own]) for own in place]
    means = [xx[own, own].diagonal().mean().clamp_min(1e-300) for own in place]
    products = prior.clone()
    leading = list(torch.linalg.eigh(prior.mT @ prior)[1][..., -width:])
    for one in sorted({*RIDGES, RIDGES[0] if ridge is None else ridge}, reverse=True):
        if ridge is not None and one < ridge:
            return
        factors = [None] * heads
        for _ in range(SWEEPS):
            for head, own in enumerate(place):
                values, vectors = spectra[head]
                penalty = one * means[head]
                others = xx[own] @ products.flatten(0, 1) - xx[own, own] @ products[head]
                wanted = xy[own] - others + penalty * prior[head]
                solved = vectors @ ((vectors.T @ wanted) / (values.clamp_min(0) + penalty)[:, None])
                for _ in range(STEPS):
                    leading[head] = torch.linalg.qr(solved.T @ (wanted @ leading[head])).Q
                factors[head] = (solved @ leading[head], leading[head].T)
                products[head] = factors[head][0] @ leading[head].T
        value, output = (torch.stack(parts) for parts in zip(*factors, strict=True))
        if ridge in (None, one):
            yield Solution(one, sums.with_bias(products.flatten(0, 1), bias), value, output)


def scaled_prior(sums: LayerSums, products: torch.Tensor, bias: bool) -> torch.Tensor:
    """Products `(heads, F, C)` times the number for each head with which they explain most.

    Args:
        sums: of features `(heads * F)`.
        products: the teacher's; the student's maps are softmax's, as far as they are, up to such a number.
        bias: the output layer has one.
    """
    heads, features, _ = products.shape
    xx, xy = sums.centered(bias)
    images = torch.stack([xx[:, h * features : (h + 1) * features] @ products[h] for h in range(heads)])
    matrix = torch.einsum("hfc,ghfc->hg", products, images.unflatten(1, (heads, features)))
    wanted = (products * xy.unflatten(0, (heads, features))).sum(dim=(1, 2))
    numbers = torch.linalg.lstsq(matrix.cpu(), wanted.cpu()[:, None], driver="gelsd").solution[:, 0].to(products)
    return numbers[:, None, None] * products
