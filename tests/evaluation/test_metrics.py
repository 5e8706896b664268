"""Top-1 and top-5 accuracy against counting by hand: ties, NaN, labels left out, partial batches, several processes."""

import gc
import importlib
import logging
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import EvalPrediction, Trainer, TrainingArguments
from transformers.modeling_outputs import ImageClassifierOutput

from sima_hf.errors import DataError
from sima_hf.evaluation.metrics import compute_metrics, rank_classes, top_classes
from sima_hf.evaluation.top_k_accuracy import TopKAccuracy


def counted_by_hand(logits, labels) -> dict:
    """Python numbers only: the place of the true class is how many classes are before it."""
    first = among_five = images = 0
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        if label == -100:
            continue
        images += 1
        if any(value != value for value in row):
            continue
        before = sum(value > row[label] or (value == row[label] and c < label) for c, value in enumerate(row))
        first += before == 0
        among_five += before < 5
    return {"accuracy": first / images, "top_5_accuracy": among_five / images, "num_images": images}


def images(count, classes, dtype=torch.float32, seed=0):
    """Logits with many ties, and labels a few of which are -100."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-4, 5, (count, classes), generator=generator).to(dtype) / 2
    labels = torch.randint(0, classes, (count,), generator=generator)
    labels[torch.rand(count, generator=generator) < 0.1] = -100
    return logits, labels


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [2, 3, 5, 6, 37])
def test_metric_counts_as_by_hand(classes, dtype):
    logits, labels = images(203, classes, dtype)
    metric = TopKAccuracy()
    for batch, truth in zip(logits.split(64), labels.split(64), strict=True):  # the last has 11
        metric.add_batch(predictions=batch, references=truth)
    expected = counted_by_hand(logits, labels)
    assert 0 < expected["accuracy"] < 1
    assert metric.compute() == expected
    assert compute_metrics(EvalPrediction(logits.float().numpy(), labels.numpy())) == {
        name: expected[name] for name in ("accuracy", "top_5_accuracy")
    }


def test_equal_logits_go_to_the_lower_class():
    logits = torch.zeros(3, 1000)
    logits[1, [7, 900]] = 1.0
    logits[2] = -0.0
    logits[2, ::2] = 0.0
    ranked = rank_classes(logits)
    assert ranked.tolist() == [[0, 1, 2, 3, 4], [7, 900, 0, 1, 2], [0, 1, 2, 3, 4]]


def test_infinite_logits_have_their_place():
    logits = torch.tensor([[-torch.inf, 3.0, torch.inf, 3.0]])
    assert rank_classes(logits, 3).tolist() == [[2, 1, 3]]
    assert rank_classes(logits, 10).tolist() == [[2, 1, 3, 0]]


def test_what_is_not_a_number_is_wrong_and_said(caplog):
    logits, labels = images(40, 4)
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
    logits, labels = images(50, 9)
    metric = TopKAccuracy()
    metric.add_batch(predictions=as_kind(rank_classes(logits, 7)), references=as_kind(labels))
    found = metric.compute()
    assert found == counted_by_hand(logits, labels)
    metric.add_batch(predictions=as_kind(logits), references=as_kind(labels))
    assert metric.compute() == found


def test_it_starts_anew_after_each_result_and_takes_single_images():
    logits, labels = images(30, 8)
    metric = TopKAccuracy()
    assert metric.compute(predictions=logits, references=labels) == counted_by_hand(logits, labels)
    for row, label in zip(logits[:9], labels[:9], strict=True):
        metric.add(prediction=row, reference=label)
    metric.add(prediction=logits[9].tolist(), reference=labels[9])
    assert metric.compute() == counted_by_hand(logits[:10], labels[:10])


def test_it_leaves_nothing_behind(capfd):
    metric = TopKAccuracy()
    metric.compute(predictions=[[0.0, 1.0]], references=[1])
    folder = Path(metric.data_dir)
    assert folder.is_dir()
    assert Path.home() / ".cache" not in folder.parents
    root = folder.parents[1]
    del metric
    gc.collect()
    assert not root.exists()
    assert capfd.readouterr() == ("", "")


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
    with pytest.raises(ValueError, match="experiment_id"):
        TopKAccuracy(num_process=2, process_id=0)
    with pytest.raises(DataError, match=r"torch.int64 \(2, 3\)"):
        rank_classes(torch.zeros(2, 3, dtype=torch.int64))


class Heads(nn.Module):
    """Logits made from the input alone, with two more outputs behind them as a DeiT with a teacher has."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, pixel_values, labels=None):
        logits = pixel_values * self.scale
        heads = (logits, -logits, logits.flip(-1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return (loss, *heads) if loss is not None else heads


class Plain(Heads):
    def forward(self, pixel_values, labels=None):
        logits = super().forward(pixel_values)[0]
        return ImageClassifierOutput(loss=nn.functional.cross_entropy(logits, labels), logits=logits)


@pytest.mark.parametrize("model", [Heads, Plain])
def test_trainer_evaluates_with_them(model, tmp_path):
    logits, labels = images(53, 11)
    data = [{"pixel_values": row, "labels": label} for row, label in zip(logits, labels.clamp(min=0), strict=True)]
    arguments = TrainingArguments(
        tmp_path, per_device_eval_batch_size=8, disable_tqdm=True, report_to="none", dataloader_pin_memory=False
    )
    trainer = Trainer(
        model(),
        arguments,
        eval_dataset=data,
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=top_classes,
    )
    found = trainer.evaluate()
    expected = counted_by_hand(logits, labels.clamp(min=0))
    assert found["eval_accuracy"] == expected["accuracy"]
    assert found["eval_top_5_accuracy"] == expected["top_5_accuracy"]
    assert trainer.predict(data).predictions.shape == (53, 5)


def _one_of_two(process_id, experiment, parts, queue=None):
    """What each process of an evaluation does: its own images, however few, in batches of 16."""
    torch.set_num_threads(1)
    metric = TopKAccuracy(num_process=2, process_id=process_id, experiment_id=experiment, timeout=30)
    logits, labels = parts[process_id]
    for batch, truth in zip(logits.split(16), labels.split(16), strict=True):
        metric.add_batch(predictions=batch, references=truth)
    found = metric.compute()
    if queue is None:
        return found, metric
    queue.put(found)
    return None


@pytest.mark.parametrize("second", [37, 1, 0], ids=["partial", "one-image", "none"])
def test_two_processes_bring_their_images_together(second):
    """`evaluate`'s own way over files, with unequal shares and partial last batches."""
    logits, labels = images(53 + second, 9, seed=second)
    parts = [(logits[:53], labels[:53]), (logits[53:], labels[53:])]
    context = multiprocessing.get_context("fork")
    queue, experiment = context.Queue(), f"test {os.getpid()} {second}"
    process = context.Process(target=_one_of_two, args=(1, experiment, parts, queue))
    process.start()
    found, metric = _one_of_two(0, experiment, parts)
    assert found == counted_by_hand(logits, labels)
    assert queue.get(timeout=30) is None
    process.join(30)
    assert process.exitcode == 0
    root = Path(metric.data_dir).parents[1]
    del metric
    gc.collect()
    assert not root.exists()


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


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="TopKAccuracy"):
        importlib.import_module("sima_hf.training").TopAccuracy  # noqa: B018
