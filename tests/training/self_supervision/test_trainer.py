"""DINO under Trainer: a step against one written by hand, exact resume, processes, what is saved."""

import copy
import math

import pytest
import torch
from datasets import Dataset, Features, Image
from PIL import Image as PILImage
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from transformers import AutoModel, TrainerCallback, ViTConfig, ViTModel

import sima_hf
from sima_hf.embedding.encoder import ImageEncoder
from sima_hf.errors import CheckpointError, TrainingError
from sima_hf.training import DINOTrainer, DINOTrainingArguments
from sima_hf.training.checkpoints.folders import checkpoint_to_resume
from tests.helpers.joined_processes import run_joined


SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def digits(count=48):
    images = [PILImage.fromarray((16 * one).astype("uint8")) for one in load_digits().images[:count]]
    return Dataset.from_dict({"image": images}, features=Features({"image": Image()}))


def encoder():
    torch.manual_seed(0)
    return sima_hf.patch_model(ViTModel(ViTConfig(**SIZES, image_size=16, patch_size=4)))


def trainer_in(folder, model=None, **changes):
    settings = {
        "per_device_train_batch_size": 8,
        "num_train_epochs": 2,
        "warmup_epochs": 0,
        "learning_rate": 1e-2,
        "scale_learning_rate": False,
        "local_crops": 2,
        "local_crop_size": 8,
        "out_dim": 12,
        "head_hidden_dim": 16,
        "head_bottleneck_dim": 8,
        "ema_decay": 0.9,
        "teacher_temperature_warmup_epochs": 1,
        "freeze_last_layer": 0.5,
        "blur": 0.5,
        "save_strategy": "steps",
        "save_steps": 5,
        "logging_steps": 1,
        "dataloader_num_workers": 0,
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": True,
    }
    processor = sima_hf.SimAImageProcessor.for_image_size(16, crop_pct=1.0)
    args = DINOTrainingArguments(str(folder), **{**settings, **changes})
    return DINOTrainer(model or encoder(), args, train_dataset=digits(), processing_class=processor)


def logged(trainer, name="loss"):
    return {entry["step"]: entry[name] for entry in trainer.state.log_history if name in entry}


class Watches(TrainerCallback):
    """Keeps what a step begins with and what it ends with."""

    def __init__(self, trainer):
        self.trainer, self.seen = trainer, []

    def on_step_begin(self, args, state, control, **kwargs):
        self.seen.append(
            {
                "momentum": self.trainer.ema.decay,
                "decays": [group["weight_decay"] for group in self.trainer.optimizer.param_groups],
                "last": self.trainer.model.head.last_layer.weight.detach().clone(),
                "teacher": copy.deepcopy(self.trainer.teacher.state_dict()),
                "temperature": self.trainer.teacher_temperature,
            }
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.seen[-1]["student"] = copy.deepcopy(self.trainer.model.state_dict())
        self.seen[-1]["teacher after"] = copy.deepcopy(self.trainer.teacher.state_dict())


def test_schedules_teacher_and_last_layer_step_by_step(tmp_path):
    trainer = trainer_in(tmp_path, save_strategy="no")
    watches = Watches(trainer)
    trainer.add_callback(watches)
    trainer.train()
    assert len(watches.seen) == 12
    for step, seen in enumerate(watches.seen):
        half = 0.5 * (1 + math.cos(math.pi * step / 12))
        assert seen["momentum"] == pytest.approx(1 - 0.1 * half)
        assert seen["decays"] == pytest.approx([0.4 - 0.36 * half, 0])
        assert seen["temperature"] == pytest.approx(min(0.07, 0.04 + 0.03 * step / 6))
        for name, value in seen["teacher"].items():
            wanted = seen["momentum"] * value.double() + (1 - seen["momentum"]) * seen["student"][name].double()
            torch.testing.assert_close(seen["teacher after"][name].double(), wanted, rtol=1e-4, atol=1e-6)
        after = seen["student"]["head.last_layer.weight"]
        assert torch.equal(seen["last"], after) == (step < 3)  # half an epoch of six steps
    assert set(logged(trainer, "teacher_entropy")) == set(range(1, 13))
    assert not trainer.teacher.training
    assert not any(one.requires_grad for one in trainer.teacher.parameters())


def test_going_on_gives_the_same_to_the_last_bit(tmp_path):
    """From the middle of an epoch: losses, student, head, teacher, center."""
    whole = trainer_in(tmp_path)
    whole.train()
    again = trainer_in(tmp_path)
    again.train(resume_from_checkpoint=checkpoint_to_resume(tmp_path, str(tmp_path / "checkpoint-5")))
    assert logged(again) == logged(whole)
    for one, two in ((again.model, whole.model), (again.teacher, whole.teacher), (again.dino_loss, whole.dino_loss)):
        mine = one.state_dict()
        assert all(torch.equal(mine[name], value) for name, value in two.state_dict().items())
    assert whole.dino_loss.center.any()


def test_what_a_checkpoint_and_the_end_hold(tmp_path):
    trainer = trainer_in(tmp_path)
    trainer.train()
    with trainer.weights_to_save():
        trainer.save_model(str(tmp_path / "done"))
    states = {
        "checkpoint-10": None,
        "checkpoint-10/ema": None,
        "checkpoint-12": trainer.model.backbone.state_dict(),
        "checkpoint-12/ema": trainer.teacher.backbone.state_dict(),
        "done": trainer.teacher.backbone.state_dict(),
    }
    for place, wanted in states.items():
        model = AutoModel.from_pretrained(tmp_path / place)
        assert model.config.model_type == "sima_vit"
        found = model.state_dict()
        assert wanted is None or all(torch.equal(found[name], value) for name, value in wanted.items())
    assert not list((tmp_path / "done").glob("dino*"))
    head = load_file(tmp_path / "checkpoint-12" / "dino_head.safetensors")
    assert torch.equal(head.pop("center"), trainer.dino_loss.center)
    assert head.keys() == trainer.model.head.state_dict().keys()
    report = sima_hf.certify(AutoModel.from_pretrained(tmp_path / "done"), torch.randn(1, 3, 16, 16))
    assert report.softmax_free  # the softmax of the loss is no attention, and is gone
    assert ImageEncoder(AutoModel.from_pretrained(tmp_path / "done")).pooling == "cls"


def test_checkpoints_that_do_not_fit(tmp_path):
    trainer_in(tmp_path).train()
    with pytest.raises(CheckpointError, match=r"holds another head .*\(12, 8\) in its last layer for \(10, 8\)"):
        trainer_in(tmp_path, out_dim=10).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    (tmp_path / "checkpoint-5" / "dino_head.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no dino_head.safetensors: it was not made by a DINO run"):
        trainer_in(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


@pytest.mark.slow
def test_the_student_learns_what_the_teacher_says(tmp_path):
    """With a teacher that hardly moves and no center, its divergence from the student, loss - entropy, falls."""
    fixed = {"ema_decay": 0.9999, "center_momentum": 1.0, "freeze_last_layer": 0, "weight_decay_end": None}
    trainer = trainer_in(tmp_path, num_train_epochs=8, save_strategy="no", warmup_teacher_temperature=0.07, **fixed)
    trainer.train()
    losses, entropies = (list(logged(trainer, name).values()) for name in ("loss", "teacher_entropy"))
    divergences = [loss - entropy for loss, entropy in zip(losses, entropies, strict=True)]
    assert not trainer.dino_loss.center.any()
    assert sum(divergences[-6:]) < 0.7 * sum(divergences[:6])


def test_sharded_training_is_refused(tmp_path):
    args = DINOTrainingArguments(str(tmp_path), use_cpu=True)
    args.fsdp = [True]
    with pytest.raises(TrainingError, match="DINO trains on one process or by DDP, got FSDP or DeepSpeed"):
        DINOTrainer(encoder(), args, train_dataset=digits(), processing_class=None)


def trained(folder, batch_size):
    trainer = trainer_in(folder, per_device_train_batch_size=batch_size, num_train_epochs=1, save_strategy="no")
    trainer.train()
    return list(logged(trainer).values()), trainer.dino_loss.center.tolist()


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    losses, center = trained(tmp_path / "one", 8)
    codes, found = run_joined(trained, tmp_path / "two", 4, processes=2, folder=tmp_path / "told")
    assert codes == [0, 0], found
    for one_losses, one_center in found:
        assert one_losses == pytest.approx(losses, rel=2e-4)
        assert one_center == pytest.approx(center, rel=1e-3, abs=1e-5)
