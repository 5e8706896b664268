"""DINO's loss and center against loops over pairs in float64; over two processes against one."""

import pytest
import torch
from accelerate import Accelerator

from sima_hf.training.self_supervision.loss import DINOLoss
from tests.helpers.joined_processes import run_joined


B, V, K = 3, 5, 7


def outputs(seed=0, batch=B):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(V * batch, K, generator=generator), torch.randn(2 * batch, K, generator=generator)


def reference(student, teacher, center, temperature):
    """Sum over pairs of crops, one by one, of the original's script."""
    student, teacher, center = student.double(), teacher.double(), center.double()
    total, terms = 0.0, 0
    for t, target in enumerate(teacher.chunk(2)):
        q = torch.softmax((target - center) / temperature, dim=-1)
        for s, answer in enumerate(student.chunk(V)):
            if s == t:
                continue
            total += torch.sum(-q * torch.log_softmax(answer / 0.1, dim=-1), dim=-1).mean()
            terms += 1
    return total / terms


@pytest.mark.parametrize("temperature", [0.04, 0.3])
def test_the_loss_and_its_gradient(temperature):
    student, teacher = outputs()
    loss = DINOLoss(K)
    loss.center.copy_(torch.linspace(-0.4, 0.5, K))
    student.requires_grad_()
    again = student.detach().double().requires_grad_()
    found, wanted = loss(student, teacher, temperature), reference(again, teacher, loss.center, temperature)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    gradient, goal = torch.autograd.grad(found, student)[0], torch.autograd.grad(wanted, again)[0]
    torch.testing.assert_close(gradient.double(), goal, rtol=1e-4, atol=1e-6)


def test_entropy_of_the_teacher():
    student, teacher = outputs()
    loss = DINOLoss(K)
    loss(student, teacher, 0.3)
    q = (teacher.double() / 0.3).softmax(-1)
    assert loss.teacher_entropy.item() == pytest.approx(-(q * q.log()).sum(-1).mean().item(), rel=1e-5)
    loss(student, torch.zeros_like(teacher), 0.3)
    assert loss.teacher_entropy.item() == pytest.approx(torch.tensor(float(K)).log().item(), rel=1e-6)


def test_the_center_is_an_average_over_steps_and_their_micro_batches():
    loss, accelerator, wanted = DINOLoss(K, center_momentum=0.9), Accelerator(cpu=True), torch.zeros(K).double()
    for step in range(3):
        parts = [outputs(10 * step + part) for part in range(2)]
        for student, teacher in parts:
            before = loss.center.clone()
            loss(student, teacher, 0.04)
            assert torch.equal(loss.center, before)  # it changes with the optimizer's step
        loss.update_center(accelerator)
        wanted = 0.9 * wanted + 0.1 * torch.cat([teacher for _, teacher in parts]).double().mean(0)
        torch.testing.assert_close(loss.center.double(), wanted, rtol=1e-5, atol=1e-6)


def own_share():
    """Two steps of the center, with this process's images of each."""
    accelerator = Accelerator(cpu=True)
    loss, losses = DINOLoss(K), []
    for step in range(2):
        student, teacher = outputs(step, batch=4)
        if accelerator.num_processes > 1:
            student, teacher = (
                one.view(-1, 4, K)[:, accelerator.process_index :: accelerator.num_processes].reshape(-1, K)
                for one in (student, teacher)
            )
        losses.append(loss(student, teacher, 0.04).item())
        loss.update_center(accelerator)
    return loss.center.tolist(), losses


def test_two_processes_have_the_center_and_the_loss_of_one(tmp_path):
    center, losses = own_share()
    codes, found = run_joined(own_share, processes=2, folder=tmp_path)
    assert codes == [0, 0], found
    for one, _ in found:
        assert one == pytest.approx(center, rel=1e-5, abs=1e-6)
    means = [sum(pair) / 2 for pair in zip(*(one for _, one in found), strict=True)]
    assert means == pytest.approx(losses, rel=1e-5)


def test_the_center_is_in_the_state():
    loss = DINOLoss(K)
    loss(*outputs(), 0.04)
    loss.update_center(Accelerator(cpu=True))
    assert list(loss.state_dict()) == ["center"]
    assert loss.state_dict()["center"].any()
