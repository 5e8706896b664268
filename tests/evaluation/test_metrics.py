"""Ranking of logits, and what Trainer is told: ties, NaN, labels left out."""

import pytest
import torch
from torch import nn
from transformers import EvalPrediction, Trainer, TrainingArguments
from transformers.modeling_outputs import ImageClassifierOutput

from sima_hf.errors import DataError
from sima_hf.evaluation.metrics import compute_metrics, rank_classes, top_classes
from tests.helpers.counting import counted_by_hand, tied_logits


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


def test_logits_must_be_floating_point():
    with pytest.raises(DataError, match=r"torch.int64 \(2, 3\)"):
        rank_classes(torch.zeros(2, 3, dtype=torch.int64))


@pytest.mark.parametrize("classes", [2, 37])
def test_trainers_metrics_are_counted_as_by_hand(classes):
    logits, labels = tied_logits(203, classes)
    expected = counted_by_hand(logits, labels)
    found = compute_metrics(EvalPrediction(logits.numpy(), labels.numpy()))
    assert found == {name: expected[name] for name in ("accuracy", "top_5_accuracy")}


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
    logits, labels = tied_logits(53, 11)
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
