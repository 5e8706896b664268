"""Calibration: least squares that are least squares, options that do what they say, and no trace where it fails."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTForImageClassification

import sima_hf
from sima_hf.calibration.report import CalibrationReport, EndResult, LayerFit
from sima_hf.errors import CalibrationError, UnsupportedModelError
from tests.helpers.calibrated_models import IMAGES, bytes_of, digits, held_out, same_bytes, share_off, swapped, vit
from tests.helpers.hosts.at_hand import find, make


@pytest.fixture(scope="module")
def trained():
    """A small ViT that a few seconds of softmax training have taught the digits."""
    images, labels, *_ = digits()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    picture = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10, "initializer_range": 0.1}
    model = ViTForImageClassification(ViTConfig(**sizes, **picture))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.3)
    for _ in range(12):
        for rows in torch.randperm(len(images)).split(64):
            nn.functional.cross_entropy(model(images[rows]).logits, labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


def accuracy(model):
    *_, images, labels = digits()
    with torch.no_grad():
        return (model(images).logits.argmax(-1) == labels).double().mean().item()


def calibrated(teacher, batches=None, **options):
    model = swapped(teacher)
    batches = digits()[0][:512].split(64) if batches is None else batches
    return model, sima_hf.calibrate(model, teacher, batches, progress=False, **options)


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


@pytest.mark.parametrize(
    ("model", "teacher", "batches", "options", "error", "words"),
    [
        (vit, vit, IMAGES, {}, CalibrationError, "is not a swapped model: call sima_hf.patch_model"),
        (
            lambda: swapped(vit()),
            lambda: swapped(vit()),
            IMAGES,
            {},
            CalibrationError,
            "teacher is a SimA model itself",
        ),
        (
            lambda: swapped(vit()),
            lambda: vit(intermediate_size=64),
            IMAGES,
            {},
            CalibrationError,
            r"'vit.layers.0.mlp.fc1.weight' is \(48, 32\) in the model and \(64, 32\) in the teacher",
        ),
        (
            lambda: swapped(vit()),
            lambda: ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])),
            IMAGES,
            {},
            CalibrationError,
            "missing in the teacher",
        ),
        (lambda: swapped(vit()), vit, [], {}, CalibrationError, "`batches` is empty"),
        (lambda: swapped(vit()), vit, IMAGES[0], {}, TypeError, "more than once, .* got Tensor"),
        (lambda: swapped(vit()), vit, iter(IMAGES), {}, TypeError, "more than once, .* got list_iterator"),
        (
            lambda: swapped(vit()),
            vit,
            [(IMAGES[0], 1)],
            {},
            TypeError,
            "tensor of pixel_values or a dict .*, got tuple",
        ),
        (
            lambda: swapped(vit()),
            vit,
            IMAGES,
            {"ridge": 0},
            CalibrationError,
            "`ridge` must be a positive number, got 0",
        ),
        (
            lambda: swapped(vit()),
            vit,
            IMAGES,
            {"class_token_weight": -1},
            CalibrationError,
            "`class_token_weight` must be a positive number",
        ),
        (
            lambda: swapped(make("vit", "ViTModel")),
            lambda: make("vit", "ViTModel"),
            IMAGES,
            {"classifier": True},
            CalibrationError,
            "needs a linear layer called classifier",
        ),
        (lambda: nn.Linear(2, 2), vit, IMAGES, {}, TypeError, "`model` must be a Transformers model"),
        (lambda: swapped(vit()), lambda: "vit", IMAGES, {}, TypeError, "`teacher` must be .* got str"),
        (lambda: swapped(vit()).to("meta"), lambda: vit().to("meta"), IMAGES, {}, CalibrationError, "are on meta"),
    ],
    ids=[
        "softmax",
        "sima-teacher",
        "shapes",
        "other",
        "empty",
        "tensor",
        "once",
        "tuple",
        "ridge",
        "weight",
        "no-head",
    ]
    + ["module", "text", "meta"],
)
def test_refusals(model, teacher, batches, options, error, words):
    with pytest.raises(error, match=words):
        sima_hf.calibrate(model(), teacher(), batches, progress=False, **options)


def test_a_layer_that_is_no_plain_linear_is_refused():
    teacher, model = vit(), swapped(vit())
    for net in (teacher, model):
        net.vit.layers[1].mlp.fc2.__class__ = type("Quantized", (nn.Linear,), {})
    with pytest.raises(
        UnsupportedModelError, match=r"vit.layers.1.mlp.fc2, which must be a plain nn.Linear, but it is a"
    ):
        sima_hf.calibrate(model, teacher, IMAGES, progress=False)


def test_a_weight_that_two_layers_share(trained):
    """As a user ties layers to save memory; which layer, and what with, is in the sentence."""
    places = ("vit.layers.0.attention.o_proj", "vit.layers.1.attention.o_proj")
    for tie in (
        lambda net: setattr(net.get_submodule(places[1]), "weight", net.get_submodule(places[0]).weight),
        lambda net: setattr(net.vit.layers[1].attention, "o_proj", net.get_submodule(places[0])),
        lambda net: setattr(net.vit.layers[1].attention, "k_proj", net.vit.layers[1].attention.q_proj),
    ):
        teacher = copy.deepcopy(trained)
        tie(teacher)
        model = swapped(teacher)
        before = bytes_of(model)
        with pytest.raises(
            CalibrationError, match=r"vit\.layers\.[01]\.attention\.\w+.* (are one weight|serves in sev)"
        ):
            sima_hf.calibrate(model, teacher, [digits()[0][:64]], progress=False)
        assert same_bytes(bytes_of(model), before)


class Quantized(torch.Tensor):
    """A tensor subclass that, as torchao's, knows few operations."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function in (torch.Tensor.float, torch.Tensor.__deepcopy__, torch.Tensor.to):
            raise NotImplementedError(f"{function} is not implemented")
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.mark.parametrize("place", ["attention.o_proj", "attention.q_proj", "mlp.fc1"])
@pytest.mark.parametrize("who", ["model", "teacher"])
def test_weights_of_another_tensor_class(trained, place, who):
    teacher = copy.deepcopy(trained)
    model = swapped(trained)
    layer = {"model": model, "teacher": teacher}[who].vit.layers[1].get_submodule(place)
    layer.weight = nn.Parameter(layer.weight.data.as_subclass(Quantized), requires_grad=False)
    with pytest.raises(
        UnsupportedModelError, match=rf"vit.layers.1.{place}.weight of the {who} is a Quantized. Calibrate before"
    ):
        sima_hf.calibrate(model, teacher, [digits()[0][:64]], progress=False)


@pytest.mark.parametrize("place", ["attention.o_proj", "attention.v_proj", "mlp.fc1"])
def test_a_pruning_mask(trained, place):
    """Its product is no parameter: as it is after a forward with gradients, which cannot be copied, and after one without."""
    for grad in (True, False):
        teacher = copy.deepcopy(trained)
        model = swapped(trained)
        for net in (model, teacher):
            prune.l1_unstructured(net.vit.layers[0].get_submodule(place), "weight", amount=0.5)
            with torch.set_grad_enabled(grad):
                net(digits()[0][:2])
        before = bytes_of(model)
        if not grad and place != "attention.o_proj":  # it is left alone, and can be
            sima_hf.calibrate(model, teacher, [digits()[0][:64]], progress=False)
            assert torch.equal(
                model.vit.layers[0].get_submodule(place).weight_orig, before[f"vit.layers.0.{place}.weight_orig"]
            )
            continue
        with pytest.raises(UnsupportedModelError, match=rf"vit.layers.0.{place}.* computed anew for each forward"):
            sima_hf.calibrate(model, teacher, [digits()[0][:64]], progress=False)
        assert same_bytes(bytes_of(model), before)


def test_an_adapter_is_named_by_module_and_class(trained):
    peft = pytest.importorskip("peft", reason="pip install peft")
    teacher, model = copy.deepcopy(trained), swapped(trained)
    for net in (model, teacher):
        peft.get_peft_model(net, peft.LoraConfig(r=2, target_modules=["o_proj"]))
    with pytest.raises(
        UnsupportedModelError,
        match=r"vit\.layers\.0\.attention\.o_proj, which .* it is a peft\.tuners\.lora\.layer\.Linear\. ",
    ):
        sima_hf.calibrate(model, teacher, [digits()[0][:64]], progress=False)


class OnceOnly:
    """What a generator behind a class gives: the same one each time it is gone through."""

    def __init__(self, batches):
        self.batches = iter(batches)

    def __iter__(self):
        return self.batches


def test_batches_that_a_generator_gives_once(trained):
    """They are enough where all is stored, none is lost to a first look, and else there is a sentence."""
    images = digits()[0][:128].split(64)
    expected, _ = calibrated(trained, images)
    stored, report = calibrated(trained, OnceOnly(images))
    assert report.images == 128
    assert same_bytes(bytes_of(stored), bytes_of(expected))
    for options in ({"memory_budget": 0}, {"memory_budget": 0, "basis": False}):
        model = swapped(trained)
        before = bytes_of(model)
        with pytest.raises(CalibrationError, match="as if a generator were behind it: give a list or a DataLoader"):
            sima_hf.calibrate(model, trained, OnceOnly(images), progress=False, **options)
        assert same_bytes(bytes_of(model), before)


def test_a_data_loader_that_shuffles(trained):
    images, labels, *_ = digits()
    rows = [{"pixel_values": image, "labels": label} for image, label in zip(images[:128], labels[:128], strict=True)]
    for budget in (0, 10**9):
        loader = DataLoader(rows, batch_size=50, shuffle=True)
        _, report = calibrated(trained, loader, memory_budget=budget)
        assert report.images == 128
        assert all(fit.after < fit.before for fit in report.fits)


def test_the_report_is_a_table(trained):
    _, report = calibrated(trained)
    lines = str(report).splitlines()
    assert lines[0].startswith("Calibrated from 512 images, 51 of them held out, ")
    assert report.held_out == 51
    for line, fit in zip(lines[3:], report.fits, strict=False):
        layer, *numbers = line.split()[:4]
        assert (layer, *map(float, numbers)) == (
            fit.layer,
            *(round(share, 4) for share in (fit.before, fit.after, fit.in_sample)),
        )
    assert len(lines) >= 4 + len(report.fits)


def test_the_end_is_measured_on_held_out_images(trained):
    """Cosine and agreement against both models run anew."""
    images = digits()[0][:512]
    model, report = calibrated(trained)
    held = images[held_out(images)]
    with torch.no_grad():
        own, goal = (net(held, output_hidden_states=True) for net in (model, trained))
    agreement = (own.logits.argmax(-1) == goal.logits.argmax(-1)).double().mean().item()
    assert report.end.agreement == pytest.approx(agreement, rel=1e-6)
    streams = [nn.functional.layer_norm(net.hidden_states[-1], (32,)) for net in (own, goal)]
    for found, tokens in ((report.end.class_cosine, slice(1)), (report.end.cosine, slice(1, None))):
        one, two = (stream[:, tokens] - streams[1][:, tokens].mean(dim=(0, 1)) for stream in streams)
        assert found == pytest.approx(nn.functional.cosine_similarity(one, two, dim=-1).mean().item(), abs=1e-4)


def test_it_says_when_the_result_does_not_hold(trained):
    """Fitted to eight images it cannot; a good one has nothing to say."""
    _, report = calibrated(trained, digits()[0][:16].split(8))
    assert report.held_out == 8
    assert "images" in report.advice
    assert report.advice in str(report)
    fits = (LayerFit("a", 0.9, 0.30, 0.10),)
    assert "distil" in CalibrationReport(fits, {}, 512, 0, 0, 51, EndResult(0.99)).advice
    fits = (LayerFit("a", 0.9, 0.04, 0.03),)
    assert "80.0%" in CalibrationReport(fits, {}, 512, 0, 0, 51, EndResult(0.99, None, 0.8)).advice
    assert "0.70" in CalibrationReport(fits, {}, 512, 0, 0, 51, EndResult(0.95, 0.7)).advice
    assert CalibrationReport(fits, {}, 512, 0, 0, 51, EndResult(0.99, 0.99, 0.99)).advice is None


def test_the_order_of_images_does_not_matter(trained):
    """Those held out are drawn by content."""
    images = digits()[0][:128]
    first, _ = calibrated(trained, [images])
    second, _ = calibrated(trained, [images.flip(0)])
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_too_few_images(trained):
    model = swapped(trained)
    before = bytes_of(model)
    for batches in ([digits()[0][:1]], [digits()[0][:1]] * 3):
        with pytest.raises(CalibrationError, match=r"at least 2 different images.* got 1"):
            sima_hf.calibrate(model, trained, batches, progress=False)
    assert same_bytes(bytes_of(model), before)


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
