"""Pooling heads, where one query asks: keys alone are normalized, and whoever asks learns."""

import math

import pytest
import torch

import sima_hf
from sima_hf.patching.attentions.pooling import pool
from tests.helpers.hosts.at_hand import given, make
from tests.helpers.tensors import relative_error


def formula(query, key, value, keep=None, scale=None):
    """`(B,1,H*Dv)` from `(B,H,1,D)`, `(B,H,N,D)`, `(B,H,N,Dv)`, image by image and head by head in float64."""
    query, key, value = query.double(), key.double(), value.double()
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    out = torch.zeros(query.shape[0], 1, query.shape[1] * value.shape[-1], dtype=torch.float64)
    for b in range(query.shape[0]):
        seen = torch.ones(key.shape[2], dtype=torch.bool) if keep is None else keep[b]
        rows = []
        for h in range(query.shape[1]):
            k, v = key[b, h][seen], value[b, h][seen]
            rows.append(sum((scale * query[b, h, 0] * k[j] / k.abs().sum(0)).sum() * v[j] for j in range(len(k))))
        out[b, 0] = torch.cat(rows)
    return out


def drawn(tokens, dtype=torch.float64, channels=8):
    generator = torch.Generator().manual_seed(tokens)
    shapes = (2, 3, 1, channels), (2, 3, tokens, channels), (2, 3, tokens, 5)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_numbers(tokens, padded, scale):
    query, key, value = drawn(tokens)
    keep = None
    if padded:
        keep = torch.arange(tokens).expand(2, -1) < torch.tensor([[max(1, tokens // 2)], [tokens]])
        key, value = (x.masked_fill(~keep[:, None, :, None], math.inf) for x in (key, value))
    assert relative_error(pool(query, key, value, keep, scale), formula(query, key, value, keep, scale)) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)]
)
def test_half_precision_is_summed_in_float32(dtype, tolerance):
    query, key, value = drawn(4096, dtype)
    value = value + 1
    found = pool(query, key, value)
    assert found.dtype == dtype
    assert relative_error(found, formula(query, key, value)) < tolerance
    with torch.autocast("cpu", torch.bfloat16):
        under = pool(query.float(), key.to(dtype), value.to(dtype))
    assert under.dtype == torch.bfloat16
    assert relative_error(under, formula(query, key, value)) < 2e-2


def test_a_dead_channel_and_a_padded_image_have_finite_gradients():
    query, key, value = drawn(6)
    key[..., 2] = 0
    leaves = [x.requires_grad_() for x in (query, key, value)]
    keep = torch.ones(2, 6, dtype=torch.bool)
    keep[1] = False
    found = pool(*leaves, keep)
    assert (found[1] == 0).all()
    grads = torch.autograd.grad(found.square().sum(), leaves)
    assert all(grad.isfinite().all() for grad in grads)
    assert (grads[0][..., 2] == 0).all()
    assert torch.autograd.gradcheck(pool, [x.detach().clone().requires_grad_() for x in drawn(3, channels=2)])


@pytest.mark.parametrize("tokens", [16, 196, 1024])
@pytest.mark.parametrize("shared", [0.0, 1.0], ids=["independent", "tokens-alike"])
def test_the_output_is_as_large_as_softmaxs(tokens, shared):
    """At any number of tokens, so there is no gain to choose. Tokens of an image share much; in random ones all cancels."""
    generator = torch.Generator().manual_seed(0)
    common = shared * torch.randn(8, 6, 1, 64, generator=generator)
    query = torch.randn(8, 6, 1, 64, generator=generator)
    key, value = (torch.randn(8, 6, tokens, 64, generator=generator) + common for _ in range(2))
    softmax = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    ratio = pool(query, key, value).norm() / softmax.norm()
    assert 0.5 < ratio < 2


# What asks in each: the probe or class token, its projection, the scales of its channels.
ASKING = {
    ("siglip_vision_model", "SiglipVisionModel"): ("head.probe", "head.attention.in_proj_weight"),
    ("siglip2_vision_model", "Siglip2VisionModel"): ("head.probe", "head.attention.in_proj_weight"),
    ("phi4_multimodal_vision", "Phi4MultimodalVisionModel"): ("head.probe", "head.attention.in_proj_weight"),
    ("aimv2_vision_model", "Aimv2VisionModel"): ("head.cls_token",),
    ("vjepa2", "VJEPA2ForVideoClassification"): (
        "pooler.cross_attention_layer.cross_attn.q_proj.weight",
        "pooler.cross_attention_layer.cross_attn.q_proj.bias",
    ),
    ("videoprism_vision_model", "VideoPrismForVideoClassification"): (
        "head.pooling_attention_query",
        "head.q_proj.weight",
        "head.per_dim_scale",
    ),
}


@pytest.mark.parametrize(("case", "name"), ASKING, ids=[case for case, _ in ASKING])
def test_what_asks_learns(case, name):
    """In float64: in float32, rounding noise looks like a gradient, and Adam makes full steps of it."""

    def gradients(model):
        inputs = {
            key: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
            for key, x in given(case, name).items()
        }
        output = model(**inputs)
        pooled = output.logits if hasattr(output, "logits") else output.pooler_output
        pooled.square().sum().backward()
        grads = {key: model.get_parameter(key).grad for key in ASKING[case, name]}
        return {key: x.chunk(3)[0] if "in_proj" in key else x for key, x in grads.items()}  # the query's third

    softmax, sima = (
        gradients(model) for model in (make(case, name).double(), sima_hf.patch_model(make(case, name).double()))
    )
    for key, grad in sima.items():
        assert grad.norm() > 1e-3 * softmax[key].norm(), key


@pytest.mark.parametrize("gain", ["none", "tokens"])
def test_siglips_head_is_the_formula(gain):
    """With the host's own layers around it, whatever the gain of the blocks."""
    model = sima_hf.patch_model(make("siglip_vision_model", "SiglipVisionModel").double(), gain=gain)
    head, hidden = model.head, torch.randn(2, 16, model.config.hidden_size).double()
    with torch.no_grad():
        query, key, value = (
            torch.nn.functional.linear(x, weight, bias).unflatten(-1, (head.attention.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in zip(
                (head.probe.expand(2, -1, -1), hidden, hidden),
                head.attention.in_proj_weight.chunk(3),
                head.attention.in_proj_bias.chunk(3),
                strict=True,
            )
        )
        context = head.attention.out_proj(formula(query, key, value))
        expected = (context + head.mlp(head.layernorm(context)))[:, 0]
        assert relative_error(head(hidden), expected) < 1e-12
