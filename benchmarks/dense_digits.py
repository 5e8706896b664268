"""Segmentation and detection from scratch on digits on photographs, by the scripts in examples, with one thread each.

UperNet on a native SimA backbone as a feature pyramid; SegFormer with softmax and with SimA, of one shape and with one budget;
RT-DETR on a PVT v2 backbone likewise. Each is one run with one seed, so differences of a point or two say nothing.

python benchmarks/dense_digits.py --output_dir benchmarks/results        # or: make dense
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch
import transformers
from compare_digits import compact_json
from machine_facts import machine_facts

from sima_hf.bench.tables import markdown, replace_between
from sima_hf.machine.description import git_revision


EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CONFIGS = EXAMPLES / "configs" / "dense"
IMAGES = {"images": 2000, "validation_images": 300, "size": 64, "seed": 0}
# Name -> script, file of arguments, config of the model.
RUNS = {
    "UperNet on SimA": ("segmentation", "upernet_sima_digits"),
    "SegFormer, softmax": ("segmentation", "segformer_digits"),
    "SegFormer, SimA": ("segmentation", "sima_segformer_digits"),
    "RT-DETR on PVT v2, softmax": ("detection", "rt_detr_pvt_v2_digits"),
    "RT-DETR on PVT v2, SimA": ("detection", "rt_detr_sima_pvt_v2_digits"),
}
SCRIPTS = {"segmentation": "run_semantic_segmentation.py", "detection": "run_object_detection.py"}
FIGURES = {
    "segmentation": {"mean IoU": "eval_mean_iou", "pixel accuracy": "eval_pixel_accuracy"},
    "detection": {"mAP@50": "eval_map_50", "mAP": "eval_map"},
}
QUIET = {"eval_strategy": "no", "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "seed": 0}
RESULTS = "dense_digits.json"


def command(name: str, images: Path, output: Path) -> list[str]:
    """The command line of one run."""
    task, model = RUNS[name]
    options = {
        "config_name": CONFIGS / "models" / f"{model}.json",
        "dataset_name": images,
        "output_dir": output,
        **QUIET,
    }
    words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    return [sys.executable, str(EXAMPLES / SCRIPTS[task]), str(CONFIGS / f"digits_{task}.json"), *words]


def measure(name: str, images: Path) -> dict:
    """Train one model in a process of its own with one thread; its figures.

    Raises:
        RuntimeError: the run failed; the text has the end of what it wrote.
    """
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command(name, images, Path(folder, "run")),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr.strip()[-800:]}")
        found = json.loads(Path(folder, "run", "all_results.json").read_text(encoding="utf-8"))
        config = transformers.AutoConfig.from_pretrained(Path(folder, "run"))
        auto = {
            "segmentation": transformers.AutoModelForSemanticSegmentation,
            "detection": transformers.AutoModelForObjectDetection,
        }
        with torch.device("meta"):
            parameters = sum(one.numel() for one in auto[RUNS[name][0]].from_config(config).parameters())
    figures = {label: found[key] for label, key in FIGURES[RUNS[name][0]].items()}
    return {
        "model": name,
        "task": RUNS[name][0],
        "parameters": parameters,
        "epochs": found["epoch"],
        "minutes": round((time.monotonic() - begin) / 60, 1),  # on a machine that may have had more to do
        **figures,
    }


def markdown_table(path: Path) -> str:
    """The results as docs/dense.md has them."""
    results = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for run in results["runs"]:
        figures = ", ".join(f"{label} {run[label]:.3f}" for label in FIGURES[run["task"]])
        rows.append([run["model"], run["task"], f"{run['parameters']:,}", f"{run['epochs']:g}", figures])
    return markdown(["model", "task", "parameters", "epochs", "on the validation images"], rows) + (
        f"\n\n{results['data']}; fresh weights, one seed, one recipe for each task, one thread. {results['device']}, torch "
        f"{results['torch']}, transformers {results['transformers']}; settings in [{path.name}]({path.as_posix()})."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path("benchmarks/results"), help="folder for the JSON")
    parser.add_argument(
        "--only", nargs="+", choices=RUNS, help="measure these anew, and keep what the file has of others"
    )
    parser.add_argument("--processes", type=int, default=1, help="runs at the same time, one thread each")
    parser.add_argument("--page", type=Path, help="page whose table is to be brought up to date as well")
    arguments = parser.parse_args()
    path = arguments.output_dir / RESULTS
    wanted = arguments.only or list(RUNS)
    if not arguments.only:
        path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "digits-on-photos")
        words = [word for option, value in IMAGES.items() for word in (f"--{option}", str(value))]
        subprocess.run([sys.executable, str(EXAMPLES / "digits_on_photos.py"), str(images), *words], check=True)
        with ThreadPoolExecutor(arguments.processes) as pool:
            for done in as_completed([pool.submit(measure, name, images) for name in wanted]):
                found = done.result()
                print(found, flush=True)
                write(path, found)
    if arguments.page:
        replace_between(arguments.page, "dense", markdown_table(path))


def write(path: Path, run: dict) -> None:
    """The results file with a run more, after each, so that a machine that goes down in the last one loses that alone."""
    kept = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.is_file() else []
    runs = {one["model"]: one for one in [*kept, run]}
    summary = {
        "command": "make dense",
        "data": f"Digits on photographs ({IMAGES['images']:,} training and {IMAGES['validation_images']} validation images of "
        f"{IMAGES['size']} px)",
        **machine_facts(),
        "threads": 1,
        "revision": git_revision(),
        "images": IMAGES,
        "recipes": {
            task: json.loads((CONFIGS / f"digits_{task}.json").read_text(encoding="utf-8")) for task in SCRIPTS
        },
        "models": {
            name: json.loads((CONFIGS / "models" / f"{model}.json").read_text(encoding="utf-8"))
            for name, (_, model) in RUNS.items()
        },
        "runs": [runs[name] for name in RUNS if name in runs],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(compact_json(summary), encoding="utf-8")


if __name__ == "__main__":
    main()
