"""Small trained models for int8_accuracy.py: on digits and on Fashion-MNIST a native SimA, a ViT with SimA, and a softmax ViT."""

from pathlib import Path

import torch
from calibrate_digits import MODELS, ORIGINAL
from conversion_tasks import FASHION_RECIPE, SMALL, FashionMNIST
from digits_training import Digits, enlarged, train
from transformers import PreTrainedModel, ViTConfig, ViTForImageClassification

from sima_hf import SimAConfig, SimAForImageClassification, patch_model


NATIVE_SIZE = 32  # its stem of convolutions halves an image three times
FASHION_TRAINED = 20000
SIZES = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 4}
VIT = {
    "digits": MODELS["vit_4"][2],
    "fashion": {**SMALL, **SIZES, "patch_size": 4, "intermediate_size": 128, "initializer_range": 0.1},
}
NATIVE = {
    "image_size": NATIVE_SIZE,
    "patch_size": 8,
    "num_channels": 1,
    "num_labels": 10,
    **SIZES,
    "mlp_ratio": 2,
    "num_class_attention_layers": 1,
    "initializer_range": 0.1,
}
RECIPES = {
    "digits": {**ORIGINAL, "epochs": 40, "fused": True},
    "fashion": {**FASHION_RECIPE, "epochs": 4},
}
KINDS = ("native SimA", "ViT with SimA", "softmax ViT")


class Images:
    """Images and labels of a task, `(B, 1, S, S)` in -1..1, as a kind of model takes them.

    Attributes:
        train, train_labels: to train on and to calibrate with.
        test, test_labels: to measure on.
    """

    def __init__(self, task: str, kind: str):
        data = Digits(choose=False) if task == "digits" else FashionMNIST()
        self.train, self.train_labels, self.test = data.train, data.train_labels, data.test
        self.test_labels = data.test_labels
        if task == "fashion":
            self.train, self.test = (
                images.float() / 127.5 - 1 for images in (data.train[:FASHION_TRAINED], data.test)
            )
            self.train_labels = data.train_labels[:FASHION_TRAINED]
        self.size = NATIVE_SIZE if kind == "native SimA" else self.train.shape[-1]

    def sized(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, 1, S, S)` as the model gets it."""
        return enlarged(images, self.size)


def trained(task: str, kind: str, kept: Path) -> PreTrainedModel:
    """The model of a task and kind, read from `kept`, or trained and written there; "softmax ViT" differs in attention alone."""
    folder = kept / f"{task}_{kind.replace(' ', '_').lower()}"
    cls = SimAForImageClassification if kind == "native SimA" else ViTForImageClassification
    if kind == "ViT with SimA":
        cls = type(patch_model(ViTForImageClassification(ViTConfig(**VIT[task]))))
    if folder.is_dir():
        return cls.from_pretrained(folder).eval()
    torch.manual_seed(0)
    if kind == "native SimA":
        model = SimAForImageClassification(SimAConfig(**NATIVE))
    else:
        model = ViTForImageClassification(ViTConfig(**VIT[task]))
        model = patch_model(model) if kind == "ViT with SimA" else model
    data = Images(task, kind)
    model = train(model, data, 0, RECIPES[task], lambda done: print(f"{task}, {kind}: {done} epochs", flush=True))
    model.save_pretrained(folder)
    return model
