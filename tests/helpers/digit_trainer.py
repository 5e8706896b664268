"""A small native model, a few digits and a SimATrainer of six steps, for tests that look at single steps."""

import torch

import sima_hf
from sima_hf.data.images import EvalImages, TrainImages
from sima_hf.data.sources import load_image_data
from sima_hf.data.views import EvalView, TrainView
from sima_hf.training.arguments import SimATrainingArguments
from sima_hf.training.trainer import SimATrainer


MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def digit_views():
    data = load_image_data()
    processor = sima_hf.SimAImageProcessor.for_image_size(32, crop_pct=1.0)
    train = TrainImages(data.train.select(range(96)), TrainView(32, scale=None, flip=0))
    return train, EvalImages(data.validation.select(range(50)), EvalView(processor))


def native(**changes):
    fields = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_class_attention_layers": 1}
    config = sima_hf.SimAConfig(**{**fields, "patch_size": 8, "attention_gain": "tokens", "num_labels": 10, **changes})
    torch.manual_seed(1)
    return sima_hf.SimAForImageClassification(config)


def trainer_of(folder, images, model=None, compute_metrics=None, **changes):
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 16,
        "max_steps": 6,
        "learning_rate": 1e-2,
        "scale_learning_rate": False,
        "warmup_epochs": 0,
        "cooldown_epochs": 0,
        "save_strategy": "steps",
        "save_steps": 3,
        "eval_strategy": "no",
        "logging_steps": 1,
        "dataloader_num_workers": 0,
        "ema_decay": 0.9,
        "ema_warmup": False,
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": True,
    }
    return SimATrainer(
        native() if model is None else model,
        SimATrainingArguments(**{**settings, **changes}),
        image_mean=MEAN,
        image_std=STD,
        train_dataset=images[0],
        eval_dataset=images[1],
        compute_metrics=compute_metrics,
    )


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def same(one, two):
    return all(torch.equal(value, two[name]) for name, value in one.items())
