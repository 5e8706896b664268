"""DINO's loss between views, and the center that keeps the teacher's output from collapsing onto one dimension."""

import torch
from accelerate import Accelerator
from torch import nn


GLOBAL_CROPS = 2


class DINOLoss(nn.Module):
    """Cross-entropy of the student's distribution of every crop with the teacher's of every other global crop.

        mean over pairs (t, s), t != s, of  -sum_k softmax((teacher_t - center) / T)_k log softmax(student_s / student_T)_k

    These softmaxes are over the dimensions of the head's output, no attention, and are gone with the head when the encoder is
    saved. The center is an average over steps of the teacher's mean output, over both global crops of all images of a step, on
    all processes and in all micro-batches.

    Args:
        out_dim: K.
        student_temperature: of the student.
        center_momentum: share of the center that stays at each step.

    Attributes:
        center: `(K,)`, float32.
        teacher_entropy: of the last teacher's distributions, their mean, in nats: log K where all is uniform, 0 where each is
            one dimension.
    """

    def __init__(self, out_dim: int, student_temperature: float = 0.1, center_momentum: float = 0.9):
        super().__init__()
        self.student_temperature, self.center_momentum = student_temperature, center_momentum
        self.register_buffer("center", torch.zeros(out_dim))
        self.register_buffer("_sum", torch.zeros(out_dim), persistent=False)
        self._count = 0
        self.teacher_entropy = torch.tensor(0.0)

    def forward(self, student: torch.Tensor, teacher: torch.Tensor, teacher_temperature: float) -> torch.Tensor:
        """The loss, a float32 scalar; the teacher's output is noted for the center.

        Args:
            student: `(V * B, K)`, the global crops first, crop by crop.
            teacher: `(2 * B, K)`, without gradients, in the same order.
            teacher_temperature: T.
        """
        teacher = teacher.detach().float()
        targets = ((teacher - self.center) / teacher_temperature).softmax(-1).unflatten(0, (GLOBAL_CROPS, -1))
        batch = targets.shape[1]
        found = (student.float() / self.student_temperature).log_softmax(-1).unflatten(0, (-1, batch))
        pairs = -(targets.flatten(1) @ found.flatten(1).T) / batch  # (2, V)
        pairs.diagonal().zero_()  # a crop is not compared with itself
        self.teacher_entropy = -torch.xlogy(targets, targets).sum(-1).mean()
        self._sum += teacher.sum(0)
        self._count += len(teacher)
        return pairs.sum() / (pairs.numel() - GLOBAL_CROPS)

    @torch.no_grad()
    def update_center(self, accelerator: Accelerator) -> None:
        """Take what was noted since the last time into the center; all processes call it together, after the optimizer's step."""
        total = torch.cat([self._sum, self._sum.new_tensor([self._count])])
        total = accelerator.reduce(total, "sum")
        self.center.lerp_(total[:-1] / total[-1], 1 - self.center_momentum)
        self._sum.zero_()
        self._count = 0
