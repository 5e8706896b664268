"""What the Triton kernels compile to for A100 and H100, without a GPU: Triton's interpreter, where the others run, shows none of this.

A minute of one core; Triton's cache makes the next time quick.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.backends import NO_TRITON


pytestmark = [pytest.mark.slow, pytest.mark.skipif(NO_TRITON is not None, reason=str(NO_TRITON))]
SHARED = 64 * 1024  # bytes; from compute capability 8.0 on a program may have 99 KiB
PIECES = ["sum"] * 4  # of a, b, the context and the gain
LAUNCHES = {  # ours, and torch's by name; of one piece and of several
    "inference": ([1, []], [2, PIECES]),
    "training": ([1, []], [2, PIECES]),
    "backward": ([2, ["mul", "sum"]], [2, ["sum", "mul", "sum"]]),
}


@pytest.fixture(scope="module")
def rows():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.helpers.compiled_kernels"],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        cwd=Path(__file__).parents[2],
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def compiled(rows):
    found = [row for row in rows if "registers" in row]
    assert {(row["arch"], row["dtype"], row["width"]) for row in found} == {
        (arch, *what)
        for arch in (80, 90)
        for what in (("float32", 64), *(("bfloat16", width) for width in (64, 72, 128, 256)))
    }
    return found


def test_every_kernel_compiles(rows):
    assert [row for row in rows if "error" in row] == []


def test_they_fit_and_spill_nothing(compiled):
    assert [row for row in compiled if row["shared"] > SHARED or row["stack"] > 0] == []


def test_half_precision_multiplies_in_tensor_cores_and_float32_is_not_shortened(compiled):
    assert [row for row in compiled if row["tensor_cores"] is (row["dtype"] == "float32") or row["tf32"]] == []


def test_tokens_are_read_and_written_in_vectors(compiled):
    """At 72 channels too."""
    assert [row for row in compiled if row["narrow"] or not row["wide"]] == []


def test_no_copy_overtakes_a_product(rows):
    """On Hopper, of every kernel with and without a mask; and the check finds the race in a loop that has it."""
    read = [row for row in rows if "races" in row and "control" not in row]
    assert {row["masked"] for row in read if row["arch"] == 90} == {True, False}
    assert [row for row in read if row["races"]] == []
    control = next(row for row in rows if "control" in row)
    assert control["races"]


def test_number_of_launches(rows):
    counted = [row for row in rows if "launches" in row]
    assert {row["batch"] for row in counted} == {1, 256}
    for row in counted:
        for mode, found in row["launches"].items():
            assert found == LAUNCHES[mode][row["batch"] == 1], (row["dtype"], row["width"], mode)
