"""Weighted k-nearest neighbors on frozen features, as DINO has it (Caron et al., ICCV 2021; Wu et al., CVPR 2018)."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ...errors import DataError


TEMPERATURE = 0.07
ROWS = 256  # test images at a time


def knn_votes(
    train: torch.Tensor,
    labels: torch.Tensor,
    test: torch.Tensor,
    num_classes: int,
    neighbors: Sequence[int] = (20, 10),
    temperature: float = TEMPERATURE,
    device: torch.device | str = "cpu",
    process: int = 0,
    processes: int = 1,
) -> dict[int, torch.Tensor]:
    """The votes of each test image's nearest training images for their classes.

    A neighbor's vote is `exp(cosine / temperature)`. Similarities are float32, votes float64.

    Args:
        train: `(N, D)`, any floating dtype.
        labels: int64 `(N,)`, from 0 to `num_classes` - 1.
        test: `(M, D)`.
        num_classes: how many.
        neighbors: numbers of neighbors k.
        temperature: of the votes.
        device: on which it is computed.
        process, processes: compute every `processes`-th chunk of test images from `process` on; the others' rows are 0.

    Returns:
        k -> votes `(M, num_classes)`, float64, on the CPU.

    Raises:
        DataError: a k below 1 or above N, or a temperature that is not positive.
    """
    check_neighbors(neighbors, temperature, len(train))
    train, labels = F.normalize(train.float().to(device)), labels.to(device)
    votes = {k: torch.zeros(len(test), num_classes, dtype=torch.float64) for k in neighbors}
    for start in range(process * ROWS, len(test), processes * ROWS):
        rows = F.normalize(test[start : start + ROWS].float().to(device))
        nearest = (rows @ train.T).topk(max(neighbors), dim=1)  # in descending order
        weights = nearest.values.cpu().double().div(temperature).exp()
        classes = labels[nearest.indices].cpu()
        for k, found in votes.items():
            found[start : start + ROWS].scatter_add_(1, classes[:, :k], weights[:, :k])
    return votes


def check_neighbors(neighbors: Sequence[int], temperature: float, num_train: int) -> None:
    """Refuse numbers of neighbors that cannot be, and a temperature that is not positive.

    Raises:
        DataError: a k below 1 or above the number of training images, no k at all, or such a temperature.
    """
    for k in neighbors:
        if not 1 <= k <= num_train:
            raise DataError(f"`neighbors` must be from 1 to the {num_train} training images, got {k}.")
    if not neighbors:
        raise DataError("`neighbors` must be one number or more, got none.")
    if not temperature > 0:
        raise DataError(f"`temperature` must be positive, got {temperature}.")
