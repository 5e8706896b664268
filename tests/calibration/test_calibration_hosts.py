"""Calibration on every host: what is between a layer and the stream is found by asking, and the report is true."""

import copy

import pytest
import torch
from torch import nn

import sima_hf
from sima_hf.calibration import gather
from sima_hf.calibration.blocks import BLOCK_LAYOUTS, find_blocks
from sima_hf.errors import CalibrationError, UnsupportedModelError
from sima_hf.patching import sima_attentions
from tests.helpers.calibrated_models import HOSTS, bytes_of, held_out, share_off, swapped
from tests.helpers.hosts.at_hand import given, make


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", ["dinov2", "swin/padded", "segformer", "videomae"])
def test_the_report_says_what_is(case):
    """The last share in it, against both models run anew; with LayerScale, windows and padding, spatial reduction."""
    teacher, inputs = make(case, HOSTS[case]), given(case, HOSTS[case])
    inputs["pixel_values"] = torch.cat(
        [inputs["pixel_values"] + 0.3 * torch.randn_like(inputs["pixel_values"]) for _ in range(20)]
    )
    with torch.no_grad():
        for module in teacher.modules():
            if hasattr(module, "lambda1"):
                module.lambda1.copy_(torch.linspace(0.1, 2, len(module.lambda1)))
            if isinstance(module, nn.Linear):
                module.weight.mul_(8)  # as they start, attention hardly tells one token from another
    model = swapped(teacher)
    report = sima_hf.calibrate(model, teacher, [inputs], class_token_weight=1, progress=False)
    block = find_blocks(model)[-1]
    assert report.fits[-1].after > 1e-6
    held = held_out(inputs["pixel_values"])
    inputs = {name: value[held] for name, value in inputs.items()}
    assert share_off(model, teacher, block.name, inputs) == pytest.approx(report.fits[-1].after, rel=1e-2)
    block.mlp.load_state_dict(teacher.get_submodule(report.fits[-1].layer).state_dict())
    assert share_off(model, teacher, block.name, inputs) == pytest.approx(report.fits[-1].before, rel=1e-2)


def test_the_report_where_layer_scale_has_switched_a_channel_off():
    teacher, inputs = make("dinov2", "Dinov2Model", num_hidden_layers=1), given("dinov2", "Dinov2Model")
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if name.endswith("lambda1"):
                parameter.copy_(torch.linspace(0, 2, len(parameter)))
            elif name.endswith(("proj.weight", "fc1.weight", "fc2.weight")):
                parameter.mul_(8)
    raw, model = swapped(teacher), swapped(teacher)
    images = torch.cat([inputs["pixel_values"] + 0.3 * torch.randn(2, 3, 32, 32) for _ in range(20)])
    report = sima_hf.calibrate(
        model, teacher, [images], class_token_weight=1, basis=False, value=False, mlp=False, progress=False
    )
    (fit,) = report.fits
    images = images[held_out(images)].double()
    seen = {}
    for who, net in {"softmax": teacher, "raw": raw, "fitted": model}.items():
        net = copy.deepcopy(net).double()
        net.get_submodule(find_blocks(raw)[0].name).norm2.register_forward_hook(
            lambda _, args, output, who=who: seen.update({who: args[0]})
        )
        with torch.no_grad():
            net(images)
    wanted = seen["softmax"].flatten(0, 1)
    variance = (wanted - wanted.mean(dim=0)).square().sum()
    for share, who in ((fit.before, "raw"), (fit.after, "fitted")):
        off = (seen[who].flatten(0, 1) - wanted).square().sum()
        assert share == pytest.approx((off / variance).item(), rel=1e-3)


NO_BASIS = ("dinov3_vit", "swinv2")  # rotary positions; cosine of queries and keys


@pytest.mark.parametrize("case", HOSTS)
def test_every_host(case):
    """Each fit explains more, nothing but its layers changes, and what cannot be calibrated says so."""
    teacher = make(case, HOSTS[case])
    model = swapped(teacher)
    if not any(type(module).__name__ in BLOCK_LAYOUTS and sima_attentions(module) for module in model.modules()):
        with pytest.raises(UnsupportedModelError, match=r"no block that calibration knows, .* ViTLayer"):
            sima_hf.calibrate(model, teacher, [given(case, HOSTS[case])], progress=False)
        return
    before = bytes_of(model)
    report = sima_hf.calibrate(model, teacher, [given(case, HOSTS[case])], progress=False)
    blocks = find_blocks(model)
    assert len(report.fits) == 2 * len(blocks)
    assert all(fit.after <= fit.before for fit in report.fits)
    assert report.bases == (0 if case.split("/")[0] in NO_BASIS else len(blocks))
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    allowed = {
        f"{name}.{kind}"
        for block in blocks
        for name, module in model.named_modules()
        if module in (block.attention, block.value, block.query, block.key, block.mlp)
        for kind, _ in module.named_parameters()
    }
    tables = {name for block in blocks for name in block.bias_tables()}
    assert {name for name in changed if name not in tables} <= allowed
    assert tables <= (changed if report.bases else set(before))
    assert changed  # with one image fitted and one held out, a layer may be left as it was


def test_the_table_names_classes_that_exist():
    """Every row is met by a host of the tests, so that none is only believed."""
    met = {type(module).__name__ for case in HOSTS for module in make(case, HOSTS[case]).modules()}
    assert set(BLOCK_LAYOUTS) <= met


@pytest.mark.parametrize(("case", "none"), [("swin/padded", False), ("dinov2", False), ("swinv2", True)])
def test_routes_are_found_by_asking(case, none, monkeypatch):
    """Windows, shifts and padding are rows; LayerScale is a scale; a norm behind the branch is no residual."""
    found = []
    original = gather.residual_map_of
    monkeypatch.setattr(gather, "residual_map_of", lambda *args: found.append(original(*args)) or found[-1])
    teacher = make(case, HOSTS[case])
    if case == "dinov2":
        with torch.no_grad():
            for layer in teacher.modules():
                if hasattr(layer, "lambda1"):
                    layer.lambda1.copy_(torch.linspace(0.1, 2, len(layer.lambda1)))
    sima_hf.calibrate(swapped(teacher), teacher, [given(case, HOSTS[case])], progress=False)
    assert found
    assert all((residual is None) is none for residual in found)
    if case == "dinov2":
        torch.testing.assert_close(found[0].scale, torch.linspace(0.1, 2, 32))
    if case == "swin/padded":
        assert not torch.equal(found[0].rows, torch.arange(len(found[0].rows)))
        assert found[0].rows.unique().numel() == found[0].rows.numel()


def test_models_that_draw_random_numbers_draw_the_same():
    """ViTMAE masks patches at random where no noise is given: model and teacher must see the same ones, time after time."""
    teacher = make("vit_mae", "ViTMAEModel", mask_ratio=0.5)
    inputs = {"pixel_values": torch.randn(8, 3, 32, 32)}
    found = []
    for seed, budget in ((0, 10**9), (1, 0)):
        model = swapped(teacher)
        torch.manual_seed(seed)
        found.append((model, sima_hf.calibrate(model, teacher, [inputs], memory_budget=budget, progress=False)))
    assert all(fit.after < 1e-3 for fit in found[0][1].fits)
    for name, value in found[0][0].state_dict().items():
        torch.testing.assert_close(found[1][0].state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_a_batch_that_no_block_sees():
    """Text alone does not reach LLaVA's vision tower."""
    teacher = make("llava", HOSTS["llava"])
    inputs = {"input_ids": torch.tensor([[1, 5, 6, 2]])}
    with pytest.raises(CalibrationError, match=r"None of the 2 blocks .* holds input_ids"):
        sima_hf.calibrate(swapped(teacher), teacher, [inputs], progress=False)
