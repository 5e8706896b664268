"""The adapter to Transformers' AttentionInterface, and the native model's own attention, pinned to the operation."""

import pytest
import torch
from transformers import AttentionInterface
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

from sima_hf import SimAConfig, sima_attention
from sima_hf.attention import PositionBias, sima_attention_forward, sima_mask
from sima_hf.models.sima.modeling_sima import class_attention_forward, eager_attention_forward
from tests.helpers.tensors import DTYPE_IDS, DTYPES, definition, inputs, oracle, relative_error


@pytest.mark.parametrize("gain", ["none", "tokens"])
@pytest.mark.parametrize("backend", ["auto", "eager", "reference"])
def test_layout_and_numbers(backend, gain):
    query, key, value = inputs(queries=11, keys=19, value_channels=5)
    everyone = torch.ones(2, 11, 19, dtype=torch.bool)
    output, attentions = sima_attention_forward(
        None, query, key, value, None, gain=gain, backend=backend, scaling=0.1, dropout=0.5, softcap=None
    )
    assert output.shape == (2, 11, 3, 5)
    assert output.is_contiguous()
    assert attentions is None
    expected = oracle(query, key, value, everyone[:, :, :1].expand(2, 11, 11), everyone, gain)
    assert relative_error(output.transpose(1, 2), expected) < 1e-12


@pytest.mark.parametrize("key_heads", [3, 1])
@pytest.mark.parametrize("mask", ["none", "padding", "full"])
def test_the_map_times_the_values_is_the_output(mask, key_heads):
    query, key, value = inputs(key_heads=key_heads)
    keep = torch.rand(2, 17) > 0.3
    masks = {"none": None, "padding": keep, "full": torch.rand(2, 1, 17, 17) > 0.3}
    output, attentions = sima_attention_forward(None, query, key, value, masks[mask], output_attentions=True)
    assert attentions.shape == (2, 3, 17, 17)
    values = value.repeat_interleave(3 // key_heads, 1)
    assert relative_error((attentions @ values).transpose(1, 2), output) < 1e-12
    if mask == "full":
        assert (attentions[~masks["full"].expand_as(attentions)] == 0).all()


def test_causal_modules_are_refused_unless_a_mask_says_so():
    tensors = inputs()
    with pytest.raises(ValueError, match="not causal by itself"):
        sima_attention_forward(None, *tensors, is_causal=True)
    causal = torch.ones(1, 1, 17, 17, dtype=torch.bool).tril()
    output, _ = sima_attention_forward(None, *tensors, causal, is_causal=True)
    assert relative_error(output.transpose(1, 2), sima_attention(*tensors, causal)) < 1e-12


def test_registered_names():
    SimAConfig()
    registered = AttentionInterface().valid_keys()
    assert {"sima", "sima_eager", "sima_reference"} <= set(registered)


@pytest.mark.parametrize("dead", [False, True], ids=["alive", "dead-channels"])
@pytest.mark.parametrize("gain", ["none", "tokens"])
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
def test_the_models_own_attention_is_the_operation(dtype, gain, dead):
    tensors = inputs(queries=65, channels=16, dtype=dtype)
    if dead:
        tensors[0][..., 3] = tensors[1][..., 5] = 0
    upstream = torch.randn(2, 3, 65, 16).to(dtype)
    results = []
    for attend in (
        lambda q, k, v: eager_attention_forward(None, q, k, v, None, gain=gain)[0].transpose(1, 2),
        lambda q, k, v: sima_attention(q, k, v, gain=gain),
    ):
        leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
        output = attend(*leaves)
        results.append((output, *torch.autograd.grad(output, leaves, upstream)))
    for found, expected in zip(*results, strict=True):
        assert found.dtype == dtype
        assert relative_error(found, expected) <= DTYPES[dtype]
    with torch.autocast("cpu", torch.bfloat16):
        again = eager_attention_forward(None, *tensors, None, gain=gain)[0].transpose(1, 2)
    assert torch.equal(again, results[0][0])


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("gain", ["none", "tokens"])
def test_the_models_maps(dtype, gain):
    query, key, value = inputs(queries=20, dtype=dtype)
    output, attentions = eager_attention_forward(None, query, key, value, gain=gain, output_attentions=True)
    product = attentions.double() @ value.double()
    assert attentions.shape == (2, 3, 20, 20)
    assert relative_error(product.transpose(1, 2), output) <= DTYPES[dtype]


def test_the_models_own_attention_takes_no_mask():
    with pytest.raises(ValueError, match="takes no mask"):
        eager_attention_forward(None, *inputs(), torch.ones(2, 17, dtype=torch.bool))


@pytest.mark.parametrize("gain", ["none", "tokens"])
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
def test_class_attention_is_the_first_row_with_a_higher_floor(dtype, gain):
    query, key, value = inputs(queries=20, dtype=dtype)
    query[..., 2], key[..., 4] = query[..., 2] * 1e-8, key[..., 4] * 1e-8  # below the floor of 1e-6
    everyone = torch.ones(2, 20, 20, dtype=torch.bool)
    expected = oracle(query, key, value, everyone, everyone, gain, eps=1e-6)[:, :, :1]
    output, attentions = class_attention_forward(query, key, value, gain)
    assert output.shape == (2, 1, 3, 8)
    assert attentions.shape == (2, 3, 1, 20)
    assert relative_error(output.transpose(1, 2), expected) <= DTYPES[dtype]
    assert relative_error(attentions.double() @ value.double(), expected) <= DTYPES[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
def test_class_attention_with_dead_channels_has_finite_gradients(dtype):
    tensors = inputs(queries=20, dtype=dtype)
    tensors[0][..., 3] = tensors[1][..., 5] = 0
    leaves = [tensor.requires_grad_() for tensor in tensors]
    output, _ = class_attention_forward(*leaves, "none")
    grads = torch.autograd.grad(output, leaves, torch.randn_like(output))
    assert all(grad.isfinite().all() for grad in grads)
    assert (grads[0][..., 3] == 0).all()
    assert (grads[1][..., 5] == 0).all()


def test_a_bias_and_a_mask_stay_apart():
    query, key, value = inputs(queries=9)
    bias, other = torch.randn(2, 1, 3, 9, 9, dtype=torch.float64)
    blocks = (torch.arange(9) // 4)[:, None] == torch.arange(9) // 4
    both = PositionBias(bias) + blocks[None, None]
    found, _ = sima_attention_forward(torch.nn.Module(), query, key, value, both)
    expected = definition(query, key, value, blocks[None, None], bias)
    assert relative_error(found.transpose(1, 2), expected) < 1e-12
    found, maps = sima_attention_forward(
        torch.nn.Module(), query, key, value, PositionBias(bias) + PositionBias(other), output_attentions=True
    )
    assert relative_error(found.transpose(1, 2), definition(query, key, value, None, bias + other)) < 1e-12
    assert relative_error(maps @ value, found.transpose(1, 2)) < 1e-12


def test_two_masks_on_one_bias_are_refused():
    bias, mask = PositionBias(torch.zeros(1, 1, 2, 2)), torch.ones(1, 1, 2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="second attention mask"):
        bias + mask + mask
    with pytest.raises(ValueError, match="give one mask"):
        (bias + mask) + (bias + mask)
    assert (mask + bias).mask is mask
    assert ((bias + mask) + bias).mask is mask


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32])
def test_padding_keeps_its_form(dtype):
    """`(B,1,1,Nk)`, which is honored in linear time; the full mask would cost N x N."""
    keep = torch.ones(2, 9, dtype=torch.bool)
    keep[1, 5:] = False
    mask = sima_mask(
        batch_size=2, q_length=9, kv_length=9, mask_function=bidirectional_mask_function, attention_mask=keep.to(dtype)
    )
    assert mask.dtype == torch.bool
    assert torch.equal(mask, keep[:, None, None])
    query, key, value = inputs(queries=9)
    found, _ = sima_attention_forward(torch.nn.Module(), query, key, value, mask)
    assert relative_error(found.transpose(1, 2), definition(query, key, value, keep)) < 1e-12


def test_other_masks_are_full_and_boolean():
    mask = sima_mask(
        batch_size=1, q_length=3, kv_length=3, mask_function=causal_mask_function, allow_is_causal_skip=False
    )
    assert torch.equal(mask.expand(1, 1, 3, 3)[0, 0], torch.ones(3, 3).tril().bool())
    assert (
        sima_mask(
            batch_size=1,
            q_length=3,
            kv_length=3,
            mask_function=bidirectional_mask_function,
            allow_is_bidirectional_skip=True,
        )
        is None
    )
