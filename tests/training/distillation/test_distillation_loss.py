"""Losses of distillation against the formulas in float64."""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

from sima_hf.training.distillation.loss import DistillationLoss, distillation_loss


SIZES = {
    "image_size": 12,
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": 5,
    "initializer_range": 0.3,
}


def soft_by_the_letter(student, teacher, tau):
    """Number by number in Python's float64: sum of p (log p - log q) at temperature tau, times tau^2, over B K."""
    total = 0.0
    for own, goal in zip(student.tolist(), teacher.tolist(), strict=True):
        log_q, log_p = ([x / tau - math.log(sum(math.exp(y / tau) for y in row)) for x in row] for row in (own, goal))
        total += sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True))
    return total * tau**2 / student.numel()


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_soft_is_the_formula(dtype, tau):
    student, teacher = (3 * torch.randn(5, 7, dtype=torch.float64).to(dtype) for _ in range(2))
    found = distillation_loss(student, teacher, "soft", tau)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = soft_by_the_letter(student.double(), teacher.double(), tau)
    assert found.item() == pytest.approx(expected, rel=1e-12 if dtype == torch.float64 else 2e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_hard_is_the_formula(dtype):
    student, teacher = (3 * torch.randn(5, 7, dtype=torch.float64).to(dtype) for _ in range(2))
    rows = zip(student.double().tolist(), teacher.double().tolist(), strict=True)
    by_image = [math.log(sum(map(math.exp, own))) - own[goal.index(max(goal))] for own, goal in rows]
    assert distillation_loss(student, teacher, "hard").item() == pytest.approx(sum(by_image) / 5, rel=2e-6)


def test_gradient_of_soft_reaches_the_student_alone():
    student, teacher = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    distillation_loss(student, teacher, "soft", 2.0).backward()
    expected = 2.0 / 15 * ((student / 2).softmax(-1) - (teacher / 2).softmax(-1))
    torch.testing.assert_close(student.grad, expected)
    assert teacher.grad is None


def test_both_kinds_agree_with_a_teacher_who_is_sure():
    """Soft is hard over the number of classes then, which is where the two scales differ."""
    student = torch.randn(3, 5, dtype=torch.float64)
    teacher = 1e3 * torch.eye(5, dtype=torch.float64)[[1, 4, 0]]
    assert distillation_loss(student, teacher, "soft").item() == pytest.approx(
        distillation_loss(student, teacher, "hard").item() / 5
    )


def test_alpha_weighs_the_two():
    base, student, teacher = torch.tensor(3.0), torch.randn(2, 4), torch.randn(2, 4)
    for kind in ("soft", "hard"):
        loss, part = DistillationLoss(kind, alpha=0.25, tau=2.0)(base, student, teacher)
        assert part.item() == pytest.approx(distillation_loss(student, teacher, kind, 2.0).item())
        assert loss.item() == pytest.approx(0.75 * 3.0 + 0.25 * part.item())
    assert DistillationLoss("none", alpha=0.25)(base, student, None) == (base, None)


def test_two_heads_learn_from_labels_and_from_the_teacher():
    torch.manual_seed(0)
    output = DeiTForImageClassificationWithTeacher(DeiTConfig(**SIZES)).eval()(torch.randn(2, 3, 12, 12))
    base, distilled = DistillationLoss("soft").heads(output)
    assert base is output.cls_logits
    assert distilled is output.distillation_logits
    assert not torch.equal(base, distilled)
    both = DistillationLoss("none").heads(output)
    torch.testing.assert_close(both[0], (base + distilled) / 2)
    plain = SimpleNamespace(logits=torch.randn(2, 3))
    assert all(logits is plain.logits for logits in DistillationLoss("hard").heads(plain))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("Soft",), "none, soft, hard"), (("soft", 1.5), "alpha"), (("soft", 0.5, 0.0), "tau")],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        DistillationLoss(*arguments)


def test_logits_must_belong_together():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="None"):
        DistillationLoss("soft")(torch.tensor(0.0), torch.zeros(2, 3), None)
