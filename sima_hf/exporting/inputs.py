"""Inputs to trace an export with and to compare it on: which axes may differ, and the same inputs at other sizes."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from ..errors import ExportError
from ..patching.example_inputs import example_inputs


RESIZED = (
    "interpolate_pos_encoding"  # the argument by which many ViTs take images of other sizes than they were trained on
)


class ExportInputs:
    """Keyword arguments for a forward, at several batch sizes and, for images alone, resolutions.

    Args:
        model: to be exported.
        given: its inputs, `(batch, ...)` each; None: made up from its config.

    Raises:
        ExportError: they cannot be made up.
    """

    def __init__(self, model: PreTrainedModel, given: Mapping[str, Any] | None = None):
        try:
            given = dict(example_inputs(model) if given is None else given)
        except ValueError as error:
            raise ExportError(
                f"Inputs cannot be made up for {type(model).__name__}: {error} In Python, give them to sima_hf.export as `inputs`."
            ) from error
        self.plain = {name: value for name, value in given.items() if not isinstance(value, torch.Tensor)}
        self.tensors = {
            name: value.cpu().to(model.dtype) if value.is_floating_point() else value.cpu()
            for name, value in given.items()
            if name not in self.plain
        }
        sizes = {tensor.shape[0] for tensor in self.tensors.values() if tensor.dim()}
        # One size along the first axis of all of them is the batch.
        self.batch = sizes.pop() if len(sizes) == 1 and not self.plain else None
        pixels = self.tensors.get("pixel_values")
        self.takes_images = list(self.tensors) == ["pixel_values"] and pixels.dim() == 4
        self.size = tuple(pixels.shape[-2:]) if self.takes_images and not self.plain else None
        self.resizes = RESIZED in inspect.signature(model.forward).parameters

    def most(self) -> str:
        """What these inputs allow to be dynamic."""
        return "none" if self.batch is None else "batch" if self.size is None else "resolution"

    def reason(self) -> str:
        """Why that is not everything."""
        return (
            "its inputs have no axis of images in common"
            if self.batch is None
            else "it takes more than images of one size"
        )

    def at(self, batch: int | None = None, size: tuple[int, int] | None = None) -> dict[str, Any]:
        """Keyword arguments of so many images (None: as given), of `size` in pixels."""
        tensors = dict(self.tensors)
        if size is not None and size != self.size:
            pixels = tensors["pixel_values"]
            generator = torch.Generator().manual_seed(sum(size))
            tensors["pixel_values"] = torch.randn(*pixels.shape[:2], *size, generator=generator).to(pixels.dtype)
        if batch is not None:
            tensors = {name: _of_batch(tensor, batch) for name, tensor in tensors.items()}
        return {**tensors, **self.plain}

    def traced(self, dynamic: str) -> dict[str, Any]:
        """What to trace with: two images where their number may differ (one is a case of its own to torch), not square where sizes may."""
        if dynamic == "none":
            return self.at()
        return self.at(2, self._sizes()[-1] if dynamic == "resolution" else None)

    def flags(self, dynamic: str) -> dict[str, bool]:
        """Arguments that a forward takes besides, and that a graph has built in."""
        return {RESIZED: True} if dynamic == "resolution" and self.resizes else {}

    def axes(self, dynamic: str) -> dict[str, Any] | None:
        """Which axes of each input are dynamic, as torch.export takes them."""
        if dynamic == "none":
            return None
        auto = torch.export.Dim.AUTO
        axes = {0: auto, 2: auto, 3: auto} if dynamic == "resolution" else {0: auto}
        return {
            name: axes if isinstance(value, torch.Tensor) else None for name, value in self.traced(dynamic).items()
        }

    def compared(self, dynamic: str) -> list[dict[str, Any]]:
        """Inputs on which file and model have to agree: two batch sizes and two resolutions, where these may differ."""
        if dynamic == "none":
            return [self.at()]
        if dynamic == "batch":
            return [self.at(batch) for batch in (1, 3)]
        return [self.at(batch, size) for batch, size in zip((1, 3), self._sizes(), strict=False)]

    def _sizes(self) -> list[tuple[int, int]]:
        """As given, higher, and wider: doubled, so that patches and strides still divide them."""
        height, width = self.size
        return [(height, width), (2 * height, width), (height, 2 * width)]


def _of_batch(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    """The same along the first axis as often as it takes; of numbers, each repetition is another image."""
    rows = []
    for index in range(batch):
        row = tensor[index % tensor.shape[0]]
        again = index // tensor.shape[0]
        rows.append(row.roll(7 * again) if again and row.is_floating_point() else row)
    return torch.stack(rows)
