"""Small models in folders for the tests of the card, checked without the checks of the folder, and results files for them."""

import json
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTForImageClassification
from transformers.modelcard import TrainingSummary

import sima_hf
from sima_hf import SimAConfig, SimAForImageClassification, SimAImageProcessor
from sima_hf.hub.checks import CheckedFolder
from sima_hf.patching import certify, describe
from sima_hf.patching.example_inputs import example_inputs


NAMES = {index: f"digit {index}" for index in range(10)}
CLASSES = {"id2label": NAMES, "label2id": {name: index for index, name in NAMES.items()}}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
BASE = "google/vit-base-patch16-224"


def checked(folder: Path, model) -> CheckedFolder:
    """What `check_folder` returns, from a model that is at hand."""
    model.eval()
    certificate = certify(model, example_inputs(model))
    return CheckedFolder(
        folder, model.config, model, certificate, describe(model), tuple(folder.glob("*.safetensors"))
    )


def native(folder: Path) -> CheckedFolder:
    """SimA's own architecture, untrained, with its image processor."""
    torch.manual_seed(0)
    config = SimAConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_class_attention_layers=1,
        patch_size=8,
        image_size=32,
        attention_gain="tokens",
        **CLASSES,
    )
    model = SimAForImageClassification(config)
    model.save_pretrained(folder)
    SimAImageProcessor.for_image_size(32, 1.0).save_pretrained(folder)
    return checked(folder, model)


def vit() -> ViTForImageClassification:
    """A ViT with softmax for images of 32 pixels."""
    torch.manual_seed(0)
    config = ViTConfig(**SIZES, image_size=32, patch_size=8, initializer_range=0.2, **CLASSES)
    return ViTForImageClassification(config).eval()


def clip(folder: Path) -> CheckedFolder:
    """A CLIP whose vision tower is swapped; the text side keeps softmax."""
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**SIZES, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2},
        vision_config={**SIZES, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    model = sima_hf.patch_model(CLIPModel(config).eval())
    model.save_pretrained(folder)
    return checked(folder, model)


def evaluation(one: CheckedFolder, **changes) -> dict:
    """What evaluate_model.py writes for a model; keys with a dot change the settings."""
    report = {
        "accuracy": 0.9583333333333334,
        "top_5_accuracy": 0.9944444444444445,
        "loss": 0.1468,
        "num_images": 360,
        "images_per_second": 912.0,
        "left_out": 0,
        "not_a_number": 0,
        "per_class": [
            {"label": NAMES[index], "accuracy": 1.0, "correct": 36, "images": 36} for index in range(9, -1, -1)
        ],
        "settings": {
            "model": "/home/somebody/model",
            "class": type(one.model).__name__,
            "weights": "as saved",
            "parameters": one.model.num_parameters(),
            "data": "digits, validation split",
            "image_size": 32,
            "eval_crop_pct": None,
            "dtype": "float32",
            "batch_size": 64,
            "processes": 1,
            "device": "Some CPU, 2 threads",
        },
        "versions": {"sima_hf": "0.1.0", "revision": "abc1234", "torch": "2.13.0", "transformers": "5.23.0"},
    }
    for name, value in changes.items():
        if name in report:
            report[name] = value
        else:
            report["settings"][name.removeprefix("of_")] = value
    return report


def write(path: Path, content) -> Path:
    """JSON as it is; NaN included, as careless programs write it."""
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def trainer_text(**settings) -> str:
    """What `Trainer.create_model_card` writes."""
    lines = [{"Training Loss": 2.3, "Epoch": 1.0, "Step": 6, "Accuracy": 0.05}]
    facts = {
        "model_name": "folder",
        "license": "mit",
        "dataset": "digits",
        "eval_results": {"Loss": 2.3, "Accuracy": 0.05},
        "eval_lines": lines,
        "hyperparameters": {"learning_rate": 0.002, "seed": 42},
    }
    return TrainingSummary(**{**facts, **settings}).to_model_card()
