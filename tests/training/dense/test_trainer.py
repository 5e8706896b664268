"""Checkpoints of dense runs are whole, views follow the epoch, and a run that has diverged says so."""

import os
import signal

import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation, TrainerCallback

from sima_hf.errors import CheckpointError, TrainingError
from sima_hf.training.checkpoints.folders import checkpoint_to_resume
from sima_hf.training.checkpoints.interruption import StoppedBySignal
from sima_hf.training.dense.trainer import DenseTrainer, DenseTrainingArguments


class Pictures(torch.utils.data.Dataset):
    """Eight random pictures, each different in each epoch; remembers which were asked for."""

    def __init__(self, value=1.0):
        self.epoch, self.value, self.seen = 0, value, []

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 8

    def __getitem__(self, index):
        self.seen.append((self.epoch, index))
        generator = torch.Generator().manual_seed(100 * self.epoch + index)
        pixels = self.value * torch.randn(3, 32, 32, generator=generator)
        return {"pixel_values": pixels, "labels": (pixels[0] > 0).long()}


def trainer_in(folder, pictures=None, **arguments):
    torch.manual_seed(0)
    config = SegformerConfig(depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8)
    given = {"num_train_epochs": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1}
    quiet = {
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "steps",
        "save_steps": 3,
    }
    args = DenseTrainingArguments(output_dir=str(folder), **{**given, **quiet, **arguments})
    return DenseTrainer(SegformerForSemanticSegmentation(config), args, train_dataset=pictures or Pictures())


def losses(trainer):
    return {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}


def test_going_on_gives_the_same_losses(tmp_path):
    """From the middle of the second of three epochs, whose views the training set makes anew for their epoch."""
    whole = trainer_in(tmp_path)
    whole.train()
    assert {epoch for epoch, _ in whole.train_dataset.seen} == {0, 1, 2}
    checkpoint = checkpoint_to_resume(tmp_path, str(tmp_path / "checkpoint-3"))
    again = trainer_in(tmp_path)
    again.train(resume_from_checkpoint=checkpoint)
    assert losses(again) == losses(whole)
    assert {epoch for epoch, _ in again.train_dataset.seen} == {1, 2}
    mine = again.model.state_dict()
    assert all(torch.equal(mine[name], value) for name, value in whole.model.state_dict().items())


def test_a_damaged_checkpoint_is_told(tmp_path):
    trainer_in(tmp_path).train()
    (tmp_path / "checkpoint-6" / "optimizer.pt").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"checkpoint-6 .*--resume_from_checkpoint .*checkpoint-3"):
        checkpoint_to_resume(tmp_path, "last")


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    with pytest.raises(TrainingError, match=r"The loss is nan at step 1: the run has diverged.*no earlier checkpoint"):
        trainer_in(tmp_path, Pictures(float("nan"))).train()


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    trainer = trainer_in(tmp_path, logging_strategy="no")

    class Breaks(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 6:
                torch.nn.init.constant_(trainer.model.decode_head.classifier.weight, float("inf"))

    trainer.add_callback(Breaks())
    with pytest.raises(
        TrainingError, match=r"A weight is not finite at step 6.*last good checkpoint is .*checkpoint-3"
    ):
        trainer.train()
    assert not (tmp_path / "checkpoint-6").exists()


def test_sigterm_saves_and_ends(tmp_path):
    trainer = trainer_in(tmp_path)

    class Asks(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    trainer.add_callback(Asks())
    with pytest.raises(StoppedBySignal, match=r"Stopped by SIGTERM after step 2\. The last good checkpoint is .*-2;"):
        trainer.train()
    assert checkpoint_to_resume(tmp_path, "last").name == "checkpoint-2"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"output_dir": None}, "--output_dir must name the folder of the run, got none"),
        ({"output_dir": "x", "remove_unused_columns": True}, "--remove_unused_columns must be False, got True"),
        ({"output_dir": "x", "batch_eval_metrics": False}, "--batch_eval_metrics must be True, got False"),
    ],
    ids=["folder", "columns", "metrics"],
)
def test_arguments_that_no_run_can_have(arguments, words):
    with pytest.raises(TrainingError, match=words):
        DenseTrainingArguments(**arguments)
