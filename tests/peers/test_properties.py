"""What each formula is known for."""

import pytest
import torch
from torch.nn import functional as F

from sima_hf.peers import PEERS
from sima_hf.peers.inline import inline_attention
from sima_hf.peers.power_softmax import power_softmax_attention
from tests.helpers.tensors import inputs, relative_error


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_inline_is_softmax_to_first_order():
    query, key, value = inputs()
    errors = []
    for size in (1e-2, 1e-3):
        small = size * query
        softmax = F.scaled_dot_product_attention(small, key, value)
        errors.append((inline_attention(small, key, value) - softmax).norm().item())
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.05)  # what is left is of second order


def test_inline_and_softmax_do_not_see_a_shift_of_all_keys():
    query, key, value = inputs()
    moved = key + torch.randn(1, 3, 1, 8)
    assert relative_error(inline_attention(query, moved, value), inline_attention(query, key, value)) < 1e-12


@pytest.mark.parametrize("name", ["inline", "mala", "elu", "efficient", "power_softmax"])
def test_rows_sum_to_one(name):
    query, key, value = inputs()
    output = PEERS[name].function(query, key, torch.ones_like(value))
    tolerance = 1e-6 if name == "elu" else 1e-12  # what is added to its sum
    assert (output - 1).abs().max() < tolerance


@pytest.mark.parametrize("power", [2, 4, 6])
def test_powers_of_any_size(power):
    query, key, value = inputs(queries=9)
    found = power_softmax_attention(query, key, value, power=power)
    logits = (query @ key.transpose(-2, -1)) ** power
    assert relative_error(found, logits / logits.sum(-1, keepdim=True) @ value) < 1e-12
    large = power_softmax_attention(1e20 * query.float(), 1e10 * key.float(), value.float(), power=power)
    assert relative_error(large, found) < 1e-4  # in float32 the logits fit, their powers do not
    assert (power_softmax_attention(0 * query, key, value, power=power) == 0).all()


@pytest.mark.parametrize("power", [3, 0, 2.0])
def test_other_powers_are_refused(power):
    with pytest.raises(ValueError, match=f"`power` must be an even number of 2 or more, got {power}"):
        power_softmax_attention(*inputs(), power=power)


def test_hydra_needs_values_as_wide_as_keys():
    with pytest.raises(ValueError, match="`value` must have 8 channels as the query has, got 5"):
        PEERS["hydra"].function(*inputs(value_channels=5))
