"""Softmax, SimA and its peers in the same ViT, with the same images, budget and schedule: accuracy, time, memory, conversion.

Each attention gets the learning rate that did best on held-out training images, in shorter runs; no test image chooses anything.
Where the smallest or the largest rate tried did best, half or twice of it is tried too. Rates may be added at any time: a run
at what is no longer the best rate is measured again.
Every data set has a results file of its own, written after each cell, and a run that broke off goes on.

python benchmarks/compare_attentions.py --output_dir benchmarks/results --page docs/peers.md        # or: make peers
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from attention_costs import measure_costs
from conversion_tasks import FashionMNIST
from digits_training import Digits, shifted, train
from machine_facts import machine_facts
from peer_models import CONTESTANTS, build
from peers_figure import best_rate, draw_figure, update_page
from transformers import PreTrainedModel

import sima_hf
from sima_hf.machine.description import git_revision


STEPS = ("train", "convert", "time")
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
CHOICE_SEED = 10
RECIPE = {"weight_decay": 0.05, "label_smoothing": 0.1, "fused": True}
VIT = {
    "num_channels": 1,
    "num_labels": 10,
    "initializer_range": 0.1,
    "num_attention_heads": 4,
}  # for widths of 48 to 64
PART = 500  # images measured at a time


@dataclass
class Images:
    """What `train` takes: images `(B,1,S,S)` in -1..1 with labels, of which some are measured on."""

    train: torch.Tensor
    train_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor
    size: int

    def sized(self, images: torch.Tensor) -> torch.Tensor:
        """As the model takes them."""
        if images.shape[-1] == self.size:
            return images
        return torch.nn.functional.interpolate(images, size=self.size, mode="bilinear", align_corners=False)


def fashion_mnist(choose: bool, settings: dict) -> Images:
    """A part of the training images, and the test images; to choose by, training images that are not in that part."""
    data, number = FashionMNIST(), settings["train_images"]
    measured = (data.test, data.test_labels)
    if choose:
        held_out = slice(number, number + settings["held_out_images"])
        measured, number = (data.train[held_out], data.train_labels[held_out]), settings["choice_images"]
    seen, found = (images.float() / 127.5 - 1 for images in (data.train[:number], measured[0]))
    return Images(seen, data.train_labels[:number], found, measured[1], settings["image_size"])


def digits(choose: bool, settings: dict) -> Images:
    """scikit-learn's digits, enlarged."""
    data = Digits(choose)
    return Images(data.train, data.train_labels, data.test, data.test_labels, settings["image_size"])


@dataclass(frozen=True)
class DataSet:
    """Its name in words, how it is read, and settings, each of which is an option of the command line with that default."""

    words: str
    read: Callable[[bool, dict], Images]
    settings: dict


DATA = {
    "fashion_mnist": DataSet(
        "Fashion-MNIST",
        fashion_mnist,
        {
            "train_images": 12000,
            "choice_images": 6000,
            "held_out_images": 5000,
            "epochs": 6,
            "choice_epochs": 1,
            "batch_size": 32,
            "image_size": 28,
            "patch_size": 4,
            "width": 48,
            "depth": 4,
        },
    ),
    "digits": DataSet(
        "scikit-learn's digits",
        digits,
        {
            "epochs": 20,
            "choice_epochs": 6,
            "batch_size": 32,
            "image_size": 12,
            "patch_size": 2,
            "width": 48,
            "depth": 3,
        },
    ),
}


class Cells:
    """Measured cells of a data set, each a dict with the names of what tells it from the others, in a file that holds all."""

    def __init__(self, path: Path, facts: dict):
        self.path, self.facts = path, {**facts, "cells": []}
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            if before["settings"] == facts["settings"]:
                self.facts["cells"] = before["cells"]

    def find(self, **names) -> list[dict]:
        """Cells of these names."""
        return [cell for cell in self.facts["cells"] if names.items() <= cell.items()]

    def add(self, measure: Callable[[], dict], **names) -> None:
        """Measure a cell and write the file, unless the cell is there."""
        if self.find(**names):
            return
        start, processor = time.perf_counter(), time.process_time()
        found = measure()
        spent = {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - processor}
        cell = {**names, **found, **spent, "revision": git_revision()}
        print(self.facts["data"], cell, flush=True)
        self.facts["cells"].append(cell)
        self._write()

    def drop(self, dropped: list[dict]) -> None:
        """Forget cells."""
        self.facts["cells"] = [cell for cell in self.facts["cells"] if cell not in dropped]
        self._write()

    def _write(self) -> None:
        self.path.write_text(json.dumps(self.facts, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def answers(model: PreTrainedModel, data: Images) -> torch.Tensor:
    """The classes `(B,)` that a model gives the images to be measured on."""
    model.eval()
    return torch.cat([model(data.sized(part)).logits.argmax(-1) for part in data.test.split(PART)])


def accuracy(model: PreTrainedModel, data: Images) -> float:
    """Share of right answers."""
    return (answers(model, data) == data.test_labels).double().mean().item()


def trained(name: str, seed: int, rate: float, settings: dict, epochs: int, data: Images) -> PreTrainedModel:
    """A contestant after its last epoch."""
    torch.manual_seed(seed)
    recipe = {**RECIPE, "batch_size": settings["batch_size"], "epochs": epochs, "learning_rate": rate}
    return train(build(name, fields(settings)), data, seed, recipe)


def fields(settings: dict) -> dict:
    """Of ViTConfig."""
    return {
        **VIT,
        "image_size": settings["image_size"],
        "patch_size": settings["patch_size"],
        "hidden_size": settings["width"],
        "intermediate_size": 2 * settings["width"],
        "num_hidden_layers": settings["depth"],
    }


def train_all(
    cells: Cells, source: DataSet, names: list[str], seeds: list[int], rates: list[float], kept: Path
) -> None:
    """Choose the learning rate of each, then train it with each seed; softmax's weights are kept, to be converted."""
    settings = cells.facts["settings"]
    choosing, data = source.read(True, settings), source.read(False, settings)
    for name in names:

        def choice(rate):
            model = trained(name, CHOICE_SEED, rate, settings, settings["choice_epochs"], choosing)  # noqa: B023
            return {"accuracy": accuracy(model, choosing)}

        def run(seed, rate):
            model = trained(name, seed, rate, settings, settings["epochs"], data)  # noqa: B023
            if name == "softmax":  # noqa: B023
                torch.save(model.state_dict(), kept / f"{cells.path.stem}_{seed}.pt")
            return {"accuracy": accuracy(model, data), "parameters": model.num_parameters()}

        best = choose(cells, name, rates, choice)
        runs = cells.find(step="run", attention=name)
        stale = [cell for cell in runs if cell["rate"] != best]
        if stale and name == "softmax":
            stale += cells.find(step="conversion")  # of other weights
        cells.drop(stale)
        for seed in seeds:
            cells.add(lambda seed=seed, rate=best: run(seed, rate), step="run", attention=name, seed=seed, rate=best)


def choose(cells: Cells, name: str, rates: list[float], measure: Callable[[float], dict]) -> float:
    """The learning rate that does best, of these, of those measured before, and of more beyond an end that does best."""
    tried = list(rates)
    while True:
        for rate in tried:
            cells.add(lambda rate=rate: measure(rate), step="choice", attention=name, rate=rate)
        choices = cells.find(step="choice", attention=name)
        best, known = best_rate(choices), [cell["rate"] for cell in choices]
        tried = [rate for edge, rate in ((min(known), best / 2), (max(known), best * 2)) if best == edge]
        if not tried:
            return best


def convert_all(cells: Cells, source: DataSet, names: list[str], seeds: list[int], kept: Path) -> None:
    """Swap a trained softmax ViT to each attention that is linear in the values, then calibrate it: no label, no training."""
    settings = cells.facts["settings"]
    data = source.read(False, settings)
    generator = torch.Generator().manual_seed(2000)
    pool = data.train[: settings["conversion_images"]]
    pool = torch.cat([pool, shifted(pool, generator)])[: settings["conversion_images"]]
    names = [name for name in names if CONTESTANTS[name].swapped is not None]
    for seed in seeds:
        if all(cells.find(step="conversion", attention=name, seed=seed) for name in names):
            continue
        path = kept / f"{cells.path.stem}_{seed}.pt"
        if not path.is_file():
            raise SystemExit(f"{path} is missing: train softmax first, by --only train --attentions softmax")
        teacher = build("softmax", fields(settings))
        teacher.load_state_dict(torch.load(path))
        goal = answers(teacher.eval(), data) == data.test_labels
        for name in names:

            def convert(name=name, teacher=teacher, goal=goal):
                model = sima_hf.patch_model(copy.deepcopy(teacher), **CONTESTANTS[name].swapped)
                right = {"swapped": answers(model, data) == data.test_labels}
                batches = [data.sized(part) for part in pool.split(64)]
                sima_hf.calibrate(model, teacher, batches, progress=False)
                right["calibrated"] = answers(model, data) == data.test_labels
                shares = {how: found.sum().item() / goal.sum().item() for how, found in right.items()}
                return {"teacher_accuracy": goal.double().mean().item(), **shares}

            cells.add(convert, step="conversion", attention=name, seed=seed)


def facts_of(name: str, settings: dict) -> dict:
    """Everything that the cells of a data set depend on, apart from what they say themselves."""
    return {
        "command": "make peers",
        "data": name,
        "words": DATA[name].words if name in DATA else name,
        "settings": settings,
        "recipe": {**RECIPE, "optimizer": "AdamW", "schedule": "OneCycleLR, pct_start 0.1", "clip_grad_norm": 1.0},
        "augmentation": "moved by at most one pixel of the original each way",
        "vit": fields(settings) if name in DATA else None,
        **machine_facts(),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    parser.add_argument("--kept", type=Path, default=Path("build/peers"), help="folder of softmax's trained weights")
    parser.add_argument("--data", nargs="*", default=list(DATA), choices=list(DATA))
    parser.add_argument("--only", nargs="*", default=STEPS, choices=STEPS, help="none: picture and page alone")
    parser.add_argument("--attentions", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="learning rates to choose from")
    parser.add_argument("--conversion_images", type=int, default=1024, help="without labels, to calibrate with")
    parser.add_argument("--tokens", type=int, nargs="+", default=[197, 1024, 4096], help="to time attention at")
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing at each number of tokens")
    parser.add_argument("--page", type=Path, help="a page whose table of attentions is to be updated")
    for name in sorted({name for source in DATA.values() for name in source.settings}):
        values = ", ".join(
            f"{data}: {source.settings[name]}" for data, source in DATA.items() if name in source.settings
        )
        parser.add_argument(f"--{name}", type=int, help=values)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    arguments.kept.mkdir(parents=True, exist_ok=True)
    for name in arguments.data:
        source = DATA[name]
        settings = {key: getattr(arguments, key) or value for key, value in source.settings.items()}
        settings["conversion_images"] = arguments.conversion_images
        cells = Cells(arguments.output_dir / f"peers_{name}.json", facts_of(name, settings))
        if "train" in arguments.only:
            train_all(cells, source, arguments.attentions, arguments.seeds, arguments.rates, arguments.kept)
        if "convert" in arguments.only:
            convert_all(cells, source, arguments.attentions, arguments.seeds, arguments.kept)
    if "time" in arguments.only:
        found = facts_of("time", {"tokens": arguments.tokens, "seconds": arguments.seconds})
        found = {key: value for key, value in found.items() if key not in ("recipe", "augmentation", "vit", "words")}
        found |= measure_costs(arguments.attentions, arguments.tokens, arguments.seconds)
        path = arguments.output_dir / "peers_time.json"
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw_figure(arguments.output_dir, arguments.output_dir / "peers.png")
    if arguments.page:
        update_page(arguments.output_dir, arguments.page)


if __name__ == "__main__":
    main()
