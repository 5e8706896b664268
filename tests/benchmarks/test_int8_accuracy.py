"""SimA in whole numbers against float64, and the measurement of int8 on a model that is not trained."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sima_hf import sima_attention


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def inputs(*shape, seed=0):
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape) * np.exp(0.5 * random.standard_normal(shape[-1])) + 0.3 for _ in range(3)]


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (1, 1, 131, 24), (1, 2, 1000, 33)])
def test_whole_numbers_are_near_the_package_in_float64(shape):
    from integer_sima import integer_sima

    given = inputs(*shape)
    expected = sima_attention(*(torch.from_numpy(x) for x in given), backend="reference").numpy()
    for bits, most in ((16, 0.03), (8, 0.12)):
        error = np.linalg.norm(integer_sima(*given, bits) - expected) / np.linalg.norm(expected)
        assert error < most


def test_the_matrix_is_what_fractions_give_to_a_unit():
    from integer_sima import best_shift, quantized, scaled_matrix, sums

    given = inputs(4, 300, 16)
    query_norm, key_norm, products = sums(*(quantized(x)[0] for x in given))
    assert {x.dtype for x in (query_norm, key_norm, products)} == {np.dtype(np.int32)}
    shift = best_shift(*given, 16)
    exact = products / (query_norm.astype(float) * np.swapaxes(key_norm, -1, -1)) * 2.0**shift
    assert np.abs(exact).max() <= 32767
    assert np.abs(exact).max() > 32767 / 2 - 1
    assert np.abs(scaled_matrix(products, query_norm, key_norm, shift) - exact).max() < 2.5


def test_reciprocals_are_right_to_their_bits():
    from integer_sima import reciprocal

    norms = np.array([1, 2, 3, 127, 128, 1000, 65535, 65536, 127 * 4096], dtype=np.int32)
    mantissa, shift = reciprocal(norms)
    assert mantissa.max() < 2**16
    assert np.abs(mantissa * 2.0**-shift * norms - 1).max() < 2.0**-15
    assert reciprocal(np.zeros(1, np.int32))[0] == 0


def test_scales_of_queries_and_keys_cancel():
    from integer_sima import integer_sima

    query, key, value = inputs(1, 40, 8)
    assert np.array_equal(integer_sima(query, key, value), integer_sima(8 * query, key / 4, value))


def test_a_channel_of_zeros_gives_nothing():
    from integer_sima import integer_sima

    query, key, value = inputs(1, 40, 8)
    query[..., 2] = 0
    without = [np.delete(query, 2, axis=-1), np.delete(key, 2, axis=-1), value]
    found = integer_sima(query, key, value)
    assert np.isfinite(found).all()
    assert np.linalg.norm(found - integer_sima(*without)) < 0.02 * np.linalg.norm(found)


def test_no_sum_is_wider_than_its_bound():
    from integer_sima import sums, width, widths

    tokens, head_dim = 4096, 5
    worst = [np.full((tokens, head_dim), sign * 127, dtype=np.int8) for sign in (1, -1, -1)]
    query_norm, _, products = sums(*worst)
    bound = widths(tokens, head_dim)
    assert (query_norm == 127 * tokens).all()
    assert (products == 127 * 127 * tokens).all()
    assert width(query_norm.max(), signed=False) == bound["norm"] == 19
    assert width(products.max()) == bound["key_value"] == 27


@pytest.mark.slow
def test_a_row_and_both_tables(tmp_path, monkeypatch):
    pytest.importorskip("transformers.exporters")
    pytest.importorskip("onnxruntime")
    import int8_accuracy
    from int8_models import RECIPES

    monkeypatch.setitem(RECIPES, "digits", {**RECIPES["digits"], "epochs": 2})
    row = int8_accuracy.measure("digits", "ViT with SimA", tmp_path)
    assert row["softmax_in_attention"] == 0
    assert row["test_images"] == 500
    assert abs(row["int8"] - row["float"]) < 0.1
    assert abs(row["integer_16"] - row["float"]) < 0.1
    assert row["same_answers"] > 0.85
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- int8:start -->\n<!-- int8:end -->\n<!-- integers:start -->\n<!-- integers:end -->\nb\n")
    results = {
        "rows": [row],
        "calibration_images": 384,
        "fashion_trained": 1,
        "recipes": RECIPES,
        "device": "a machine",
        "versions": {"torch": "2"},
        "integer": [int8_accuracy.integer_row(16)],
    }
    int8_accuracy.update_page(page, json.loads(json.dumps(results)))
    text = page.read_text()
    assert f"| digits | ViT with SimA | {100 * row['float']:.1f} | {100 * row['int8']:.1f} |" in text
    assert "\n| 16 |" in text


@pytest.mark.results
def test_committed_results_lose_less_than_half_a_point_and_stand_in_the_page():
    import int8_accuracy

    results = json.loads((ROOT / "benchmarks" / "results" / "int8_accuracy.json").read_text())
    assert {(row["task"], row["model"]) for row in results["rows"]} == {
        (task, kind) for task in int8_accuracy.TITLES for kind in int8_accuracy.KINDS
    }
    for row in results["rows"]:
        assert row["float"] - row["int8"] <= 0.005, row["model"]
        assert row["softmax_in_attention"] == (4 if row["model"] == "softmax ViT" else 0)
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    assert int8_accuracy.accuracy_table(results).replace("](benchmarks", "](../benchmarks") in page
    assert int8_accuracy.integer_table(results) in page
