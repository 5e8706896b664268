"""Cross entropy with labels and with soft targets, against the literal formula in float64."""

import pytest
import torch

from sima_hf.training.recipe.losses import soft_cross_entropy


def literal(logits, targets):
    logits = logits.double()
    logs = logits - torch.log(torch.exp(logits - logits.amax(1, True)).sum(1, True)) - logits.amax(1, True)
    if targets.is_floating_point():
        return -(targets.double() * logs).sum(1).mean()
    rows = [-logs[i, t] for i, t in enumerate(targets.tolist()) if t != -100]
    return torch.stack(rows).mean() if rows else torch.zeros(())


def examples(dtype=torch.float32):
    logits = (4 * torch.randn(7, 5)).to(dtype)
    soft = torch.rand(7, 5)
    return logits, torch.tensor([0, 4, -100, 2, -100, 1, 3]), soft / soft.sum(1, keepdim=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_agrees_with_the_formula(dtype):
    logits, labels, soft = examples(dtype)
    for targets in (labels, soft, soft.double()):
        found = soft_cross_entropy(logits, targets)
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        tolerance = 1e-12 if dtype == torch.float64 else 1e-6
        torch.testing.assert_close(found.double(), literal(logits, targets), rtol=tolerance, atol=0)


def test_gradient_agrees_with_finite_differences():
    logits, labels, soft = examples(torch.float64)
    for targets in (labels, soft.double()):
        assert torch.autograd.gradcheck(lambda x, t=targets: soft_cross_entropy(x, t), logits.requires_grad_())


def test_one_hot_targets_are_labels():
    logits, labels, _ = examples()
    counted = labels >= 0
    torch.testing.assert_close(
        soft_cross_entropy(logits, labels), soft_cross_entropy(logits[counted], torch.eye(5)[labels[counted]])
    )


def test_nothing_counted_is_a_loss_of_zero():
    logits = torch.randn(3, 4, requires_grad=True)
    loss = soft_cross_entropy(logits, torch.full((3,), -100))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros(3, 4))


def test_half_precision_keeps_small_probabilities():
    """log softmax in float16 would give -inf here, or lose the small differences."""
    logits = torch.tensor([[15.0, 0.0, -2.0]], dtype=torch.float16)
    found = soft_cross_entropy(logits, torch.tensor([0]))
    assert found.item() == pytest.approx(literal(logits, torch.tensor([0])).item(), rel=0.2, abs=0)


def test_wrong_shapes_are_refused():
    logits, labels, soft = examples()
    for targets in (labels[:6], soft[:, :4], labels[:, None], soft[:, 0]):
        with pytest.raises(ValueError, match=r"need class indices of shape \(B,\)"):
            soft_cross_entropy(logits, targets)
