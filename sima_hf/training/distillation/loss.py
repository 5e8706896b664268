"""What a student learns from a teacher's answers: DeiT's loss, which SimA's original training script takes over.

Source: Touvron et al., arXiv 2012.12877, eq. 2 and 3.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F


KINDS = ("none", "soft", "hard")


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"The kind of distillation must be one of {', '.join(KINDS)}, got {kind!r}.")


@dataclass(frozen=True)
class DistillationLoss:
    """`(1 - alpha) * base + alpha * distillation`; for kind "none" the base alone.

    Attributes:
        kind: "none"; "soft", the teacher's distribution at temperature `tau`; "hard", the teacher's decision.
        alpha: weight of the teacher, from 0 to 1.
        tau: temperature of "soft", above 0; "hard" does not use it.

    Raises:
        ValueError: a value outside of these.
    """

    kind: str = "none"
    alpha: float = 0.5
    tau: float = 1.0

    def __post_init__(self):
        _check_kind(self.kind)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"The weight of distillation, alpha, must be from 0 to 1, got {self.alpha}.")
        if not 0 < self.tau < float("inf"):
            raise ValueError(f"The temperature of distillation, tau, must be above 0, got {self.tau}.")

    def heads(self, output: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `(B,K)` for the labels, and those for the teacher, from a student's output.

        A student with two heads (DeiT's and LeViT's "with teacher") answers the labels with one and the teacher with the
        other. Without a teacher both learn from the labels, by the mean that evaluation reads, so that no head stays untrained.

        Args:
            output: what a Transformers classifier returns, with `logits`, and `cls_logits` and `distillation_logits` if it
                has two heads.
        """
        teacher_logits = getattr(output, "distillation_logits", None)
        if self.kind == "none" or teacher_logits is None:
            return output.logits, output.logits
        return output.cls_logits, teacher_logits

    def __call__(
        self, base_loss: torch.Tensor, student_logits: torch.Tensor, teacher_logits: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The loss to minimize and its distillation part, both scalars; None for the part of kind "none".

        Args:
            base_loss: scalar, the loss from the labels.
            student_logits: `(B,K)`, of the head that learns from the teacher.
            teacher_logits: `(B,K)`, the same classes in the same order; not read for kind "none".

        Raises:
            ValueError: the logits do not belong together.
        """
        if self.kind == "none":
            return base_loss, None
        part = distillation_loss(student_logits, teacher_logits, self.kind, self.tau)
        return (1 - self.alpha) * base_loss + self.alpha * part, part


def distillation_loss(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, kind: str = "soft", tau: float = 1.0
) -> torch.Tensor:
    """How far a student's answers are from its teacher's, a scalar in float32 (float64 for float64 inputs).

    Soft: the sum of `KL(teacher || student)`, both softened by `tau`, times `tau^2`, over the *number of logits* `B K`, as in
    the original; the mean over images is this times K, so that soft needs a larger `alpha` the more classes there are.
    Hard: cross-entropy with the teacher's most likely class, mean over images; the first of equals.

    Args:
        student_logits, teacher_logits: `(B,K)`, any floating dtype. The teacher's get no gradient.
        kind: "soft" or "hard".
        tau: temperature of "soft".

    Raises:
        ValueError: unknown kind ("none" has no distillation), or shapes that differ.
    """
    _check_kind(kind)
    if kind == "none":
        raise ValueError("Without distillation there is no distillation loss: the kind must be 'soft' or 'hard'.")
    if teacher_logits is None or student_logits.shape != teacher_logits.shape:
        came = None if teacher_logits is None else tuple(teacher_logits.shape)
        raise ValueError(
            f"Student and teacher must answer with logits of the same shape, got {tuple(student_logits.shape)} from the "
            f"student and {came} from the teacher."
        )
    student, teacher = at_least_float32(student_logits), at_least_float32(teacher_logits.detach())
    if kind == "hard":
        return F.cross_entropy(student, teacher.argmax(dim=-1))
    student, teacher = (F.log_softmax(logits / tau, dim=-1) for logits in (student, teacher))
    return F.kl_div(student, teacher, reduction="sum", log_target=True) * (tau**2 / student.numel())


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of any shape in float32, or in float64 if that is what it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
