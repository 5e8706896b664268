"""DINO on Fashion-MNIST, softmax and SimA at equal budget: k-NN and linear probe of the frozen features, beside what needs no training.

Both are Transformers' ViT of one shape, with the same first weights, images, crops and schedule. Each gets the learning rate
whose features did best by k-NN on held-out training images, in shorter runs with another seed; no test image chooses anything.
Baselines by which a wrong pipeline would show: the same encoders with random weights, and pixels. The results file is written
after each cell, and a run that broke off goes on.

python benchmarks/self_supervision.py --output_dir benchmarks/results --page docs/self-supervision.md   # or: make self-supervision
"""

import argparse
import tempfile
from pathlib import Path

import torch
import transformers
from compare_attentions import Cells
from conversion_tasks import FashionMNIST
from datasets import Dataset, Features, Image
from machine_facts import machine_facts
from PIL import Image as PILImage
from self_supervision_figure import RESULTS, draw_figure, update_page
from transformers import AutoConfig, AutoModel, PreTrainedModel

from sima_hf import SimAImageProcessor
from sima_hf.data.pixels import normalize
from sima_hf.data.processors import normalization
from sima_hf.embedding.encoder import ImageEncoder
from sima_hf.evaluation.protocols.knn import knn_votes
from sima_hf.evaluation.protocols.linear_probe import fit_linear_probe
from sima_hf.training import DINOTrainer, DINOTrainingArguments


ENCODERS = {"softmax": ("vit", {}), "sima": ("sima_vit", {"attention_gain": "tokens"})}
VIT = {
    "image_size": 28,
    "patch_size": 4,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "initializer_range": 0.1,
}
IMAGES = {"train_images": 10_000, "held_out_images": 2_000, "test_images": 10_000}
RATES = (1e-3, 2e-3, 4e-3)
CHOICE_SEED = 10
RECIPE = {
    "per_device_train_batch_size": 32,
    "scale_learning_rate": False,
    "min_learning_rate": 1e-6,
    "local_crops": 4,
    "local_crop_size": 12,
    "crop_split": 0.4,
    "min_crop_area": 0.1,
    "color_jitter": 0.4,
    "grayscale": 0.0,  # they are gray
    "blur": 0.0,
    "solarize": 0.0,
    "out_dim": 256,
    "head_hidden_dim": 256,
    "head_bottleneck_dim": 64,
    "ema_decay": 0.99,
    "teacher_temperature": 0.04,
    "teacher_temperature_warmup_epochs": 0,
    "weight_decay": 0.04,
    "weight_decay_end": 0.2,
}
# Epochs of each step, of which the first tenth warms up.
EPOCHS = {"choice": 1.0, "run": 5.0}
PART = 250  # images embedded at a time
NEIGHBORS = 20


def split_of(images: torch.Tensor) -> Dataset:
    """Gray images `(N, 1, 28, 28)` as a split of `datasets`, without labels."""
    pictures = [PILImage.fromarray(one[0].numpy()) for one in images]
    return Dataset.from_dict({"image": pictures}, features=Features({"image": Image()}))


def build(name: str, seed: int) -> PreTrainedModel:
    """An encoder with random weights, the same for every attention."""
    torch.manual_seed(seed)
    kind, fields = ENCODERS[name]
    return AutoModel.from_config(AutoConfig.for_model(kind, **VIT, **fields))


def processor() -> SimAImageProcessor:
    """Of images of 28 pixels."""
    return SimAImageProcessor.for_image_size(VIT["image_size"], crop_pct=1.0)


def pretrained(name: str, seed: int, rate: float, epochs: float, data: Dataset) -> tuple[PreTrainedModel, list[dict]]:
    """The teacher's encoder after the last epoch, and what was logged."""
    with tempfile.TemporaryDirectory() as folder:
        args = DINOTrainingArguments(
            folder,
            **RECIPE,
            learning_rate=rate,
            num_train_epochs=epochs,
            warmup_epochs=0.1 * epochs,
            freeze_last_layer=0.1 * epochs,
            seed=seed,
            save_strategy="no",
            logging_steps=20,
            report_to="none",
            disable_tqdm=True,
            dataloader_num_workers=0,
        )
        trainer = DINOTrainer(build(name, seed), args, train_dataset=data, processing_class=processor())
        trainer.train()
        with trainer.weights_to_save():
            trainer.saved_model.save_pretrained(folder)
        names = ("step", "loss", "teacher_entropy")
        history = [{key: one[key] for key in names} for one in trainer.state.log_history if "loss" in one]
        return AutoModel.from_pretrained(folder), history


def features(model: PreTrainedModel | None, images: torch.Tensor) -> torch.Tensor:
    """Frozen features `(N, D)` as `sima-hf embed` has them; without a model the pixels."""
    if model is None:
        return images.flatten(1).float() / 255
    encoder, numbers = ImageEncoder(model), normalization(processor())
    parts = (normalize(part.expand(-1, 3, -1, -1), *numbers) for part in images.split(PART))
    return torch.cat([encoder(part) for part in parts])


def knn(bank: torch.Tensor, labels: torch.Tensor, measured: torch.Tensor, wanted: torch.Tensor) -> float:
    """Accuracy by the nearest neighbors."""
    votes = knn_votes(bank, labels, measured, 10, (NEIGHBORS,))[NEIGHBORS]
    return (votes.argmax(1) == wanted).double().mean().item()


def figures(model: PreTrainedModel | None, data: FashionMNIST, settings: dict) -> dict:
    """k-NN and, but for pixels, linear probe on the test images, by the labels of the training images."""
    number, tested = settings["train_images"], settings["test_images"]
    bank, measured = features(model, data.train[:number]), features(model, data.test[:tested])
    labels, wanted = data.train_labels[:number], data.test_labels[:tested]
    found = {"knn": knn(bank, labels, measured, wanted)}
    if model is None:
        return found
    probe = fit_linear_probe(bank, labels, 10)
    right = (probe.logits(measured).argmax(1) == wanted).double().mean().item()
    return {**found, "linear": right, "regularization": probe.regularization}


def measure(cells: Cells, seeds: list[int]) -> None:
    """All cells that are not there: baselines, choice of the learning rate, runs."""
    settings, data = cells.facts["settings"], FashionMNIST()
    number = settings["train_images"]
    held_out = slice(number, number + settings["held_out_images"])
    split = split_of(data.train[:number])

    def choice(name: str, rate: float) -> dict:
        model, _ = pretrained(name, CHOICE_SEED, rate, settings["epochs"]["choice"], split)
        bank, measured = features(model, data.train[:number]), features(model, data.train[held_out])
        return {"knn_held_out": knn(bank, data.train_labels[:number], measured, data.train_labels[held_out])}

    def run(name: str, seed: int, rate: float) -> dict:
        model, history = pretrained(name, seed, rate, settings["epochs"]["run"], split)
        return {"rate": rate, **figures(model, data, settings), "history": history}

    cells.add(lambda: figures(None, data, settings), step="pixels")
    for name in ENCODERS:
        for seed in seeds:
            cells.add(
                lambda name=name, seed=seed: figures(build(name, seed), data, settings),
                step="random",
                attention=name,
                seed=seed,
            )
    for name in ENCODERS:
        for rate in settings["rates"]:
            cells.add(lambda name=name, rate=rate: choice(name, rate), step="choice", attention=name, rate=rate)
    for seed in seeds:
        for name in ENCODERS:
            tried = cells.find(step="choice", attention=name)
            best = max(tried, key=lambda cell: cell["knn_held_out"])["rate"]
            cells.add(
                lambda name=name, seed=seed, best=best: run(name, seed, best), step="run", attention=name, seed=seed
            )


def facts_of(settings: dict) -> dict:
    """Everything that the cells depend on, apart from what they say themselves."""
    return {
        "command": "make self-supervision",
        "data": "Fashion-MNIST",
        "settings": settings,
        "encoder": {**VIT, "parameters": build("softmax", 0).num_parameters()},
        "neighbors": NEIGHBORS,
        **machine_facts(),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="learning rates to choose from")
    parser.add_argument("--epochs", type=float, default=EPOCHS["run"], help="of a run")
    parser.add_argument("--choice_epochs", type=float, default=EPOCHS["choice"], help="of a run to choose by")
    for name, value in IMAGES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--page", type=Path, help="a page whose table is to be updated")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    settings = {
        **{name: getattr(arguments, name) for name in IMAGES},
        "epochs": {"choice": arguments.choice_epochs, "run": arguments.epochs},
        "rates": arguments.rates,
        "recipe": RECIPE,
    }
    path = arguments.output_dir / RESULTS
    measure(Cells(path, facts_of(settings)), arguments.seeds)
    draw_figure(path, path.with_suffix(".png"))
    if arguments.page:
        update_page(path, arguments.page)


if __name__ == "__main__":
    main()
