"""The table of times, from the CSV that the benchmark wrote."""

import csv
from pathlib import Path

import pytest

from sima_hf.errors import PublishError
from sima_hf.hub.cards.speed import speed_table


RESULTS = Path(__file__).resolve().parents[3] / "benchmarks/results"
BENCHMARK = RESULTS / "model_deit-small_forward_cpu_float32.csv"


def rows():
    with BENCHMARK.open(newline="") as file:
        return list(csv.DictReader(file))


def test_times_and_factors_are_the_files():
    table = speed_table(BENCHMARK, ("org/other",))
    for row in rows():
        size = (row["mode"], row["batch"], row["pixels"])
        assert table["table"][size][row["contestant"]] == float(row["median_ms"])
        if row["contestant"] == "sima":
            assert table["factors"][size] == pytest.approx(1 / float(row["ratio_to_baseline"]))
    assert (table["model"], table["baseline"], table["other_model"]) == ("deit-small", "softmax", True)
    assert not speed_table(BENCHMARK, ("deit-small",))["other_model"]


def test_contestants_are_told_in_words():
    table = speed_table(RESULTS / "model_sima_small_12_p16_forward_cpu_float32.csv")
    assert list(table["contestants"].values())[:2] == ["SimA's formula as written", "SimA"]
    assert table["baseline"] == "SimA's formula as written"


@pytest.mark.parametrize(
    ("column", "value"), [("median_ms", "fast"), ("ratio_to_baseline", ""), ("ratio_to_baseline", "0")]
)
def test_times_that_cannot_be_are_refused(column, value, tmp_path):
    path = tmp_path / "times.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows()[0])
        writer.writeheader()
        writer.writerows({**row, column: value} for row in rows())
    with pytest.raises(PublishError, match=r"times\.csv"):
        speed_table(path)


def test_a_csv_of_something_else_is_refused():
    with pytest.raises(PublishError, match=r"attention_cpu_float32\.csv must be"):
        speed_table(RESULTS / "attention_cpu_float32.csv")
