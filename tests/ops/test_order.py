"""The cheaper order, by counted multiply-adds."""

import pytest
from tensors import inputs, relative_error

from sima_hf import sima_attention
from sima_hf.ops import backends
from sima_hf.ops.eager import eager_attention
from sima_hf.ops.order import cheaper_order


@pytest.mark.parametrize("queries", [1, 31, 32, 33, 64, 65, 197])
@pytest.mark.parametrize("keys", [1, 32, 64, 197])
@pytest.mark.parametrize(("channels", "value_channels"), [(64, 64), (16, 64), (64, 16), (1, 1)])
def test_it_is_the_cheaper_one(queries, keys, channels, value_channels):
    linear = keys * channels * value_channels + queries * channels * value_channels
    quadratic = queries * keys * channels + queries * keys * value_channels
    order = cheaper_order(queries, keys, channels, value_channels, full_mask=False)
    assert {"linear": linear, "quadratic": quadratic}[order] == min(linear, quadratic)


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
