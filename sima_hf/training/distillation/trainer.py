"""`SimADistillationTrainer`: SimA's training with a teacher that answers the same images."""

import contextlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ...errors import TrainingError
from ..arguments import ModelArguments, SimATrainingArguments
from ..trainer import SimATrainer
from .attention_matching import AttentionMatching
from .loss import KINDS, DistillationLoss
from .teacher import Teacher


TEACHER_DTYPES = {
    "auto": None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass
class DistillationArguments:
    """Who teaches, and what the student learns from it. The defaults of the loss are those of the original script.

    Raises:
        ValueError: a choice that there is not, or a number outside of its range, by the name of the argument.
    """

    teacher_model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Image classifier that teaches, folder or Hub name; by default what --patch names."},
    )
    distillation_type: str = field(
        default="none",
        metadata={"help": "From the teacher's answers: 'none', 'soft' (its distribution) or 'hard' (its decision)."},
    )
    distillation_alpha: float = field(default=0.5, metadata={"help": "Weight of the teacher's answers, 0 to 1."})
    distillation_tau: float = field(default=1.0, metadata={"help": "Temperature of soft distillation."})
    attention_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of matching attention outputs layer by layer; for a swapped model and its original."
        },
    )
    teacher_labels: str = field(
        default="name",
        metadata={"help": "How the teacher's classes are the student's: by 'name', or by 'order' under other names."},
    )
    teacher_dtype: str = field(
        default="auto",
        metadata={"help": "Type the teacher computes in: float32, bfloat16, float16; 'auto' is that of the training."},
    )

    def __post_init__(self):
        choices = {"distillation_type": KINDS, "teacher_labels": ("name", "order"), "teacher_dtype": TEACHER_DTYPES}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"--{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")
        if not 0 <= self.distillation_alpha <= 1:
            raise ValueError(f"--distillation_alpha must be from 0 to 1, got {self.distillation_alpha}.")
        if not 0 < self.distillation_tau < float("inf"):
            raise ValueError(f"--distillation_tau must be above 0, got {self.distillation_tau}.")
        if not 0 <= self.attention_weight < float("inf"):
            raise ValueError(f"--attention_weight must not be negative, got {self.attention_weight}.")

    @property
    def needs_teacher(self) -> bool:
        """Whether anything is learnt from a teacher."""
        return self.distillation_type != "none" or self.attention_weight > 0


def build_teacher(
    arguments: DistillationArguments,
    model_args: ModelArguments,
    student: PreTrainedModel,
    processor: Any,
    image_size: int,
) -> Teacher | None:
    """The teacher that the arguments ask for, with its own image processor; None if nothing is learnt from one.

    Without a name it is the model that `--patch` names, with softmax. Where attention is matched it works at the student's
    resolution, else at its own. Its classes matter only where its answers do.

    Args:
        arguments: who teaches, and what.
        model_args: read for `--patch` and for how the Hub is asked.
        student: the model to be trained, of whose config the names of classes are read.
        processor: the student's image processor, whose normalization the images will have.
        image_size: the student's resolution in pixels.

    Raises:
        ValueError: a teacher is needed and none is named.
        DataError: it does not know the student's classes, or its image processor does more than normalize.
        OSError: there is no such model, or it has no image processor.
    """
    if not arguments.needs_teacher:
        return None
    name = arguments.teacher_model_name_or_path or model_args.patch
    if not name:
        raise ValueError(
            "No teacher given: pass --teacher_model_name_or_path (with --patch, the model that is swapped is the default)."
        )
    hub = model_args.hub_options
    if name != model_args.patch:
        del hub["revision"]  # is the student's
    return Teacher.from_pretrained(
        name,
        processor,
        student.config,
        image_size=image_size if arguments.attention_weight else None,
        match_labels=None if arguments.distillation_type == "none" else arguments.teacher_labels,
        dtype=TEACHER_DTYPES[arguments.teacher_dtype],
        **hub,
    )


class SimADistillationTrainer(SimATrainer):
    """`SimATrainer` whose loss in training is

        (1 - alpha) * cross-entropy + alpha * distillation + attention_weight * attention

    with the parts that are asked for. The teacher sees the augmented images that the student sees. Evaluation measures the
    student alone. The record of the loss has its parts as well: `base_loss`, `distillation_loss`, `attention_loss` (before their
    weights), mean over the steps since the last record and over processes.

    The teacher is moved to the device and otherwise left alone: it is not wrapped, averaged, saved or resumed.

    Args:
        model, args, image_mean, image_std: as for `SimATrainer`.
        teacher: a `Teacher`, which is told the normalization of the images; None where nothing is learnt from one.
        distillation_type, distillation_alpha, distillation_tau: as for `DistillationLoss`.
        attention_weight: weight of `AttentionMatching` between the student and the teacher's model; 0 is off.
        kwargs: further arguments of `SimATrainer`.

    Raises:
        TrainingError: no teacher where one is needed, or attention that cannot be matched.
        ValueError: a loss that cannot be.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: SimATrainingArguments,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        *,
        teacher: Teacher | None = None,
        distillation_type: str = "none",
        distillation_alpha: float = 0.5,
        distillation_tau: float = 1.0,
        attention_weight: float = 0.0,
        **kwargs,
    ):
        self.distillation = DistillationLoss(distillation_type, distillation_alpha, distillation_tau)
        if teacher is None and (distillation_type != "none" or attention_weight):
            raise TrainingError(
                f"Distillation ({distillation_type!r}, attention weight {attention_weight}) needs a teacher, got none."
            )
        self.matching = AttentionMatching(model, teacher.model, attention_weight) if attention_weight else None
        super().__init__(model, args, image_mean, image_std, **kwargs)
        self.teacher = teacher
        if teacher is not None:
            teacher.to(self.args.device).expect(self.image_mean, self.image_std)
        self._parts: dict[str, torch.Tensor] = {}
        self._steps = 0

    def train(self, *args, **kwargs):
        """As `SimATrainer.train`; the hooks of attention matching are there as long as it runs."""
        self._parts, self._steps = {}, 0
        with self.matching or contextlib.nullcontext():
            return super().train(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss above, float32 scalar, in training; `SimATrainer`'s in evaluation."""
        if not self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        with self.matching.recording() if self.matching else contextlib.nullcontext():
            outputs = model(**inputs)
            answers = self._ask(inputs["pixel_values"])
        logits, logits_for_teacher = self.distillation.heads(outputs)
        parts = {"base_loss": F.cross_entropy(logits.float(), labels)}
        loss, part = self.distillation(parts["base_loss"], logits_for_teacher, answers)
        if part is not None:
            parts["distillation_loss"] = part
        if self.matching:
            weighted = self.matching.loss()
            parts["attention_loss"] = weighted / self.matching.weight
            loss = loss + weighted
        self._record(parts)
        return (loss, outputs) if return_outputs else loss

    def _ask(self, pixel_values: torch.Tensor) -> torch.Tensor | None:
        """The teacher's logits, in the precision of the training where it has none of its own; None where nobody needs them."""
        if self.distillation.kind == "none" and not self.matching:
            return None
        mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision)
        with torch.autocast(pixel_values.device.type, dtype=mixed, enabled=mixed is not None):
            return self.teacher(pixel_values)

    def _record(self, parts: dict[str, torch.Tensor]) -> None:
        # Sums stay on the device: reading them would wait for it at every step.
        for name, value in parts.items():
            self._parts[name] = self._parts.get(name, 0) + value.detach().float()
        self._steps += 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `SimATrainer.log`, with the parts of the loss beside it."""
        if "loss" in logs and self._steps:
            names = list(self._parts)
            own = torch.stack([self._parts[name] for name in names]) / self._steps
            means = self.accelerator.reduce(own, "mean").tolist()
            logs = {**logs, **dict(zip(names, means, strict=True))}
            self._parts, self._steps = {}, 0
        super().log(logs, start_time)
