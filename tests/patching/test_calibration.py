"""Calibration: least squares that are least squares, on every host, without a trace where it fails."""

import copy

import pytest
import torch
from hosts_at_hand import MODELS, find, given, make
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTForImageClassification

import sima_hf
from sima_hf.errors import CalibrationError, UnsupportedModelError
from sima_hf.patching import calibration_steps
from sima_hf.patching.calibration_basis import HeadMoments, apply_basis, choose_basis, product_scale, scaled_bias
from sima_hf.patching.calibration_sites import SITES, Route, find_blocks, find_route, is_sima
from sima_hf.patching.least_squares import NormalEquations


def digits():
    """Images `(B, 1, 8, 8)` in -1..1 and labels: 1,297 to learn from, 500 to be asked about."""
    bunch = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    images = torch.tensor(bunch.images, dtype=torch.float32)[order, None] / 8 - 1
    labels = torch.tensor(bunch.target)[order]
    return images[:1297], labels[:1297], images[1297:], labels[1297:]


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


def swapped(model):
    return sima_hf.patch_model(copy.deepcopy(model))


def accuracy(model):
    *_, images, labels = digits()
    with torch.no_grad():
        return (model(images).logits.argmax(-1) == labels).double().mean().item()


def calibrated(teacher, batches=None, **options):
    model = swapped(teacher)
    batches = digits()[0][:512].split(64) if batches is None else batches
    return model, sima_hf.calibrate(model, teacher, batches, progress=False, **options)


def bytes_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_bytes(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


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
    images = digits()[0][:128]
    model, report = calibrated(trained, [images], basis=False, balance=False, mlp=False, ridge=1e-13)
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
    rows, wanted = ((weight.sqrt() * part).flatten(0, 1) for part in (x, seen["stream"] - seen["residual"]))
    solution = torch.linalg.lstsq(rows, wanted).solution
    found = model.vit.layers[0].attention.o_proj
    torch.testing.assert_close(found.weight.double(), solution[:-1].T, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.bias.double(), solution[-1], rtol=1e-3, atol=1e-4)
    total = weight.expand(*x.shape[:2], 1).flatten(0, 1)
    centred = seen["stream"].flatten(0, 1)
    centred = centred - (total * centred).sum(dim=0) / total.sum()
    share = (wanted - rows @ solution).square().sum() / (total * centred.square()).sum()
    assert report.fits[0].after == pytest.approx(share.item(), rel=1e-3)


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


def share_off(model, teacher, name, inputs):
    """Share of the variance of what the module `name` returns in the teacher that it does not return in the model, in float64."""
    seen = []
    for net in (model, teacher):
        net = copy.deepcopy(net).double().eval()
        net.get_submodule(name).register_forward_hook(lambda _, args, output: seen.append(output))
        with torch.no_grad():
            net(**{key: value.double() for key, value in inputs.items()})
    own, wanted = ((one[0] if isinstance(one, tuple) else one).flatten(0, -2) for one in seen)
    return ((wanted - own).square().sum() / (wanted - wanted.mean(dim=0)).square().sum()).item()


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
    block = find_blocks(model)[-1].name
    assert report.fits[-1].after > 1e-6
    assert share_off(model, teacher, block, inputs) == pytest.approx(report.fits[-1].after, rel=1e-2)


def test_half_precision_is_rounded_on_the_way(trained):
    """The MLP is fitted on top of the attention's weights as the model holds them, not as they were before the rounding."""
    teacher = copy.deepcopy(trained).bfloat16()
    images = digits()[0][:256].bfloat16()
    model, report = calibrated(teacher, [images], class_token_weight=1)
    model.vit.layers[0].mlp.fc2.load_state_dict(teacher.vit.layers[0].mlp.fc2.state_dict())
    found = share_off(model, teacher, "vit.layers.0", {"pixel_values": images})
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


# One case of each host, as tests/patching/hosts_at_hand.py has them.
HOSTS = dict(reversed(MODELS))
NO_BASIS = ("dinov3_vit", "swinv2")  # rotary positions; cosine of queries and keys


@pytest.mark.parametrize("case", HOSTS)
def test_every_host(case):
    """Each fit explains more, nothing but its layers changes, and what cannot be calibrated says so."""
    teacher = make(case, HOSTS[case])
    model = swapped(teacher)
    if not any(type(module).__name__ in SITES and is_sima(module) for module in model.modules()):
        with pytest.raises(UnsupportedModelError, match=r"no block that calibration knows, .* ViTLayer"):
            sima_hf.calibrate(model, teacher, [given(case, HOSTS[case])], progress=False)
        return
    before = bytes_of(model)
    report = sima_hf.calibrate(model, teacher, [given(case, HOSTS[case])], progress=False)
    blocks = find_blocks(model)
    assert len(report.fits) == 2 * len(blocks)
    assert all(fit.after < fit.before for fit in report.fits)
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
    assert {f"{fit.layer}.weight" for fit in report.fits} <= changed


def test_the_table_names_classes_that_exist():
    """Every row is met by a host of the tests, so that none is only believed."""
    met = {type(module).__name__ for case in HOSTS for module in make(case, HOSTS[case]).modules()}
    assert set(SITES) <= met


@pytest.mark.parametrize(("case", "none"), [("swin/padded", False), ("dinov2", False), ("swinv2", True)])
def test_routes_are_found_by_asking(case, none, monkeypatch):
    """Windows, shifts and padding are rows; LayerScale is a scale; a norm behind the branch is no route."""
    found = []
    original = calibration_steps.route_of
    monkeypatch.setattr(calibration_steps, "route_of", lambda *args: found.append(original(*args)) or found[-1])
    teacher = make(case, HOSTS[case])
    if case == "dinov2":
        with torch.no_grad():
            for layer in teacher.modules():
                if hasattr(layer, "lambda1"):
                    layer.lambda1.copy_(torch.linspace(0.1, 2, len(layer.lambda1)))
    sima_hf.calibrate(swapped(teacher), teacher, [given(case, HOSTS[case])], progress=False)
    assert found
    assert all((route is None) is none for route in found)
    if case == "dinov2":
        torch.testing.assert_close(found[0].scale, torch.linspace(0.1, 2, 32))
    if case == "swin/padded":
        assert not torch.equal(found[0].rows, torch.arange(len(found[0].rows)))
        assert found[0].rows.unique().numel() == found[0].rows.numel()


def test_a_route_with_many_rows_and_a_tiny_scale():
    rows, channels = 300_000, 3
    order = torch.randperm(rows)[: rows // 2]
    scale = torch.tensor([1e-5, -3e-5, 2e-5])
    route = find_route(lambda y: scale * y[order], rows, channels, torch.zeros(1))
    assert isinstance(route, Route)
    assert torch.equal(route.rows, order)
    torch.testing.assert_close(route.scale, scale)
    assert find_route(lambda y: (scale * y[order]).softmax(-1), rows, channels, torch.zeros(1)) is None


def test_a_basis_keeps_softmax_and_makes_channels_equal():
    torch.manual_seed(0)
    mix = torch.randn(3, 8, 8, dtype=torch.float64)
    query, key = (torch.randn(500, 3, 8, dtype=torch.float64) + 1 for _ in range(2))
    query, key = torch.einsum("nhc,hcd->nhd", query, mix), torch.einsum("nhc,hdc->nhd", key, mix)
    moments = [HeadMoments(3, 8, torch.device("cpu")) for _ in range(2)]
    for sums, rows in zip(moments, (query, key), strict=True):
        sums.add(rows.flatten(1))
    map_q, map_k, offset, added = choose_basis(*moments, centre=True, constant=False)
    new_q = torch.einsum("hdc,nhc->nhd", map_q, query)
    new_k = torch.einsum("hdc,nhc->nhd", map_k, key - offset)
    logits, wanted = (torch.einsum("nhc,mhc->hnm", *pair) for pair in ((new_q, new_k), (query, key)))
    torch.testing.assert_close(logits.softmax(-1), wanted.softmax(-1))
    for rows in (new_q, new_k):
        power = rows.square().mean(dim=0)
        torch.testing.assert_close(power, power.mean(dim=1, keepdim=True).expand_as(power))
    map_q, map_k, offset, added = choose_basis(*moments, centre=True, constant=True)
    torch.testing.assert_close(added.square().sum(dim=1), torch.full((3,), 8**0.5, dtype=torch.float64))


@pytest.mark.parametrize("constant", [True, False])
def test_a_scaled_bias_gives_softmaxs_map_to_first_order(constant):
    """Maps of SimA after the change of basis against softmax's, with the bias as it was made for logits and as it is scaled."""
    torch.manual_seed(0)
    heads, tokens, channels = 2, 24, 16
    query, key = 0.6 * torch.randn(2, 40, tokens, heads * channels, dtype=torch.float64)
    bias = 0.3 * torch.randn(tokens * tokens, heads, dtype=torch.float64)
    layers = [nn.Linear(heads * channels, heads * channels).double() for _ in range(2)]
    moments = [HeadMoments.of(layer, heads) for layer in layers]
    with torch.no_grad():
        for layer, sums, rows in zip(layers, moments, (query, key), strict=True):
            layer.weight.copy_(torch.eye(heads * channels))
            layer.bias.zero_()
            sums.add(layer(rows))
        apply_basis(*layers, choose_basis(*moments, centre=True, constant=constant))
        new = [layer(rows) for layer, rows in zip(layers, (query, key), strict=True)]
    scaled = scaled_bias(bias, product_scale(*new, heads), channels, constant)

    def split(rows):
        return rows.unflatten(-1, (heads, channels)).transpose(1, 2)

    def square(table):
        return table.T.reshape(1, heads, tokens, tokens)

    wanted = (split(query) @ split(key).transpose(-2, -1) / channels**0.5 + square(bias)).softmax(-1)
    eye = torch.eye(tokens, dtype=torch.float64).expand(40, heads, -1, -1)

    def likeness(table):
        found = sima_hf.sima_attention(split(new[0]), split(new[1]), eye, bias=square(table))
        return torch.corrcoef(torch.stack([found.flatten(), wanted.flatten()]))[0, 1].item()

    assert likeness(scaled) > 0.9
    assert likeness(bias) < 0.8
    assert likeness(0 * bias) < 0.85


def test_normal_equations_without_rows_for_some_inputs():
    """A channel that is always zero keeps its weights; fewer rows than inputs still give a small change."""
    sums = NormalEquations(5, 2, True, torch.device("cpu"))
    x, y = torch.randn(3, 5), torch.randn(3, 2)
    x[:, 4] = 0
    sums.add(x, y, torch.ones(3))
    weight, bias = sums.solve(1e-6)
    assert torch.equal(weight[:, 4], torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close((x.double() @ weight.T + bias).float(), y, rtol=1e-3, atol=1e-3)


def vit(**changes):
    return make("vit", "ViTForImageClassification", **changes)


IMAGES = [torch.randn(2, 3, 32, 32)]


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
        (lambda: swapped(vit()), vit, IMAGES[0], {}, TypeError, "more than once, .* but Tensor came"),
        (lambda: swapped(vit()), vit, iter(IMAGES), {}, TypeError, "more than once, .* but list_iterator came"),
        (
            lambda: swapped(vit()),
            vit,
            [(IMAGES[0], 1)],
            {},
            TypeError,
            "tensor of pixel_values or a dict .* but tuple",
        ),
        (
            lambda: swapped(vit()),
            vit,
            IMAGES,
            {"ridge": 0},
            CalibrationError,
            "`ridge` must be a positive number, but 0",
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
        (lambda: swapped(vit()), lambda: "vit", IMAGES, {}, TypeError, "`teacher` must be .* but str came"),
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


def test_a_layer_that_is_no_plain_linear_is_refused():
    teacher, model = vit(), swapped(vit())
    for net in (teacher, model):
        net.vit.layers[1].mlp.fc2.__class__ = type("Quantized", (nn.Linear,), {})
    with pytest.raises(
        UnsupportedModelError, match=r"vit.layers.1.mlp.fc2, which must be a plain nn.Linear, but it is a"
    ):
        sima_hf.calibrate(model, teacher, IMAGES, progress=False)


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
    assert lines[0].startswith("Calibrated from 512 images, ")
    assert "ridge=1e-06" in lines[1]
    assert len(lines) == 3 + len(report.fits)
    for line, fit in zip(lines[3:], report.fits, strict=True):
        layer, before, after = line.split()
        assert (layer, float(before), float(after)) == (fit.layer, round(fit.before, 4), round(fit.after, 4))


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
