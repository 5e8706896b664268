"""The measure by which a file and its model are compared."""

import math

import pytest
import torch

from sima_hf.errors import ExportError
from sima_hf.exporting.agreement import compare, difference


INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0.0),
        ([1.0, -3.0], [1.0, -4.0], 0.25),
        ([0.0, 0.5], [0.0, 0.0], 0.5),
        ([INF, 2.0], [INF, 2.0], 0.0),
        ([NAN, 2.0], [NAN, 1.0], 1.0),
        ([NAN, 1.0], [1.0, 1.0], INF),
        ([INF, 1.0], [1.0, 1.0], INF),
        ([1.0], [1.0, 1.0], INF),
        ([], [], 0.0),
        ([1, 2, 3, 4], [1, 2, 3, 5], 0.25),
        ([True, False], [True, False], 0.0),
    ],
)
def test_difference(found, expected, error):
    assert difference(torch.tensor(found), torch.tensor(expected)) == error


def test_outputs_are_compared_one_by_one_and_numbers_that_are_no_tensors_not_passed_on():
    seen = []

    def run(**given):
        seen.append(set(given))
        return {"a": given["x"] * 2, "b": (given["x"] + 0.01, None)}

    given = [{"x": torch.ones(2, 3), "flag": True}, {"x": torch.full((1, 3), 2.0), "flag": True}]
    exact = compare(run, lambda x, flag: {"a": x * 2, "b": (x, None)}, given, 0.02)
    assert seen == [{"x"}, {"x"}]
    assert [run["inputs"] for run in exact.runs] == [{"x": [2, 3]}, {"x": [1, 3]}]
    assert [error for run in exact.runs for error in run["errors"]] == pytest.approx([0, 0.01, 0, 0.005], abs=1e-7)
    assert exact.error == pytest.approx(0.01, abs=1e-7)
    with pytest.raises(ExportError, match=r"differs from the model on inputs of .*\[2, 3\].* by 0.01 .* 0.001 is"):
        compare(run, lambda x, flag: {"a": x * 2, "b": (x, None)}, given, 1e-3)
