"""Transformers' Trainer on a SimA model: it learns, saves, and goes on from a checkpoint as if it had never stopped."""

import pytest
import torch
from transformers import Trainer, TrainingArguments, set_seed

from sima_hf import SimAConfig, SimAForImageClassification


class Stripes(torch.utils.data.Dataset):
    """Images of horizontal or vertical stripes, made from the index alone."""

    def __len__(self):
        return 48

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        wave = torch.sin(torch.arange(32) * (0.7 + 0.3 * torch.rand(1, generator=generator)))
        label = index % 2
        image = wave[:, None].expand(32, 32) if label else wave[None].expand(32, 32)
        noise = 0.3 * torch.randn(3, 32, 32, generator=generator)
        return {"pixel_values": image.expand(3, 32, 32) + noise, "labels": label}


def train(output_dir, max_steps, resume_from_checkpoint=None, before=lambda model: None):
    set_seed(0)
    config = SimAConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_class_attention_layers=1,
        patch_size=8,
        drop_path_rate=0.1,
        hidden_dropout_prob=0.1,
        attention_gain="tokens",
    )
    arguments = TrainingArguments(
        output_dir=output_dir,
        max_steps=max_steps,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        save_steps=5,
        logging_steps=1,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    model = SimAForImageClassification(config)
    before(model)
    trainer = Trainer(model, arguments, train_dataset=Stripes(), eval_dataset=Stripes())
    trainer.train(resume_from_checkpoint=resume_from_checkpoint)
    return trainer


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_resuming_gives_the_same_weights_and_losses(tmp_path):
    """Dropout, drop path, batch norm statistics, optimizer and data order included."""
    whole = train(tmp_path / "whole", 10)
    train(tmp_path / "parts", 5)
    resumed = train(tmp_path / "parts", 10, resume_from_checkpoint=True)
    assert losses(resumed) == losses(whole)
    for (name, expected), found in zip(
        whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(expected, found), name


def test_it_learns(tmp_path):
    trainer = train(tmp_path, 30)
    history = losses(trainer)
    assert sum(history[-5:]) < 0.5 * sum(history[:5])
    logits = trainer.predict(Stripes()).predictions
    assert (logits.argmax(-1) == [index % 2 for index in range(48)]).mean() > 0.9


@pytest.mark.parametrize("use_reentrant", [False, True], ids=["saved-tensors", "reentrant"])
def test_gradient_checkpointing_changes_nothing(tmp_path, use_reentrant):
    plain = train(tmp_path / "plain", 4)
    checkpointed = train(
        tmp_path / "checkpointed",
        4,
        before=lambda model: model.gradient_checkpointing_enable({"use_reentrant": use_reentrant}),
    )
    assert losses(checkpointed) == pytest.approx(losses(plain), rel=1e-5)
    expected, found = plain.model.state_dict(), checkpointed.model.state_dict()
    for name in expected:
        if "running_" in name or "num_batches" in name:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5, msg=name)
