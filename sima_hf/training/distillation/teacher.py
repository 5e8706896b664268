"""A frozen teacher that sees what its own image processor would have made of the student's images, and answers in its classes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ...data.processors import measure_processor
from ...errors import DataError
from ...evaluation.classifiers import match_names
from ..recipe.resolution import resize


_BY_ORDER = "If class i of the teacher is class i of the student under another name, match them by order (--teacher_labels order)."
# Two normalizations that are this close are the same, and the images are handed on bit for bit.
_SAME = 1e-6


class Teacher:
    """Any image classifier, frozen, in evaluation mode, without gradients.

    It is not a module: it is no part of a model that it is assigned to, of its checkpoints, or of what DDP, FSDP or an average
    of weights see.

    Args:
        model: a classifier whose output has `logits`, such as any of Transformers. It is frozen and set to evaluation in place.
        mean, std: the teacher's normalization of pixels from 0 to 1, a number for each channel.
        image_size: side in pixels, or (height, width), of the images that the teacher takes; None: any.
        student_mean, student_std: normalization of the images that come. None: the teacher's own.
        student_labels: the student's class names in order. None: logits as the teacher has them.
        match_labels: "name", by the names in the teacher's `config.id2label`; or "order", class i is class i, where the names
            say the same in other words.
        dtype: floating type in which the teacher computes, by autocast; float32 switches autocast off; None leaves it as it is
            around the call. Parameters keep their type.
        flip_channels: the teacher takes blue first.

    Raises:
        DataError: the teacher lacks a class of the student, or names do not tell which is which.
        ValueError: means and deviations that do not belong together.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int | tuple[int, int] | None = None,
        *,
        student_mean: Sequence[float] | None = None,
        student_std: Sequence[float] | None = None,
        student_labels: Sequence[str] | None = None,
        match_labels: str = "name",
        dtype: torch.dtype | None = None,
        flip_channels: bool = False,
    ):
        self.model = model.eval().requires_grad_(False)
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.dtype, self.flip_channels = dtype, flip_channels
        self.mean, self.std = mean, std
        self.expect(mean if student_mean is None else student_mean, std if student_std is None else student_std)
        self.classes = None
        if student_labels is not None:
            self.classes = class_indices(list(student_labels), _labels(model.config), match_labels)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        student_processor: Any,
        student_config: Any,
        *,
        image_size: int | None = None,
        match_labels: str | None = "name",
        dtype: torch.dtype | None = None,
        **kwargs,
    ) -> "Teacher":
        """A teacher from a folder or the Hub, with its own image processor.

        Args:
            name: folder or Hub name of a classifier and its image processor.
            student_processor: the student's image processor, whose normalization the images will have.
            student_config: the student's config, of which `id2label` is read.
            image_size: side in pixels at which the teacher is to work, its position embeddings stretched to it; by default the
                size that its processor makes. Attention can be matched at the student's only.
            match_labels: as above; None: return the teacher's logits unmapped; class names are not checked.
            dtype: as above.
            kwargs: for `from_pretrained` of both, such as `revision`, `token`, `trust_remote_code`.

        Raises:
            OSError: there is no such model, or it has no image processor.
            DataError: as above, or a processor that does more than scale and shift colors.
        """
        # From its own file: the one at the top wants torchvision in older Transformers.
        from transformers import AutoModelForImageClassification
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        model = AutoModelForImageClassification.from_pretrained(name, **kwargs)
        if image_size is not None:
            model = resize(model, image_size)
        mean, std, size, flipped = measure_processor(AutoImageProcessor.from_pretrained(name, **kwargs))
        student_mean, student_std, *_ = measure_processor(student_processor)
        return cls(
            model,
            mean,
            std,
            image_size or size,
            student_mean=student_mean,
            student_std=student_std,
            student_labels=_labels(student_config) if match_labels else None,
            match_labels=match_labels or "name",
            dtype=dtype,
            flip_channels=flipped,
        )

    def expect(self, student_mean: Sequence[float], student_std: Sequence[float]) -> None:
        """Take images that were normalized by these numbers from now on; `SimADistillationTrainer` says so with its own."""
        self.scale, self.shift = _change_of_normalization(self.mean, self.std, student_mean, student_std)

    def to(self, device: torch.device | str) -> "Teacher":
        """Move it, in place."""
        self.model.to(device)
        return self

    def view(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The student's images `(B,C,H,W)` as the teacher takes them, `(B,C,H',W')` float32.

        Normalization is exact and linear, also for values that no image has (erased by noise). Another size is bicubic with
        antialiasing; values beyond black and white, by which it overshoots at edges, stay.
        """
        pixels = pixel_values.float()
        if self.scale is not None:
            scale, shift = (x.to(pixels)[:, None, None] for x in (self.scale, self.shift))
            pixels = pixels * scale + shift
        if self.image_size is not None and tuple(pixels.shape[-2:]) != tuple(self.image_size):
            pixels = F.interpolate(
                pixels, size=tuple(self.image_size), mode="bicubic", antialias=True, align_corners=False
            )
        return pixels.flip(1) if self.flip_channels else pixels

    @torch.no_grad()
    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits `(B,K)` float32 in the order of the student's classes, for images `(B,C,H,W)` normalized as the student's."""
        pixels, device = self.view(pixel_values), pixel_values.device.type
        parameter = next(self.model.parameters(), pixels)
        enabled = torch.is_autocast_enabled(device) if self.dtype is None else self.dtype != torch.float32
        with torch.autocast(device, dtype=None if self.dtype == torch.float32 else self.dtype, enabled=enabled):
            logits = self.model(pixels.to(parameter.dtype)).logits.float()
        return logits if self.classes is None else logits[:, self.classes.to(logits.device)]


def _change_of_normalization(mean, std, student_mean, student_std) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Scale and shift `(C,)` float64 from the student's normalized values to the teacher's; None twice if they are the same."""
    given = {"mean": mean, "std": std, "student_mean": student_mean, "student_std": student_std}
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in given.items()}
    if len({value.shape for value in values.values()}) > 1 or not all(
        (values[x] > 0).all() for x in given if "std" in x
    ):
        raise ValueError(
            "Means and standard deviations must have one number for each channel, deviations above 0, got "
            f"{', '.join(f'{name} {list(value)}' for name, value in given.items())}."
        )
    scale = values["student_std"] / values["std"]
    shift = (values["student_mean"] - values["mean"]) / values["std"]
    if (scale - 1).abs().max() < _SAME and shift.abs().max() < _SAME:
        return None, None
    return scale, shift


def class_indices(student: list[str], teacher: list[str], match: str = "name") -> torch.Tensor | None:
    """For each class of the student, its index among the teacher's, `(K,)` int64; None if they are the same in order.

    Names agree regardless of case, `_` for a space and how accents are written. The teacher may have more classes; its logits are then compared among
    the student's.

    Raises:
        DataError: the teacher lacks classes of the student, or a name that it must be found by stands for several.
        ValueError: an unknown `match`.
    """
    if match not in ("name", "order"):
        raise ValueError(f"Classes are matched by 'name' or 'order', got {match!r}.")
    if match == "order" and len(student) != len(teacher):
        raise DataError(
            f"Classes can be matched by order where there are as many, but the student has {len(student)} and the teacher "
            f"{len(teacher)}."
        )
    if match == "order" or student == teacher:
        return None
    return torch.tensor(match_names(teacher, student, ("teacher", "student"), _BY_ORDER))


def _labels(config: Any) -> list[str]:
    names = {int(index): str(name) for index, name in config.id2label.items()}
    return [names[index] for index in sorted(names)]
