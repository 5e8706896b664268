"""Evaluation of an image classifier: exact counts by class, on one device or over several processes."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from ..data.images import NO_LABEL
from ..data.pixels import normalize
from ..embedding.any_size import run_at_size
from ..errors import DataError
from .metrics import NO_ANSWER, correct_at_1_and_5, rank_classes, warn_of_no_answer


@dataclass(frozen=True)
class EvaluationResult:
    """What `evaluate_model` counted.

    Attributes:
        confusion: int64 `(K, K)`, images by true class (rows) and predicted class. An image whose logits hold a NaN is in none.
        class_images: int64 `(K,)`, images of each class.
        class_top_5: int64 `(K,)`, those of them whose class is among the first five.
        loss: mean cross-entropy in nats, without label smoothing.
        seconds: for all of it, loading included.
        left_out: images without a label or unreadable, which count nowhere.
        unreadable: names of the latter.
    """

    confusion: torch.Tensor
    class_images: torch.Tensor
    class_top_5: torch.Tensor
    loss: float
    seconds: float
    left_out: int = 0
    unreadable: tuple[str, ...] = ()

    @property
    def num_images(self) -> int:
        """Images that count."""
        return int(self.class_images.sum())

    @property
    def accuracy(self) -> float:
        """Share of images whose class is the likeliest."""
        return int(self.confusion.diagonal().sum()) / self.num_images

    @property
    def top_5_accuracy(self) -> float:
        """Share of images whose class is among the five likeliest; with fewer than five classes, among all."""
        return int(self.class_top_5.sum()) / self.num_images

    @property
    def no_answer(self) -> int:
        """Images whose logits hold a NaN; they count as wrong."""
        return self.num_images - int(self.confusion.sum())

    @property
    def images_per_second(self) -> float:
        """Images that count per second, loading included."""
        return self.num_images / self.seconds

    def per_class(self, names: Sequence[str]) -> list[dict]:
        """`{"label", "accuracy", "top_5_accuracy", "correct", "images"}` of each class that has images, the worst first."""
        counts = (self.confusion.diagonal(), self.class_top_5, self.class_images)
        rows = [
            {
                "label": name,
                "accuracy": correct / images,
                "top_5_accuracy": five / images,
                "correct": correct,
                "images": images,
            }
            for name, correct, five, images in zip(names, *(count.tolist() for count in counts), strict=True)
            if images
        ]
        return sorted(rows, key=lambda row: (row["accuracy"], -row["images"]))


class _Counts:
    """Sums that grow batch by batch where the model is; no logits are kept."""

    def __init__(self, num_classes: int, device: torch.device):
        self.classes = num_classes
        self.confusion = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=device)
        self.images = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self.top_5 = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self.losses: list[torch.Tensor] = []  # four bytes an image
        self.left_out = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, ranked: torch.Tensor, labels: torch.Tensor, losses: torch.Tensor) -> None:
        """Count classes by rank `(B, k)`, labels `(B,)` and losses `(B,)`; images with -100 only as left out."""
        counted = labels != NO_LABEL
        self.left_out += (~counted).sum()
        ranked, labels = ranked[counted], labels[counted]
        self.losses.append(losses[counted])
        _, among_five = correct_at_1_and_5(ranked, labels)
        self.images.index_add_(0, labels, torch.ones_like(labels))
        self.top_5.index_add_(0, labels, among_five.long())
        answered = ranked[:, 0] != NO_ANSWER
        place = (labels * self.classes + ranked[:, 0])[answered]
        self.confusion.index_add_(0, place, torch.ones_like(place))

    def loss(self) -> float:
        """The mean; the sum is exact, so it does not depend on how the images were put into batches."""
        losses = torch.cat(self.losses).double().cpu().tolist()
        return math.fsum(losses) / len(losses)


@torch.no_grad()
def evaluate_model(
    model: nn.Module,
    batches: Iterable[dict[str, Any]],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[int] | None = None,
    accelerator=None,
    autocast: torch.dtype | None = None,
    progress: bool = True,
) -> EvaluationResult:
    """Evaluate an image classifier, native, swapped or with softmax, at the resolution at which the images come.

    A model with fixed position embeddings gets them interpolated where it can (`interpolate_pos_encoding`). Its mode is
    restored in the end.

    Args:
        model: gives logits `(B, K)`, alone, as `.logits`, or first in a tuple. It is used where it is.
        batches: dicts with `pixel_values` `(B, C, H, W)`, uint8 or already normalized, and `labels` int64 `(B,)`, -100 where an
            image is to be left out; maybe with `unreadable`, names of images that could not be read.
        mean, std: normalization of bytes, one number for each channel on the scale of [0, 1]; see `normalization`.
        classes: the model's class of each label, where they are not the same; see `match_labels`.
        accelerator: an `accelerate.Accelerator` that has prepared the batches; each image then counts once, whatever the
            number of processes and the size of the last batch, and all processes get the same result.
        autocast: dtype of mixed precision, bfloat16 or float16; None computes in the model's own.
        progress: show a bar, on the main process only.

    Raises:
        DataError: no labeled image, bytes without `mean` and `std`, labels outside the model's classes, or images of a size
            that the model cannot take.
    """
    parameter = next(model.parameters())
    several = accelerator is not None and accelerator.num_processes > 1
    counts, names, mode = None, [], model.training
    to_class = None if classes is None else torch.as_tensor(classes, device=parameter.device)
    shown = progress and (accelerator is None or accelerator.is_main_process)
    if several:
        accelerator.wait_for_everyone()  # what the others still do is not part of the evaluation's time
    start = time.perf_counter()
    model.eval()
    try:
        for batch in tqdm(batches, desc="evaluating", unit="batch", disable=not shown, leave=False):
            pixels = batch["pixel_values"].to(parameter.device, non_blocking=True)
            labels = batch["labels"].to(parameter.device, non_blocking=True)
            names += batch.get("unreadable", ())
            logits = _logits(model, _normalized(pixels, mean, std, parameter.dtype), autocast)
            if counts is None:
                counts = _Counts(logits.shape[1], logits.device)
            labels = _as_classes(labels, to_class, logits.shape[1])
            losses = nn.functional.cross_entropy(logits.float(), labels, ignore_index=NO_LABEL, reduction="none")
            found = (rank_classes(logits), labels, losses)
            counts.add(*(accelerator.gather_for_metrics(found) if several else found))
    finally:
        model.train(mode)
    if counts is None or not int(counts.images.sum()):
        raise DataError("There is no image with a label to evaluate on.")
    loss = counts.loss()  # waits for the device
    seconds = time.perf_counter() - start
    if several:
        from accelerate.utils import gather_object

        names = gather_object(names)
    result = EvaluationResult(
        confusion=counts.confusion.view(counts.classes, counts.classes).cpu(),
        class_images=counts.images.cpu(),
        class_top_5=counts.top_5.cpu(),
        loss=loss,
        seconds=seconds,
        left_out=int(counts.left_out),
        unreadable=tuple(dict.fromkeys(names)),  # processes may repeat images to fill the last batch
    )
    if accelerator is None or accelerator.is_main_process:
        warn_of_no_answer(result.no_answer, result.num_images)
    return result


def count_answers(
    scores: torch.Tensor,
    labels: torch.Tensor,
    seconds: float,
    unreadable: tuple[str, ...] = (),
    losses: torch.Tensor | None = None,
) -> EvaluationResult:
    """What `evaluate_model` would count for these scores.

    Args:
        scores: `(N, K)`, floating point, the highest for the class that is answered.
        labels: int64 `(N,)`, from 0 to K - 1.
        seconds: that it took.
        unreadable: names of images that are left out.
        losses: `(N,)`; without them the loss is NaN.

    Raises:
        DataError: no images.
    """
    if not len(labels):
        raise DataError("There is no image with a label to evaluate on.")
    counts = _Counts(scores.shape[1], scores.device)
    counts.add(
        rank_classes(scores),
        labels,
        losses if losses is not None else torch.full_like(labels, math.nan, dtype=torch.float64),
    )
    shape = (counts.classes, counts.classes)
    loss = math.nan if losses is None else counts.loss()
    return EvaluationResult(
        counts.confusion.view(shape), counts.images, counts.top_5, loss, seconds, len(unreadable), unreadable
    )


def _normalized(pixels: torch.Tensor, mean, std, dtype: torch.dtype) -> torch.Tensor:
    if pixels.dtype != torch.uint8:
        return pixels.to(dtype)
    if mean is None or std is None:
        raise DataError(
            "Images came as bytes: give the `mean` and `std` to normalize them with, or normalize them before."
        )
    return normalize(pixels, mean, std).to(dtype)


def _logits(model: nn.Module, pixels: torch.Tensor, autocast: torch.dtype | None) -> torch.Tensor:
    with torch.autocast(pixels.device.type, autocast, enabled=autocast is not None):
        outputs = run_at_size(model, pixels)
    logits = outputs.logits if hasattr(outputs, "logits") else outputs
    return logits[0] if isinstance(logits, (tuple, list)) else logits


def _as_classes(labels: torch.Tensor, to_class: torch.Tensor | None, num_classes: int) -> torch.Tensor:
    """The model's class of each label; -100 stays."""
    counted = labels != NO_LABEL
    most = num_classes if to_class is None else len(to_class)
    if ((labels < 0) | (labels >= most))[counted].any():
        raise DataError(
            f"Labels must be from 0 to {most - 1}, or {NO_LABEL} to be left out, got {labels[counted].min()} to "
            f"{labels[counted].max()}."
        )
    return labels if to_class is None else torch.where(counted, to_class[labels.clamp(min=0)], labels)
