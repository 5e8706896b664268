"""The benchmark of attention: what it measures is checked first."""

import functools

import pytest
import torch

from sima_hf.bench import attention, attention_report, tables
from sima_hf.ops import sima_attention


@pytest.fixture(scope="module", autouse=True)
def _a_machine_of_known_speed():
    """How it is measured is in test_floor.py; here it would take a second each time, in bfloat16 a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "multiply_add_ceiling", lambda dtype, device: 1e10)
        yield


@pytest.fixture(scope="module")
def rows():
    return attention.measure(sizes=((2, 5), (1, 70)), seconds=0.0, compiled=False)


def test_every_contestant_at_every_size(rows):
    assert {(row.contestant, row.batch, row.tokens) for row in rows} == {
        (name, batch, tokens) for name in attention.CONTESTANTS for batch, tokens in ((2, 5), (1, 70))
    }
    for row in rows:
        assert row.turns >= 7
        assert 0 < row.lower_quartile_us <= row.median_us <= row.upper_quartile_us
        assert row.threads == torch.get_num_threads()
        assert row.floor_us > 0
        assert row.peak_bytes >= 4 * row.batch * row.tokens * row.heads * row.channels  # the output
    assert {row.ratio_to_softmax for row in rows if row.contestant == "softmax"} == {1.0}
    assert {row.ratio_to_literal for row in rows if row.contestant == "literal"} == {1.0}


@pytest.mark.slow
def test_training_and_the_compiled_contestant(tmp_path, monkeypatch):
    """Traced and run as it was traced; compiling C++ would take a minute and is torch's business."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    trained = attention.measure(sizes=((1, 70),), seconds=0.0, mode="train", dtype=torch.bfloat16)
    assert {row.contestant for row in trained} == {*attention.CONTESTANTS, *attention.COMPILED}
    assert {(row.mode, row.dtype) for row in trained} == {("train", "bfloat16")}
    tables.write_csv(trained, tmp_path / "a.csv")
    assert "sima_compiled" in attention_report.table(tmp_path / "a.csv")
    attention_report.draw(tmp_path / "a.csv", tmp_path / "a.png")


def test_unknown_mode():
    with pytest.raises(ValueError, match="'forward', 'train', got 'sideways'"):
        attention.measure(mode="sideways")


def test_nothing_is_timed_when_results_disagree(monkeypatch):
    monkeypatch.setitem(attention.CONTESTANTS, "sima", lambda query, key, value: 1.01 * value)
    with pytest.raises(RuntimeError, match="sima differs from the literal formula"):
        attention.measure(sizes=((1, 8),), seconds=0.0)


def test_nothing_is_timed_when_gradients_disagree(monkeypatch):
    def detached(query, key, value):
        return sima_attention(query, key.detach(), value) + 0 * key

    monkeypatch.setitem(attention.CONTESTANTS, "sima", detached)
    attention.measure(sizes=((1, 8),), seconds=0.0, compiled=False)
    with pytest.raises(RuntimeError, match="sima differs from the literal formula"):
        attention.measure(sizes=((1, 8),), seconds=0.0, mode="train", compiled=False)


def test_literal_formula_is_the_papers():
    query, key, value = (tensor.double() for tensor in attention.strided_inputs(2, 70, torch.float32, "cpu"))
    weights = torch.einsum("bhic,bhjc->bhij", query / query.abs().sum(2, True), key / key.abs().sum(2, True))
    torch.testing.assert_close(attention.literal_formula(query, key, value), weights @ value)


def test_csv_round_trip_table_and_picture(rows, tmp_path):
    path = tmp_path / "attention.csv"
    tables.write_csv(rows, path)
    read = tables.read_csv(path)
    assert [row["contestant"] for row in read] == [row.contestant for row in rows]
    assert float(read[0]["median_us"]) == rows[0].median_us
    attention_report.draw(path, tmp_path / "attention.png")
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    heading, *lines = attention_report.table(path).splitlines()
    assert "time sima/softmax (less is better)" in heading
    assert [len(line) for line in lines] == [len(heading)] * 2
