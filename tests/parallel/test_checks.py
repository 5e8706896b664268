"""What cannot be split is refused by name, before anything is changed; what a model becomes afterwards is refused in its forward."""

import pytest
import torch
from torch import distributed, nn
from transformers import ViTConfig, ViTForImageClassification

import sima_hf
from sima_hf import SimABackbone, SimAConfig, SimAForImageClassification
from sima_hf.errors import UnsupportedModelError
from tests.helpers.hosts.at_hand import make, vit
from tests.helpers.hosts.interface import SIZES


NATIVE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}


@pytest.fixture(scope="module")
def alone():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.group.WORLD
    distributed.destroy_process_group()


def native(**kwargs):
    return SimAForImageClassification(SimAConfig(**NATIVE, **kwargs))


def with_sync_batch_norm():
    return nn.SyncBatchNorm.convert_sync_batchnorm(native())


REFUSED = {
    "no model": (lambda: nn.Linear(2, 2), TypeError, "takes a Transformers model .* got Linear"),
    "softmax": (vit, UnsupportedModelError, r"'vit' model .* softmax .* sima_hf\.patch_model\(model\) first"),
    "windows": (
        lambda: sima_hf.patch_model(make("swin", "SwinModel")),
        UnsupportedModelError,
        "'sima_swin' model SimASwinModel cannot be split .* Models that can be split: ViTModel, .*",
    ),
    "maps": (
        lambda: SimABackbone(SimAConfig(**NATIVE)),
        UnsupportedModelError,
        "'sima' model SimABackbone cannot be split",
    ),
    "a peer": (
        lambda: sima_hf.patch_model(vit(), attention="inline"),
        UnsupportedModelError,
        "cannot be split over processes with InLine",
    ),
    "synchronized": (with_sync_batch_norm, UnsupportedModelError, "holds a SyncBatchNorm"),
    "own attention": (
        lambda: native(attn_implementation="eager"),
        ValueError,
        "needs? SimA in plain torch, but this SimAForImageClassification has 'eager'",
    ),
    "fused attention": (
        lambda: sima_hf.patch_model(vit(), backend="cpu"),
        ValueError,
        "needs? SimA in plain torch, but this SimAViT.* has 'sima_cpu'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_split(case, alone):
    build, error, words = REFUSED[case]
    model = build()
    before = [dict(vars(module)) for module in model.modules()]
    with pytest.raises(error, match=words):
        sima_hf.split_tokens(model, alone)
    assert [dict(vars(module)) for module in model.modules()] == before


def test_a_group_is_needed(alone):
    with pytest.raises(ValueError, match=r"`group` must be a process group .* torch\.distributed\.group\.WORLD"):
        sima_hf.split_tokens(native(), None)


def test_twice_is_refused_and_remove_puts_back(alone):
    model, pixels = native(attention_gain="tokens").eval(), torch.randn(2, 3, 21, 18)
    with torch.no_grad():
        before = model(pixels).logits
        split = sima_hf.split_tokens(model, alone)
        with pytest.raises(ValueError, match=r"split already; call `remove\(\)`"):
            sima_hf.split_tokens(model, alone)
        torch.testing.assert_close(model(pixels).logits, before)
        split.remove()
        split.remove()
        assert torch.equal(model(pixels).logits, before)
    with pytest.raises(RuntimeError, match="of the user's"), sima_hf.split_tokens(model, alone):
        raise RuntimeError("of the user's")
    assert not any({"forward", "token_split"} & vars(module).keys() for module in model.modules())


def dropout(model):
    model.train()


def drop_path(model):
    model.train().sima.layers[0].drop_path.rate = 0.1


CHANGES = {
    "dropout": (
        dropout,
        {"hidden_dropout_prob": 0.1},
        r"Dropout must be 0 .* got p=0\.1 in 'sima\.embeddings\.dropout'",
    ),
    "drop path": (drop_path, {}, r"got rate=0\.1 in 'sima\.layers\.0\.drop_path'"),
    "backend": (lambda model: model.set_attn_implementation("sima_cpu"), {}, "has 'sima_cpu': choose by"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_a_split_model_becomes(case, alone):
    change, options, words = CHANGES[case]
    model = native(**options).eval()
    with sima_hf.split_tokens(model, alone):
        model(torch.randn(1, 3, 16, 16))
        change(model)
        with pytest.raises(ValueError, match=words):
            model(torch.randn(1, 3, 16, 16))


def test_maps_are_refused(alone):
    model = native().eval()
    with (
        sima_hf.split_tokens(model, alone),
        pytest.raises(ValueError, match="`output_attentions` must be False while"),
    ):
        model(torch.randn(1, 3, 16, 16), output_attentions=True)


def test_a_model_that_is_turned_back_to_softmax_does_not_run(alone):
    config = ViTConfig(**SIZES, image_size=32, patch_size=8)
    model = sima_hf.patch_model(ViTForImageClassification(config).eval())
    with sima_hf.split_tokens(model, alone):
        sima_hf.unpatch_model(model)
        with pytest.raises(ValueError, match="this ViTForImageClassification has 'sdpa'"):
            model(torch.randn(1, 3, 32, 32))
    with torch.no_grad():
        assert model(torch.randn(1, 3, 32, 32)).logits.isfinite().all()
