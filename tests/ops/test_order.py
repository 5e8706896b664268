"""The cheaper order, by counted multiply-adds."""

import itertools

import pytest

from sima_hf import sima_attention
from sima_hf.ops import backends
from sima_hf.ops.eager import eager_attention
from sima_hf.ops.order import cheaper_order
from tests.helpers.tensors import inputs, relative_error


def test_it_is_the_cheaper_one():
    widths = [(64, 64), (16, 64), (64, 16), (1, 1)]
    for queries, keys, (channels, values) in itertools.product([1, 31, 32, 33, 64, 65, 197], [1, 32, 64, 197], widths):
        costs = {
            "linear": keys * channels * values + queries * channels * values,
            "quadratic": queries * keys * channels + queries * keys * values,
        }
        order = cheaper_order(queries, keys, channels, values, full_mask=False)
        assert costs[order] == min(costs.values()), (queries, keys, channels, values)


def test_equal_cost_goes_to_the_order_that_writes_no_map():
    assert cheaper_order(64, 64, 64, 64, full_mask=False) == "linear"


def test_a_full_mask_needs_the_map():
    assert cheaper_order(10_000, 10_000, 64, 64, full_mask=True) == "quadratic"


@pytest.mark.parametrize("tokens", [5, 7, 8, 9, 100])
def test_auto_follows_it(tokens, monkeypatch):
    orders = []

    def spy(*args, order, **kwargs):
        orders.append(order)
        return eager_attention(*args, order=order, **kwargs)

    monkeypatch.setattr(backends, "BACKENDS", (backends.Backend("spy", spy, "for the test"),))
    tensors = inputs(queries=tokens, channels=8)
    found = sima_attention(*tensors)
    assert orders == ["quadratic" if tokens < 8 else "linear"]
    monkeypatch.undo()
    assert relative_error(found, sima_attention(*tensors, backend="reference")) < 1e-12
