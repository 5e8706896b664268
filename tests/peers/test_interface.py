"""The peers as attention functions of Transformers: in a ViT by name, masks, maps, autocast."""

import pytest
import torch
from transformers import AttentionInterface, ViTConfig, ViTForImageClassification

import sima_hf
from sima_hf.attention import PositionBias, peer_attention_forward
from sima_hf.peers import PEERS
from tests.helpers.tensors import inputs, relative_error


DROP_INS = [name for name, mechanism in PEERS.items() if mechanism.drop_in]
WITH_MAPS = [name for name in DROP_INS if PEERS[name].linear_in_value and PEERS[name].has_map]


def vit(name):
    sima_hf.SimAConfig()  # registers
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 4, "hidden_size": 24, "num_attention_heads": 3}
    config = ViTConfig(**sizes, num_hidden_layers=2, intermediate_size=32, num_labels=3, attn_implementation=name)
    return ViTForImageClassification(config)


@pytest.mark.parametrize("name", DROP_INS)
def test_a_vit_by_name(name):
    images, model = torch.randn(2, 3, 16, 16), vit(name)
    seen = []
    attention = model.vit.layers[0].attention
    attention.o_proj.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    attention.q_proj.register_forward_hook(lambda module, given, output: seen.append(given[0]))
    model(images).logits.sum().backward()
    hidden = seen[0]
    query, key, value = (
        project(hidden).view(2, -1, 3, 8).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    expected = PEERS[name].function(query, key, value).transpose(1, 2).flatten(2)
    assert torch.equal(seen[1], expected)
    gradients = [parameter.grad for parameter in attention.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images).logits.isfinite().all()


@pytest.mark.parametrize("name", WITH_MAPS)
def test_maps(name):
    model = vit(name).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        output = model(images, output_attentions=True)
        assert relative_error(output.logits, model(images).logits) < 1e-5
    assert output.attentions[0].shape == (2, 3, 17, 17)
    query, key, value = inputs()
    keep = torch.rand(2, 17) > 0.4
    found, attentions = peer_attention_forward(
        None, query, key, value, keep[:, None, None], mechanism=PEERS[name], output_attentions=True
    )
    assert relative_error((attentions @ value).transpose(1, 2), found) < 1e-12
    assert (attentions[~keep[:, None, None].expand_as(attentions)] == 0).all()


@pytest.mark.parametrize("name", [name for name in DROP_INS if name not in WITH_MAPS])
def test_no_maps_where_there_are_none(name):
    with pytest.raises(ValueError, match=r"`output_attentions` must be False with .*, which has no maps"):
        vit(name)(torch.randn(2, 3, 16, 16), output_attentions=True)


@pytest.mark.parametrize("name", [name for name in DROP_INS if PEERS[name].takes_bias])
def test_bias_and_scale_arrive(name):
    tensors, bias = inputs(), torch.randn(1, 3, 17, 17, dtype=torch.float64)
    carried = PositionBias(bias, torch.rand(2, 1, 17, 17) > 0.4)
    found, _ = peer_attention_forward(None, *tensors, carried, mechanism=PEERS[name], scaling=0.2)
    expected = PEERS[name].function(*tensors, carried.mask, bias=bias, scale=0.2)
    assert torch.equal(found.transpose(1, 2), expected)


def test_causal_modules_are_refused():
    with pytest.raises(ValueError, match="InLine core attention is not causal by itself"):
        peer_attention_forward(None, *inputs(), mechanism=PEERS["inline"], is_causal=True)


def test_what_is_registered():
    sima_hf.SimAConfig()
    assert set(DROP_INS) <= set(AttentionInterface().valid_keys())
    assert "soft" not in AttentionInterface().valid_keys()
