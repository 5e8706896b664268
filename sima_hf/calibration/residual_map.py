"""How a layer's output enters the residual stream, found by running the model's own code.

Between the last linear layer of a branch and the residual stream lie, by host, LayerScale, the return from windows, shifts
and padding, and dropout that is off. All of that picks rows and scales channels, so it is found by running the block on
known numbers. Where it is anything else (a norm after the branch), the layer's own output in the teacher is the goal instead.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ResidualMap:
    """How the `(R, C)` output of a linear layer enters the `(S, C)` rows of the stream: `stream = rest + scale * out[rows]`.

    Attributes:
        rows: `(S,)`, which row of the output each row of the stream takes.
        scale: `(C,)`, by channel.
    """

    rows: torch.Tensor
    scale: torch.Tensor


def probe_residual_map(
    run: Callable[[torch.Tensor], torch.Tensor], rows: int, channels: int, like: torch.Tensor
) -> ResidualMap | None:
    """Find how a linear layer's output enters the stream; None if that is not rows times channels.

    Args:
        run: gives the stream `(S, C)` of a block with zero input, when the layer's output is the `(rows, channels)` given.
        rows, channels: shape of the layer's output.
        like: a tensor of the block's dtype and device, of any shape.
    """
    ones = torch.ones(rows, channels, dtype=like.dtype, device=like.device)
    rest, all_ones = run(0 * ones), run(ones)
    scale = all_ones[0] - rest[0]
    strongest = scale.abs().max()
    if rest.any() or not strongest > 0 or not torch.equal(all_ones, scale.expand_as(all_ones)):
        return None
    # Row numbers in two digits, so that float32 carries them exactly enough through a scale.
    digits = []
    for digit in (torch.arange(rows) // 1024, torch.arange(rows) % 1024):
        seen = run(ones * digit.to(like)[:, None])[:, scale.abs().argmax()] / scale[scale.abs().argmax()]
        if (seen - seen.round()).abs().max() > 0.1:
            return None
        digits.append(seen.round().long())
    return ResidualMap(digits[0] * 1024 + digits[1], scale)
