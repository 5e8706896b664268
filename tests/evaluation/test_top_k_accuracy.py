"""The metric of `evaluate` against counting by hand."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sima_hf.errors import DataError
from sima_hf.evaluation.metrics import rank_classes
from sima_hf.evaluation.top_k_accuracy import TopKAccuracy
from tests.helpers.counting import counted_by_hand, tied_logits


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [2, 3, 5, 6, 37])
def test_metric_counts_as_by_hand(classes, dtype):
    logits, labels = tied_logits(203, classes, dtype)
    metric = TopKAccuracy()
    for batch, truth in zip(logits.split(64), labels.split(64), strict=True):  # the last has 11
        metric.add_batch(predictions=batch, references=truth)
    expected = counted_by_hand(logits, labels)
    assert 0 < expected["accuracy"] < 1
    assert metric.compute() == expected


def test_what_is_not_a_number_is_wrong_and_said(caplog):
    logits, labels = tied_logits(40, 4)
    labels = labels.clamp(min=0)
    logits[torch.arange(10), labels[:10]] = 100.0  # would be right
    logits[torch.arange(10), (labels[:10] + 1) % 4] = torch.nan
    metric = TopKAccuracy()
    metric.add_batch(predictions=logits, references=labels)
    expected = counted_by_hand(logits, labels)
    with caplog.at_level(logging.WARNING):
        assert metric.compute() == expected
    assert expected["top_5_accuracy"] == 0.75  # four classes: all others have theirs among the first five
    assert "10 of 40 images had logits that are not a number" in caplog.text


@pytest.mark.parametrize("as_kind", [torch.Tensor.tolist, torch.Tensor.numpy, lambda tensor: tensor, list])
def test_ranked_classes_of_any_kind_do_as_well_as_logits(as_kind):
    logits, labels = tied_logits(50, 9)
    metric = TopKAccuracy()
    metric.add_batch(predictions=as_kind(rank_classes(logits, 7)), references=as_kind(labels))
    found = metric.compute()
    assert found == counted_by_hand(logits, labels)
    metric.add_batch(predictions=as_kind(logits), references=as_kind(labels))
    assert metric.compute() == found


def test_it_starts_anew_after_each_result_and_takes_single_images():
    logits, labels = tied_logits(30, 8)
    metric = TopKAccuracy()
    assert metric.compute(predictions=logits, references=labels) == counted_by_hand(logits, labels)
    for row, label in zip(logits[:9], labels[:9], strict=True):
        metric.add(prediction=row, reference=label)
    metric.add(prediction=logits[9].tolist(), reference=labels[9])
    assert metric.compute() == counted_by_hand(logits[:10], labels[:10])


def test_bad_input_is_explained():
    metric = TopKAccuracy()
    for predictions, references, words in (
        ([1, 2, 3], [1, 2, 3], r"\(images, classes\).*got \(3,\) and \(3,\)"),
        (np.zeros((4, 3)), [1, 2], r"got \(4, 3\) and \(2,\)"),
        (np.zeros((1, 3)), [3], "from 0 to 2, or -100 to be left out, got 3"),
        (np.zeros((1, 3)), [-1], "from 0 to 2"),
        (np.zeros((1, 3)), [0.5], "class indices, got torch.float64"),
    ):
        with pytest.raises(DataError, match=words):
            metric.add_batch(predictions=predictions, references=references)
    with pytest.raises(DataError, match="no image to measure on"):
        metric.compute()
    metric.add_batch(predictions=np.zeros((2, 3)), references=[-100, -100])
    with pytest.raises(DataError, match="all labels were -100"):
        metric.compute()


def test_without_evaluate_the_module_works_and_the_metric_says_what_to_install(tmp_path):
    (tmp_path / "evaluate.py").write_text("raise ImportError('hidden by the test')")
    code = (
        "import sys, torch\n"
        "from sima_hf.evaluation import metrics\n"
        "assert metrics.top_classes(torch.eye(3), None, 1).tolist() == [[0], [1], [2]]\n"
        "try:\n    from sima_hf.training import TopKAccuracy\nexcept ImportError as error:\n    print(type(error).__name__, error)"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parents[2])])
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert run.stdout.startswith("MissingDependencyError"), run.stderr
    assert run.stdout.rstrip().endswith("pip install 'sima-hf[train]'")
