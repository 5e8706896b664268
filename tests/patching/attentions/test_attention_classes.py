"""Attention modules whose class is not the one that Transformers built: torch's, FSDP's, a user's, a later release's."""

import copy
import functools
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from transformers import AutoModelForImageClassification
from transformers.models.swinv2.modeling_swinv2 import Swinv2SelfAttention
from transformers.models.vit import modeling_vit

import sima_hf
from sima_hf.errors import UnsupportedModelError
from tests.helpers.hosts.at_hand import given, logits, make, tensors, vit


SIGLIP = ("siglip_vision_model", "SiglipVisionModel")
SWINV2 = ("swinv2", "Swinv2Model")


def output(model, case="siglip_vision_model"):
    with torch.no_grad():
        return tensors(model(**given(case, "")))


def swin_attention(model):
    return model.encoder.layers[0].blocks[0].attention.self


class Limit(nn.Module):
    """A parametrization that changes nothing at the values of a fresh model."""

    def forward(self, x):
        return x.clamp(max=1e4)


def test_weight_norm_on_a_pooling_head_then_patch():
    """torch gives the head a class of its own, which keeps the forward."""
    model, plain = make(*SIGLIP), sima_hf.patch_model(make(*SIGLIP))
    parametrizations.weight_norm(model.head.attention, "in_proj_weight")
    softmax, cls = output(model), type(model.head.attention)
    sima_hf.patch_model(model, verify=given("siglip_vision_model", ""))
    assert sima_hf.certify(model, given("siglip_vision_model", "")).softmax_free
    assert sima_hf.patching.describe(model).swapped == sima_hf.patching.describe(plain).swapped
    torch.testing.assert_close(output(model), output(plain), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(output(copy.deepcopy(model)), output(model), rtol=0, atol=0)
    sima_hf.unpatch_model(model)
    assert type(model.head.attention) is cls
    assert torch.equal(torch.stack(output(model)[1:]), torch.stack(softmax[1:]))
    sima_hf.patch_model(model)
    parametrize.remove_parametrizations(model.head.attention, "in_proj_weight")
    assert type(model.head.attention) is type(plain.head.attention)
    torch.testing.assert_close(output(model), output(plain), rtol=1e-3, atol=1e-3)


def test_a_parametrized_scale_then_patch_and_verify():
    """What the table lets stay in a class, here the exp of Swin v2's scale, stays in torch's subclass of it."""
    model, plain = make(*SWINV2), sima_hf.patch_model(make(*SWINV2))
    parametrize.register_parametrization(swin_attention(model), "logit_scale", Limit())
    sima_hf.patch_model(model, verify=given("swinv2", ""))
    assert sima_hf.certify(model, given("swinv2", "")).softmax_free
    torch.testing.assert_close(output(model, "swinv2"), output(plain, "swinv2"))


@pytest.fixture
def one_process():
    if not torch.distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_fully_shard_attentions_then_patch(one_process):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    model, plain = make(*SWINV2), sima_hf.patch_model(make(*SWINV2))
    fsdp.fully_shard(swin_attention(model), mesh=one_process)
    sima_hf.patch_model(model, verify=given("swinv2", ""))
    attention = swin_attention(model)
    assert isinstance(attention, fsdp.FSDPModule)
    assert sima_hf.certify(model, given("swinv2", "")).softmax_free
    torch.testing.assert_close(output(model, "swinv2"), output(plain, "swinv2"))
    attention.unshard()
    attention.reshard()
    whole = make(*SWINV2)
    fsdp.fully_shard(whole, mesh=one_process)
    with pytest.raises(UnsupportedModelError, match="Patch the model first"):
        sima_hf.patch_model(whole)


class Labeled(nn.MultiheadAttention):
    """A subclass that computes what torch's computes."""

    def extra_repr(self):
        return "labeled"


class Scaled(Swinv2SelfAttention):
    """A subclass that adds to the host's forward."""

    def forward(self, hidden_states, *args, **kwargs):
        return (3 * super().forward(hidden_states, *args, **kwargs)[0],)


def test_a_users_subclass_without_a_forward_of_its_own_is_swapped_and_pickled():
    model, plain = make(*SIGLIP), sima_hf.patch_model(make(*SIGLIP))
    model.head.attention.__class__ = Labeled
    sima_hf.patch_model(model)
    assert isinstance(model.head.attention, Labeled)
    assert "labeled" in repr(model.head.attention)
    torch.testing.assert_close(output(model), output(plain))
    again = pickle.loads(pickle.dumps(model))
    assert type(again.head.attention) is type(model.head.attention)
    torch.testing.assert_close(output(again), output(plain))
    assert type(sima_hf.unpatch_model(again).head.attention) is Labeled


def test_a_users_subclass_that_calls_the_hosts_forward_calls_simas():
    model, plain = make(*SWINV2), sima_hf.patch_model(make(*SWINV2))
    swin_attention(model).__class__ = Scaled
    sima_hf.patch_model(model, verify=given("swinv2", ""))
    seen = []
    for one in (model, plain):
        swin_attention(one).register_forward_hook(lambda module, args, out: seen.append(out[0]))
        output(one, "swinv2")
    torch.testing.assert_close(seen[0], 3 * seen[1])


class Softmax(nn.MultiheadAttention):
    """A user's own attention over torch's."""

    def forward(self, query, key, value, **kwargs):
        return F.softmax(query @ key.mT, -1) @ value, None


class SoftmaxViT(modeling_vit.ViTAttention):
    """A user's own attention over one that goes through Transformers' interface."""

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        query, key, value = (project(hidden_states) for project in (self.q_proj, self.k_proj, self.v_proj))
        return self.o_proj(self.mix(query, key) @ value), None

    def mix(self, query, key):
        return F.softmax(query @ key.mT / query.shape[-1] ** 0.5, -1)


class GatedViT(modeling_vit.ViTAttention):
    """A user's addition to one that goes through Transformers' interface."""

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        attended, maps = super().forward(hidden_states, attention_mask, **kwargs)
        return attended.sigmoid() * attended, maps


class Mixer(nn.Module):
    """Attention of another library, under whatever name."""

    def __init__(self, channels=32):
        super().__init__()
        self.project = nn.Linear(channels, 3 * channels)

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        query, key, value = self.project(hidden_states).chunk(3, -1)
        return F.scaled_dot_product_attention(query, key, value), None


def siglip_with_a_softmax_subclass():
    model = make(*SIGLIP)
    model.head.attention.__class__ = Softmax
    return model


def siglip_with_a_namesake():
    quantizable = pytest.importorskip("torch.ao.nn.quantizable", reason="torch.ao is gone from this torch")
    model = make(*SIGLIP)
    model.head.attention = quantizable.MultiheadAttention(32, 4, batch_first=True)
    return model


def vit_with(change):
    def build():
        model = vit()
        change(model.vit.layers[1])
        return model

    return build


def hang_on_a_forward(layer):
    layer.attention.forward = SoftmaxViT.forward.__get__(layer.attention)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (siglip_with_a_softmax_subclass, r"'head.attention' in this SiglipVisionModel is a Softmax .*overrides"),
        (siglip_with_a_namesake, r"'head.attention' .* is a MultiheadAttention \(torch.ao.*overrides"),
        (
            vit_with(lambda layer: setattr(layer.attention, "__class__", SoftmaxViT)),
            "layers.1.attention.* is a SoftmaxViT .*does not use Transformers' attention interface",
        ),
        (
            vit_with(lambda layer: setattr(layer, "attention", Mixer())),
            "layers.1.attention.* is a Mixer .*does not use Transformers' attention interface",
        ),
        (
            vit_with(lambda layer: setattr(layer, "attention", nn.MultiheadAttention(32, 4))),
            r"is a MultiheadAttention \(torch.*does not use",
        ),
        (vit_with(hang_on_a_forward), "layers.1.attention.*does not use.*`del module.forward`"),
    ],
    ids=["subclass", "namesake", "subclass-on-interface", "stranger", "torchs", "instance"],
)
def test_softmax_of_a_users_own_is_refused_by_name(build, words):
    model = build()
    types, config = [type(module) for module in model.modules()], model.config
    with pytest.raises(UnsupportedModelError, match=words):
        sima_hf.patch_model(model)
    assert [type(module) for module in model.modules()] == types
    assert model.config is config


def test_a_users_subclass_that_calls_the_interface_is_sima_by_it():
    model = vit()
    model.vit.layers[1].attention.__class__ = GatedViT
    sima_hf.patch_model(model, verify=given("vit", ""))
    assert sima_hf.patching.describe(model).swapped[0].attentions == 2


@pytest.mark.parametrize("wraps", [True, False], ids=["with-wraps", "by-closure"])
def test_a_timed_forward_on_the_module_is_no_obstacle(wraps):
    """A wrapper that calls the module's own forward keeps the attention where it was."""
    model, calls = vit(), []
    attention = model.vit.layers[1].attention
    forward = attention.forward

    def timed(*args, **kwargs):
        calls.append(args)
        return forward(*args, **kwargs)

    attention.forward = functools.wraps(forward)(timed) if wraps else timed
    sima_hf.patch_model(model, verify=given("vit", ""))
    assert len(calls) == 1
    torch.testing.assert_close(logits(model), logits(sima_hf.patch_model(vit())))


def test_a_later_release_that_leaves_the_interface_is_refused(monkeypatch, tmp_path):
    """A class of Transformers with the usual name and projections, whose forward runs softmax by itself."""
    model = sima_hf.patch_model(vit())
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(modeling_vit.ViTAttention, "forward", SoftmaxViT.forward)
    monkeypatch.setattr(modeling_vit.ViTAttention, "mix", SoftmaxViT.mix, raising=False)
    softmax = vit()
    expected = logits(softmax)
    with pytest.raises(UnsupportedModelError, match=r"ViTAttention \(transformers.*Please report"):
        sima_hf.patch_model(softmax)
    assert torch.equal(logits(softmax), expected)
    with pytest.raises(UnsupportedModelError, match=r"ViTAttention \(transformers.*Please report"):
        AutoModelForImageClassification.from_pretrained(tmp_path)
    assert not sima_hf.patching.describe(model).swapped
