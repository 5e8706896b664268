"""Calibration: least squares that are least squares, options that do what they say, and no trace where it fails."""

import copy

import pytest
import torch

import sima_hf
from sima_hf.errors import CalibrationError
from tests.helpers.calibrated_models import (
    IMAGES,
    bytes_of,
    calibrated,
    digits,
    held_out,
    same_bytes,
    share_off,
    swapped,
    vit,
)
from tests.helpers.hosts.at_hand import find


def accuracy(model):
    *_, images, labels = digits()
    with torch.no_grad():
        return (model(images).logits.argmax(-1) == labels).double().mean().item()


def test_it_brings_back_what_the_swap_lost(trained):
    original, raw = accuracy(trained), accuracy(swapped(trained))
    model, report = calibrated(trained)
    assert original > 0.9
    assert raw < original - 0.2
    assert accuracy(model) > original - 0.06
    assert all(fit.after < fit.before for fit in report.fits)
    assert [fit.layer for fit in report.fits] == [
        f"vit.layers.{block}.{layer}" for block in (0, 1) for layer in ("attention.o_proj", "mlp.fc2")
    ]
    assert sima_hf.certify(model, digits()[0][:2]).softmax_free


def test_the_basis_and_the_mlp_each_explain_more(trained):
    last = {
        name: calibrated(trained, **options)[1].fits[-1].after
        for name, options in {"all": {}, "no basis": {"basis": False}}.items()
    }
    assert last["all"] < 0.9 * last["no basis"]
    _, attention_only = calibrated(trained, mlp=False)
    assert [fit.layer for fit in attention_only.fits] == [f"vit.layers.{block}.attention.o_proj" for block in (0, 1)]
    _, both = calibrated(trained)
    # The last block's attention sees a stream that the MLP before it has brought nearer to the teacher's.
    assert both.fits[2].after < attention_only.fits[1].after


def test_classifier(trained):
    model, report = calibrated(trained, classifier=True)
    without, _ = calibrated(trained)
    assert report.fits[-1].layer == "classifier"
    assert report.fits[-1].after < report.fits[-1].before
    assert not torch.equal(model.classifier.weight, trained.classifier.weight)
    assert torch.equal(without.classifier.weight, trained.classifier.weight)


def test_it_is_the_least_squares_solution(trained):
    """The first block's output layer against torch.linalg.lstsq in float64 on the same features, class token weighted."""
    images = digits()[0][:256]
    held = held_out(images)
    model, report = calibrated(trained, [images], basis=False, value=False, balance=False, mlp=False, ridge=1e-13)
    raw = swapped(trained).double()
    teacher = copy.deepcopy(trained).double()
    block, goal = raw.vit.layers[0], teacher.vit.layers[0]
    seen = {}
    block.attention.o_proj.register_forward_hook(lambda _, args, output: seen.update(x=args[0]))
    block.register_forward_hook(lambda _, args, output: seen.update(residual=args[0]))
    goal.layernorm_after.register_forward_hook(lambda _, args, output: seen.update(stream=args[0]))
    with torch.no_grad():
        raw(images.double())
        teacher(images.double())
    x = torch.cat([seen["x"], torch.ones_like(seen["x"][..., :1])], dim=-1)
    weight = torch.ones(x.shape[1], 1, dtype=torch.float64)
    weight[0] = x.shape[1] - 1
    pair = (x, seen["stream"] - seen["residual"])
    rows, wanted = ((weight.sqrt() * part[~held]).flatten(0, 1) for part in pair)
    solution = torch.linalg.lstsq(rows, wanted).solution
    found = model.vit.layers[0].attention.o_proj
    torch.testing.assert_close(found.weight.double(), solution[:-1].T, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.bias.double(), solution[-1], rtol=1e-3, atol=1e-4)
    for which, found in ((held, report.fits[0].after), (~held, report.fits[0].in_sample)):
        total = weight.expand(*x[which].shape[:2], 1).flatten(0, 1)
        centered = seen["stream"][which].flatten(0, 1)
        centered = centered - (total * centered).sum(dim=0) / total.sum()
        rows, wanted = ((weight.sqrt() * part[which]).flatten(0, 1) for part in pair)
        share = (wanted - rows @ solution).square().sum() / (total * centered.square()).sum()
        assert found == pytest.approx(share.item(), rel=1e-3)


def test_more_weight_explains_more_of_the_class_token(trained):
    errors = []
    images = digits()[0][:256]
    for weight in (1, 1000):
        model, _ = calibrated(trained, images.split(64), class_token_weight=weight, mlp=False)
        with torch.no_grad():
            own, goal = (net(images, output_hidden_states=True).hidden_states[1][:, 0] for net in (model, trained))
        errors.append((own - goal).square().mean().item())
    assert errors[1] < errors[0]


@pytest.mark.parametrize("budget", [0, 10**5], ids=["nothing", "part"])
def test_memory_budget_does_not_matter(trained, budget):
    stored, report = calibrated(trained, classifier=True)
    recomputed, other = calibrated(trained, classifier=True, memory_budget=budget)
    assert report.stored_bytes > 10**5
    assert other.stored_bytes == 0
    for name, value in stored.state_dict().items():
        torch.testing.assert_close(recomputed.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_it_is_deterministic_and_leaves_no_trace(trained):
    batches = [{"pixel_values": digits()[0][:64], "labels": digits()[1][:64]}]
    first, _ = calibrated(trained, batches)
    model, teacher = swapped(trained).train(), copy.deepcopy(trained).train()
    model.vit.layers[0].eval()
    model.classifier.weight.requires_grad_(False)
    before, names = bytes_of(teacher), [name for name, _ in model.named_parameters()]
    modes = [module.training for module in model.modules()]
    torch.manual_seed(123)  # no number that a batch could have
    state = torch.get_rng_state()
    sima_hf.calibrate(model, teacher, batches, progress=False)
    assert same_bytes(bytes_of(model), bytes_of(first))
    assert same_bytes(bytes_of(teacher), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert [name for name, _ in model.named_parameters()] == names
    assert [name for name, value in model.named_parameters() if not value.requires_grad] == ["classifier.weight"]
    assert torch.is_grad_enabled()
    assert all(value.grad is None for value in model.parameters())
    assert not any("forward" in vars(module) for module in model.modules())
    assert sima_hf.unpatch_model(model) is model


class Breaks(Exception):
    pass


class Batches(list):
    """Batches that raise at the given one, in the second passage."""

    def __init__(self, batches, error, passage=2):
        super().__init__(batches)
        self.error, self.passage, self.passed = error, passage, 0

    def __iter__(self):
        self.passed += 1
        for number, batch in enumerate(super().__iter__()):
            if self.passed >= self.passage and number == 1:
                raise self.error
            yield batch


@pytest.mark.parametrize("error", [Breaks(), KeyboardInterrupt()], ids=["exception", "interrupt"])
@pytest.mark.parametrize("passage", [2, 5], ids=["early", "late"])
def test_a_failure_in_the_middle_leaves_every_bit(trained, error, passage):
    model = swapped(trained)
    before = bytes_of(model)
    batches = Batches(digits()[0][:128].split(64), error, passage)
    with pytest.raises(type(error)):
        sima_hf.calibrate(model, trained, batches, memory_budget=0, progress=False)
    assert batches.passed == passage
    assert same_bytes(bytes_of(model), before)
    sima_hf.calibrate(model, trained, digits()[0][:128].split(64), progress=False)


def test_a_failure_while_writing_leaves_every_bit(trained, monkeypatch):
    model = swapped(trained)
    before = bytes_of(model)
    copy_, written = torch.Tensor.copy_, []
    own = {value.data_ptr() for value in model.parameters()}

    def breaks(self, *args):
        if self.data_ptr() in own:
            written.append(1)
            if len(written) == 3:
                raise Breaks
        return copy_(self, *args)

    monkeypatch.setattr(torch.nn.Parameter, "copy_", breaks, raising=False)
    with pytest.raises(Breaks):
        sima_hf.calibrate(model, trained, digits()[0][:64].split(64), progress=False)
    assert len(written) > 3
    assert same_bytes(bytes_of(model), before)


def test_not_a_number_is_a_sentence(trained):
    model = swapped(trained)
    before = bytes_of(model)
    images = digits()[0][:64].clone()
    images[3] = torch.nan
    with pytest.raises(CalibrationError, match="NaN or infinity in the batches"):
        sima_hf.calibrate(model, trained, [images], progress=False)
    assert same_bytes(bytes_of(model), before)


def test_balance_changes_no_output_bit(trained):
    """One block, so that nothing after the balance could differ: outputs are equal, and the scales nearer to the teacher's."""
    teacher = copy.deepcopy(trained)
    del teacher.vit.layers[1:]
    model, _ = calibrated(teacher)
    other, _ = calibrated(teacher, balance=False)
    images = digits()[2]
    with torch.no_grad():
        assert torch.equal(model(images).logits, other(images).logits)

    def ratios(net):
        attention = net.vit.layers[0].attention
        return attention.o_proj.weight.norm(dim=0) / attention.v_proj.weight.norm(dim=1)

    wanted = ratios(teacher)
    found, unbalanced = ((ratios(net) / wanted).log2().abs() for net in (model, other))
    assert found.max() <= 1 + 1e-4  # a power of two is the step
    assert unbalanced.max() > 2


def test_dropout_is_off():
    teacher = vit(hidden_dropout_prob=0.5)
    model, _ = calibrated(teacher, IMAGES)
    other = swapped(teacher).train()
    sima_hf.calibrate(other, teacher.train(), IMAGES, progress=False)
    assert same_bytes(bytes_of(model), bytes_of(other))


def test_half_precision_is_rounded_on_the_way(trained):
    """The MLP is fitted on top of the attention's weights as the model holds them, not as they were before the rounding."""
    teacher = copy.deepcopy(trained).bfloat16()
    images = digits()[0][:256].bfloat16()
    model, report = calibrated(teacher, [images], class_token_weight=1)
    model.vit.layers[0].mlp.fc2.load_state_dict(teacher.vit.layers[0].mlp.fc2.state_dict())
    held = images[held_out(images.float())]
    found = share_off(model, teacher, "vit.layers.0", {"pixel_values": held})
    assert found == pytest.approx(report.fits[1].before, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_calibrated_in_float32(trained, dtype):
    teacher = copy.deepcopy(trained).to(dtype)
    model, report = calibrated(teacher)
    assert {value.dtype for value in model.parameters()} == {dtype}
    assert all(fit.after < fit.before for fit in report.fits)
    images = digits()[2].to(dtype)
    with torch.no_grad():
        agree = (model(images).logits.argmax(-1) == teacher(images).logits.argmax(-1)).double().mean()
    assert agree > 0.85


def test_progress_goes_to_stderr_and_can_be_off(trained, capsys):
    sima_hf.calibrate(swapped(trained), trained, [digits()[0][:64]], progress=False)
    assert capsys.readouterr().err == ""
    sima_hf.calibrate(swapped(trained), trained, [digits()[0][:64]])
    assert "calibrating" in capsys.readouterr().err


def test_a_loaded_model_can_be_calibrated(trained, tmp_path):
    swapped(trained).save_pretrained(tmp_path)
    model = find("vit", "ViTForImageClassification")
    loaded = sima_hf.patching.classes.__getattr__(f"SimA{model.__name__}").from_pretrained(tmp_path)
    batches = digits()[0][:256].split(64)
    sima_hf.calibrate(loaded, trained, batches, progress=False)
    assert same_bytes(bytes_of(loaded), bytes_of(calibrated(trained, batches)[0]))
