"""Attention matching against its formula in float64: what it sees, what it refuses, what it leaves behind."""

import copy
import datetime
import os

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import SwinConfig, SwinForImageClassification, ViTConfig, ViTForImageClassification

import sima_hf
from sima_hf.errors import TrainingError
from sima_hf.training.distillation.attention_matching import AttentionMatching
from sima_hf.training.distillation.loss import distillation_loss


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
LAYERS = [f"vit.layers.{index}.attention" for index in range(3)]


def vit(**changes):
    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(**{**SIZES, **changes})).eval()


def pair(make=vit):
    teacher = make()
    return sima_hf.patch_model(copy.deepcopy(teacher)), teacher


def images(batch=4, side=12):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


def outputs_of(model, names, pixels):
    """What modules return, gathered here and not by the class under test."""
    seen, handles = {}, []
    for name in names:
        module = model.get_submodule(name)
        handles.append(module.register_forward_hook(lambda _, args, out, name=name: seen.update({name: out[0]})))
    model(pixels)
    for handle in handles:
        handle.remove()
    return [seen[name].detach().double() for name in names]


def matched(matching, student, teacher, pixels):
    with matching.recording():
        student(pixels)
        with torch.no_grad():
            teacher(pixels)
    return matching.loss()


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize(
    "make",
    [vit, lambda: SwinForImageClassification(SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[2, 1], num_heads=[2, 2], window_size=4)).eval()],
    ids=["vit", "swin"],
)  # fmt: skip
def test_attention_matching_is_the_formula(make):
    student, teacher = pair(make)
    pixels = images(side=student.config.image_size)
    with AttentionMatching(student, teacher, weight=3.0) as matching:
        found = matched(matching, student, teacher, pixels)
        found.backward()
    # The attention modules by their class's name, a route that the package does not take.
    names = [
        name for name, module in teacher.named_modules() if type(module).__name__ in ("ViTAttention", "SwinAttention")
    ]
    assert matching.names == names
    assert len(names) == 3
    pairs = zip(outputs_of(student, names, pixels), outputs_of(teacher, names, pixels), strict=True)
    layers = [((own - goal).square().mean() / goal.var(correction=0)).item() for own, goal in pairs]
    assert found.item() == pytest.approx(3.0 * sum(layers) / 3, rel=1e-5)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    # The last layer's attention is the last thing that the loss depends on.
    first, last = student.get_submodule(names[0]), student.get_submodule(names[-1])
    assert first.o_proj.weight.grad.abs().sum() > 0
    assert last.o_proj.weight.grad.abs().sum() > 0
    assert student.classifier.weight.grad is None


def test_a_model_matches_itself():
    teacher = vit()
    student, other = pair()
    with AttentionMatching(student, other) as matching:
        assert matched(matching, student, other, images()) > 0.1
    with AttentionMatching(student, copy.deepcopy(student)) as matching:
        assert matched(matching, student, matching.teacher, images()).item() == 0
    assert hooks(teacher) == 0


def test_hooks_go_also_after_an_error_and_keep_nothing():
    student, teacher = pair()
    matching = AttentionMatching(student, teacher)

    def break_off():
        with matching, matching.recording():
            assert hooks(student) == hooks(teacher) == 3
            student(images())
            student(images(side=16))

    with pytest.raises(ValueError, match="size"):
        break_off()
    assert hooks(student) == hooks(teacher) == 0
    assert not any(matching._seen)
    with matching:
        student(images())  # not recorded: an evaluation
        assert not any(matching._seen)
        matched(matching, student, teacher, images())
        assert not any(matching._seen)


def test_checkpointing_gives_the_same_gradients_or_is_refused():
    student, teacher = pair()
    student.train()
    gradients = []
    for checkpointing in (None, False, True):
        student.zero_grad()
        if checkpointing is not None:
            student.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        with AttentionMatching(student, teacher) as matching:
            if checkpointing:
                with pytest.raises(TrainingError, match="use_reentrant"):
                    matched(matching, student, teacher, images())
                break
            matched(matching, student, teacher, images()).backward()
            assert not any(matching._seen)
        gradients.append({name: gradient.clone() for name, gradient in gradients_of(student).items()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.mark.slow
def test_a_compiled_student_is_seen_without_a_graph_break():
    student, teacher = pair()
    pixels = images()
    with AttentionMatching(student, teacher) as matching:
        expected = matched(matching, student, teacher, pixels)
        compiled = torch.compile(student, backend="aot_eager", fullgraph=True)
        for _ in range(2):
            found = matched(matching, compiled, teacher, pixels)
        torch.testing.assert_close(found, expected)
        found.backward()
        with torch.no_grad():
            compiled(pixels)
        assert not any(matching._seen)
    assert student.get_submodule(LAYERS[2]).o_proj.weight.grad.abs().sum() > 0


def test_half_precision_is_compared_in_float32():
    student, teacher = pair()
    with AttentionMatching(student, teacher) as matching:
        expected = matched(matching, student, teacher, images())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = matched(matching, student, teacher, images())
    assert found.dtype == torch.float32
    assert found.item() != expected.item()
    assert found.item() == pytest.approx(expected.item(), rel=3e-2)


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        (lambda: vit(num_hidden_layers=2), "'vit.layers.2.attention'.*no such layer"),
        (lambda: vit(hidden_size=24), "'vit.layers.0.attention'.*other shapes"),
    ],
    ids=["fewer", "wider"],
)
def test_a_teacher_without_the_same_layers_is_refused(teacher, words):
    with pytest.raises(TrainingError, match=words):
        AttentionMatching(pair()[0], teacher())


def test_other_refusals():
    student, teacher = pair()
    with pytest.raises(TrainingError, match="ViTForImageClassification has no attention that was swapped"):
        AttentionMatching(teacher, teacher)
    native = sima_hf.SimAForImageClassification(sima_hf.SimAConfig(hidden_size=16, num_hidden_layers=1))
    with pytest.raises(TrainingError, match="no attention that was swapped"):
        AttentionMatching(native, teacher)
    with pytest.raises(ValueError, match="above 0"):
        AttentionMatching(student, teacher, weight=0.0)
    matching = AttentionMatching(student, teacher)
    with pytest.raises(TrainingError, match="no hooks"), matching.recording():
        pass
    with matching:
        with pytest.raises(TrainingError, match="has not seen"):
            matching.loss()
        with matching.recording():
            student(images())
        with pytest.raises(TrainingError, match=r"has not seen 'vit.layers.0.attention'"):
            matching.loss()
        with matching.recording():
            student(images())
            teacher(images(side=16), interpolate_pos_encoding=True)
        with pytest.raises(TrainingError, match=r"\(4, 10, 16\) in the student and \(4, 17, 16\)"):
            matching.loss()


def losses_of(student, teacher, pixels, forward=None):
    """The whole loss of a step, and its gradient left in the student."""
    with AttentionMatching(student, teacher, 2.0) as matching:
        with matching.recording():
            answers = (forward or student)(pixels).logits
            with torch.no_grad():
                wanted = teacher(pixels).logits
        loss = distillation_loss(answers, wanted, "soft", 2.0) + matching.loss()
    loss.backward()
    return loss.detach()


# A process group of gloo that goes right after its last work can wait for itself for ever, or abort the process (seen with torch
# 2.13: its destructor holds the interpreter's lock, which the destructor of the work needs). So the groups here never go.
ALIVE = []


def work(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=90)
    )
    try:
        student, teacher = pair()
        wrapped = DistributedDataParallel(student)
        loss = losses_of(student, teacher, images(6)[3 * rank : 3 * rank + 3], wrapped)
        ALIVE.extend([torch.distributed.group.WORLD, wrapped])
        torch.distributed.all_reduce(loss)
    finally:
        torch.distributed.destroy_process_group()
    return loss / 2, gradients_of(student)


def other_process(folder):
    work(1, folder)
    os._exit(0)


def gradients_of(model):
    return {name: x.grad for name, x in model.named_parameters() if x.grad is not None}


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """DistributedDataParallel, half of the images each: the same loss and gradient as all images at once."""
    # A second process is enough: this one is the first.
    other = torch.multiprocessing.get_context("spawn").Process(target=other_process, args=(str(tmp_path),))
    other.start()
    found, gradients = work(0, str(tmp_path))
    other.join()
    assert other.exitcode == 0
    student, teacher = pair()
    assert found.item() == pytest.approx(losses_of(student, teacher, images(6)).item(), rel=1e-6)
    expected = gradients_of(student)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
