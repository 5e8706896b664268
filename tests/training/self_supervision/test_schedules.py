"""Schedules against numpy's, written out as the paper has them."""

import numpy as np
import pytest

from sima_hf.training.self_supervision.schedules import cosine, linear_warmup


def test_cosine_is_numpys():
    steps = 37
    wanted = 1.0 + 0.5 * (0.996 - 1.0) * (1 + np.cos(np.pi * np.arange(steps) / steps))
    assert [cosine(0.996, 1.0, step, steps) for step in range(steps)] == pytest.approx(wanted.tolist(), abs=1e-15)
    assert cosine(0.996, 1.0, steps + 5, steps) == 1.0


def test_the_warmup_is_a_line_and_then_its_end():
    wanted = np.interp([0, 0.5, 1.25, 3.0, 7.0], [0, 3], [0.04, 0.07])
    assert [linear_warmup(0.04, 0.07, epoch, 3) for epoch in (0, 0.5, 1.25, 3.0, 7.0)] == pytest.approx(
        wanted.tolist()
    )
    assert linear_warmup(0.04, 0.07, 0, 0) == 0.07
