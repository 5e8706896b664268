"""Rows of made-up layers as calibration sums them."""

import torch

from sima_hf.calibration.sums import LayerBatch, SplitSums


def sums_of(x, y, held, weight=None, now=None):
    """Sums of rows `x` `(R, inputs)` and `y` `(R, C)`, in several batches; `held` `(R,)` are held out."""
    weight = torch.ones(len(x)) if weight is None else weight
    now = torch.zeros_like(y) if now is None else now
    sums = SplitSums(x.shape[1], y.shape[1], torch.device("cpu"))
    for some in torch.arange(len(x)).split(7):
        parts = (part[some] for part in (x, y, now, weight, y))
        sums.add(LayerBatch(*parts, torch.ones(y.shape[1]), held[some]))
    return sums
