"""What certify counts, where, and what it lets pass with a reason."""

import pytest
import torch
from torch import nn

import sima_hf
from sima_hf.patching.certificate import Certificate
from tests.helpers.hosts.at_hand import given, make


def vit(**changes):
    return make("vit", "ViTForImageClassification", **changes)


def test_an_unpatched_model_shows_what_would_go():
    report = sima_hf.certify(vit(), given("vit", ""))
    assert isinstance(report, Certificate)
    assert report.softmax_free is False
    assert [operation.path for operation in report.operations] == [f"vit.layers.{n}.attention" for n in (0, 1)]
    assert all("scaled_dot_product" in operation.operation for operation in report.operations)
    assert report.count == 2
    assert "2 operations of softmax, exp or fused attention ran" in str(report)


def test_eager_softmax_is_counted_too():
    model = vit()
    model.set_attn_implementation("eager")
    assert {operation.operation for operation in sima_hf.certify(model, given("vit", "")).operations} == {
        "aten::_softmax"
    }


@pytest.mark.parametrize("form", ["mapping", "tuple", "tensor"])
def test_a_patched_model_is_softmax_free(form):
    model, inputs = sima_hf.patch_model(vit()), given("vit", "")
    forms = {"mapping": inputs, "tuple": (inputs["pixel_values"],), "tensor": inputs["pixel_values"]}
    report = sima_hf.certify(model, forms[form])
    assert report.softmax_free is True
    assert report.operations == ()
    assert "no softmax ran" in str(report)


def test_the_native_model():
    config = sima_hf.SimAConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    report = sima_hf.certify(sima_hf.SimAForImageClassification(config), torch.randn(1, 3, 32, 32))
    assert report.softmax_free


class Fancy(nn.Module):
    """Softmax in the ways that the names of classes would not give away."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        if self.way == "method":
            return x.softmax(-1)
        ways = {
            "exp": lambda: x.exp() / x.exp().sum(-1, keepdim=True),
            "logsumexp": lambda: x - x.logsumexp(-1, keepdim=True),
            "module": lambda: nn.Softmax(-1)(x),
            "log": lambda: nn.functional.log_softmax(x, -1),
            "multi-head": lambda: self.attention(x, x, x, need_weights=False)[0],
            "in place": lambda: x.clone().exp_(),
        }
        return ways[self.way]()


@pytest.mark.parametrize("way", ["exp", "logsumexp", "module", "method", "log", "multi-head", "in place"])
def test_every_way_to_softmax_counts(way):
    report = sima_hf.certify(Fancy(way), torch.randn(2, 5, 8))
    assert report.softmax_free is False
    assert sima_hf.certify(nn.Linear(8, 8), torch.randn(2, 8)).softmax_free is True


def test_sigmoids_and_gelus_do_not_count():
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.SiLU(), nn.Sigmoid(), nn.Tanh())
    assert sima_hf.certify(model, torch.randn(2, 8)).operations == ()


def test_allowed_only_where_it_was_swapped_and_by_operation():
    model, inputs = make("swinv2", "Swinv2Model"), given("swinv2", "Swinv2Model")
    assert not any(operation.allowed for operation in sima_hf.certify(model, inputs).operations)
    report = sima_hf.certify(sima_hf.patch_model(model), inputs)
    assert report.softmax_free
    assert {operation.operation for operation in report.operations} == {"aten::exp"}
    assert "exp of a parameter" in str(report)


def test_a_text_side_counts_but_was_not_swapped():
    model, inputs = sima_hf.patch_model(make("clip", "CLIPModel")), given("clip", "CLIPModel")
    report = sima_hf.certify(model, inputs)
    assert report.softmax_free is False
    assert report.in_swapped == ()
    assert all("text_model" in one.path or one.path == "" for one in report.operations)
    assert "none of them in what was swapped: vision_model" in str(report)


def test_the_loss_is_not_the_model():
    inputs = {**given("vit", ""), "labels": torch.tensor([0, 2])}
    report = sima_hf.certify(sima_hf.patch_model(vit()), inputs)
    assert report.softmax_free
    assert [operation.allowed for operation in report.operations] == ["it belongs to the loss, not to the model"]


def test_mode_hooks_and_gradients_are_as_before():
    model = sima_hf.patch_model(vit()).train()
    model.vit.layers[0].eval()
    hooks = [len(module._forward_hooks) for module in model.modules()]
    sima_hf.certify(model, given("vit", ""))
    assert model.training
    assert not model.vit.layers[0].training
    with pytest.raises(ValueError, match="too many values"):
        sima_hf.certify(model, torch.randn(1, 3, 7, 7, 7))
    assert model.training
    after = [len(module._forward_hooks) for module in model.modules()]
    assert [two - one for one, two in zip(hooks, after, strict=True)] == [0] * len(hooks)


@pytest.mark.slow
def test_exported_programs():
    inputs = given("vit", "")["pixel_values"]

    class Logits(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, pixel_values):
            return self.model(pixel_values).logits

    softmax = torch.export.export(Logits(vit()), (inputs,))
    report = sima_hf.certify(softmax)
    assert report.softmax_free is False
    assert any("layers" in operation.path for operation in report.operations)
    assert sima_hf.certify(torch.export.export(Logits(sima_hf.patch_model(vit())), (inputs,))).softmax_free is True
    swinv2 = sima_hf.patch_model(make("swinv2", "Swinv2Model"))
    report = sima_hf.certify(torch.export.export(swinv2, (inputs,)))
    assert report.softmax_free
    assert {operation.operation for operation in report.operations} == {"aten::exp"}
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.Softmax(-1)))
    assert sima_hf.certify(traced).softmax_free is False
    assert sima_hf.certify(traced, torch.randn(1, 2)).softmax_free is False
    functional = torch.fx.symbolic_trace(Fancy("method"))
    assert sima_hf.certify(functional).softmax_free is False


def test_compiled_models():
    model = torch.compile(vit(), backend="eager")
    assert sima_hf.certify(model, given("vit", "")).softmax_free is False
    assert sima_hf.certify(torch.compile(sima_hf.patch_model(vit()), backend="eager"), given("vit", "")).softmax_free


@pytest.mark.parametrize(
    ("model", "words"), [("folder", "takes a torch.nn.Module"), (nn.Linear(2, 2), "needs inputs")]
)
def test_wrong_arguments(model, words):
    with pytest.raises(TypeError, match=words):
        sima_hf.certify(model)


def test_verified_before_it_returns():
    model = vit()
    assert sima_hf.patch_model(model, verify=given("vit", "")) is model
    assert sima_hf.certify(model, given("vit", "")).softmax_free


def test_a_model_that_fails_verification_is_turned_back(monkeypatch):
    """Softmax that someone hung into an attention by a hook."""
    model = vit()
    model.vit.layers[0].attention.register_forward_hook(lambda module, args, output: (output[0].softmax(-1), None))
    config, cls = model.config, type(model)
    with pytest.raises(sima_hf.errors.UnsupportedModelError, match="turned back"):
        sima_hf.patch_model(model, verify=given("vit", ""))
    assert (type(model), model.config) == (cls, config)
    with pytest.raises(ValueError, match="too many values"):
        sima_hf.patch_model(model, verify=torch.randn(1, 3, 7, 7, 7))
    assert (type(model), model.config) == (cls, config)


def test_as_data():
    data = sima_hf.certify(vit(), given("vit", "")).to_dict()
    assert data["softmax_free"] is False
    assert data["operations"][0]["path"] == "vit.layers.0.attention"
