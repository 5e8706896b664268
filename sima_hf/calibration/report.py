"""What a calibration did and how well it holds: figures by layer and at the end, on images that no fit has seen (but that chose its ridge)."""

from dataclasses import dataclass
from typing import Any

from .held_out import LEAST_HELD_OUT


# Beyond these, the report says that the result does not hold or is not enough.
OVERFITTED, LEAST_COSINE, LEAST_AGREEMENT = 2.0, 0.9, 0.95


@dataclass(frozen=True)
class LayerFit:
    """One layer that was refitted.

    Attributes:
        layer: its name.
        before, after: share of the variance it should produce that was unexplained, on held-out images.
        in_sample: the same after the fit on the images it was fitted to.
        ridge: that was chosen or given; None: nothing explained more than the layer as it was, so it was left so.
        with_value: the attention's value layer was fitted jointly.
    """

    layer: str
    before: float
    after: float
    in_sample: float = float("nan")
    ridge: float | None = None
    with_value: bool = False


@dataclass(frozen=True)
class EndResult:
    """The calibrated model beside its teacher on held-out images.

    Attributes:
        cosine: mean cosine of the tokens after the last block, each token normalized as by a LayerNorm, the teacher's mean off.
        class_cosine: of class tokens alone; None where there are none, or a single image.
        agreement: share of images for which both models answer the same; None without a classifier.
    """

    cosine: float
    class_cosine: float | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class CalibrationReport:
    """What `calibrate` did; printed, it is a table with a row for each refitted layer, in the order of the fits.

    Attributes:
        fits: layer by layer. All layers above it in the table were refitted already when `before` was measured.
        settings: the arguments.
        images: how many there were.
        stored_bytes: inputs and hidden states kept in memory; 0 where `memory_budget` did not allow it.
        bases: how many blocks got another basis for queries and keys.
        held_out: how many of the images were kept from all fits; all figures but `in_sample` are measured on these.
        end: the model as it is now beside its teacher.
    """

    fits: tuple[LayerFit, ...]
    settings: dict[str, Any]
    images: int
    stored_bytes: int
    bases: int
    held_out: int = 0
    end: EndResult | None = None

    @property
    def advice(self) -> str | None:
        """One sentence if other images than these will see a worse model, or if the end agrees little with the teacher."""
        last = self.fits[-1] if self.fits else None
        if last is not None and last.after > max(OVERFITTED * last.in_sample, last.in_sample + 0.05):
            return (
                f"On images that were held out, {last.after:.0%} of the end is unexplained, on those fitted {last.in_sample:.0%}: "
                f"calibrate with more, and more various, images than {self.images}, or distil."
            )
        if self.end is not None:
            parts = {"agrees with its teacher on": (self.end.agreement, LEAST_AGREEMENT)}
            parts["has final features whose cosine with the teacher's is"] = (self._least_cosine(), LEAST_COSINE)
            for what, (value, least) in parts.items():
                if value is not None and value < least:
                    shown = f"{value:.1%} of held-out images" if "agrees" in what else f"{value:.2f}"
                    return f"The model {what} {shown}: calibrate with more, and more various, images than {self.images}, or distil."
        if 0 < self.held_out < LEAST_HELD_OUT:
            return f"{self.held_out} held-out images say little: calibrate with {2 * LEAST_HELD_OUT} images or more."
        return None

    def _least_cosine(self) -> float:
        return min(value for value in (self.end.cosine, self.end.class_cosine) if value is not None)

    def __str__(self) -> str:
        width = max((len(fit.layer) for fit in self.fits), default=5)
        how = f"{self.stored_bytes / 2**20:.1f} MiB stored" if self.stored_bytes else "recomputed for every layer"
        lines = [
            f"Calibrated from {self.images} images, {self.held_out} of them held out, {how}; {self.bases} blocks with another basis of "
            "queries and keys.",
            "Share of what a layer should produce that it does not, before and after its fit, on held-out images and on those it was "
            "fitted to (0: all as the softmax model's; 1: no better than a constant):",
            f"{'layer'.ljust(width)}  unexplained before   after  in-sample    ridge",
            *(
                f"{fit.layer.ljust(width)}  {fit.before:18.4f}  {fit.after:6.4f}  {fit.in_sample:9.4f}  {'   none' if fit.ridge is None else f'{fit.ridge:7.0e}'}"
                f"{'  with the value layer' if fit.with_value else ''}"
                for fit in self.fits
            ),
        ]
        if self.end is not None:
            shown = {"cosine of final features": self.end.cosine, "of class tokens": self.end.class_cosine}
            shown["same answers"] = self.end.agreement
            lines.append(
                "At the end, on held-out images: "
                + ", ".join(f"{name} {value:.3f}" for name, value in shown.items() if value is not None)
                + "."
            )
        return "\n".join([*lines, *([self.advice] if self.advice else [])])
