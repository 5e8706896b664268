"""Which images are kept from all fits, to measure them by."""

import hashlib
from typing import Any

import torch

from ..errors import CalibrationError


LEAST_HELD_OUT = 32


class HeldOut:
    """A share of the images, drawn by their content: the same ones in whatever order the batches come.

    Args:
        share: of all images; at least 32 of them, but no more than half.
    """

    def __init__(self, share: float):
        self.share, self.chosen = share, frozenset()
        self.seen: dict[bytes, int] = {}

    def note(self, inputs: dict[str, Any]) -> int:
        """See the images of a batch for the first time; how many there are."""
        names = _fingerprints(inputs)
        for name in names:
            self.seen[name] = self.seen.get(name, 0) + 1
        return len(names)

    def choose(self) -> int:
        """Draw, after all images were noted; how many images were drawn, copies included.

        Raises:
            CalibrationError: there are fewer than two different images.
        """
        if len(self.seen) < 2:
            raise CalibrationError(
                f"`batches` must hold at least 2 different images, one to fit to and one to measure by, got {len(self.seen)}; a few "
                "hundred are enough for small models."
            )
        count = max(LEAST_HELD_OUT, round(self.share * len(self.seen)))
        self.chosen = frozenset(sorted(self.seen)[: min(count, len(self.seen) // 2)])
        return sum(self.seen[name] for name in self.chosen)

    def mask(self, inputs: dict[str, Any]) -> torch.Tensor:
        """`(B,)`, which images of a batch are held out."""
        return torch.tensor([name in self.chosen for name in _fingerprints(inputs)])


def main_tensor(inputs: dict[str, Any]) -> torch.Tensor:
    """The images among the arguments of a model: its first tensor of floating point numbers, or its first."""
    tensors = [value for value in inputs.values() if isinstance(value, torch.Tensor) and value.dim()]
    if not tensors:
        raise CalibrationError(f"A batch must hold images, got {', '.join(inputs) or 'nothing'}.")
    return next((value for value in tensors if value.is_floating_point()), tensors[0])


def _fingerprints(inputs: dict[str, Any]) -> list[bytes]:
    images = main_tensor(inputs).detach().cpu().contiguous()
    return [hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in images]
