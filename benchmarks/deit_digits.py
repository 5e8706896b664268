"""DeiT with softmax against DeiT with SimA, both from scratch by run_image_classification.py on digits, with the same budget.

Fresh `deit` and `sima_deit` of one shape. Nothing was chosen by the 500 test images: `--choose` trains on fewer images with every
learning rate and measures on held-out training images, where the same rate was the best for both.

python benchmarks/deit_digits.py --output_dir benchmarks/results        # or: make deit-digits
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from compare_digits import compact_json
from digits_training import HELD_OUT_IMAGES, TEST_IMAGES
from machine_facts import machine_facts
from tqdm.auto import tqdm

from sima_hf.bench.tables import markdown, replace_between
from sima_hf.data.images import decode
from sima_hf.data.sources import digits
from sima_hf.machine.description import git_revision


CONTESTANTS = {
    "softmax": {"model_type": "deit"},
    "sima": {"model_type": "sima_deit", "attention_gain": "none"},  # as in configs/sima-deit-*.json
}
RATES = (1e-3, 2e-3, 4e-3)
# Chosen on held-out training images.
LEARNING_RATE = 4e-3
RECIPE = {
    "config_overrides": "hidden_size=48,num_hidden_layers=6,num_attention_heads=4,intermediate_size=96,patch_size=8,"
    "initializer_range=0.1",  # the default, 0.02, is made for a width of 768
    "image_size": 32,
    "num_train_epochs": 40,
    "per_device_train_batch_size": 32,
    "scale_learning_rate": False,
    "warmup_epochs": 4,
    "cooldown_epochs": 0,
    "max_grad_norm": 1.0,
    "train_view": "shift",
    "rand_augment": "none",
    "color_jitter": 0.0,
    "random_erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "repeated_augmentation": 1,
    "ema_decay": 0.0,
    "eval_weights": "raw",
    "save_weights": "raw",
}
QUIET = {
    "eval_strategy": "no",
    "save_strategy": "no",
    "dataloader_num_workers": 0,
    "report_to": "none",
    "disable_tqdm": True,
}


def write_digits(root: Path, choose: bool) -> dict[str, int]:
    """The digits as image folders `root/train` and `root/measured`; how many images each has.

    `choose`: the test images stay out, and the last training images are the ones to measure on.
    """
    data = digits()
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    trained, measured = order[:-TEST_IMAGES], order[-TEST_IMAGES:]
    if choose:
        trained, measured = trained[:-HELD_OUT_IMAGES], trained[-HELD_OUT_IMAGES:]
    for split, rows in {"train": trained, "measured": measured}.items():
        for row in rows:
            folder = root / split / f"digit_{data[row]['label']}"
            folder.mkdir(parents=True, exist_ok=True)
            decode(data[row]["image"]).save(folder / f"{row:04d}.png")
    return {"train": len(trained), "measured": len(measured)}


def command(attention: str, seed: int, rate: float, images: Path, output: Path) -> list[str]:
    """The command line of one run."""
    options = {
        **CONTESTANTS[attention],
        **RECIPE,
        **QUIET,
        "learning_rate": rate,
        "seed": seed,
        "train_dir": images / "train",
        "validation_dir": images / "measured",
        "output_dir": output,
    }
    script = Path(__file__).resolve().parents[1] / "examples" / "run_image_classification.py"
    return [
        sys.executable,
        str(script),
        *(word for name, value in options.items() for word in (f"--{name}", str(value))),
    ]


def measure(attention: str, seed: int, rate: float, images: Path) -> dict:
    """Train one contestant with one seed in a process of its own with one thread; its figures.

    Raises:
        RuntimeError: the run failed; the text has the end of what it wrote.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command(attention, seed, rate, images, Path(folder, "run")),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{attention}, seed {seed}, rate {rate}: {done.stderr.strip()[-500:]}")
        found = json.loads(Path(folder, "run", "all_results.json").read_text(encoding="utf-8"))
    return {"attention": attention, "seed": seed, "learning_rate": rate, "accuracy": found["eval_accuracy"]}


def markdown_table(path: Path) -> str:
    """The results as docs/results.md has them."""
    results = json.loads(path.read_text(encoding="utf-8"))
    seeds = sorted({run["seed"] for run in results["runs"]})
    rows = []
    for attention, mean in results["mean_accuracy"].items():
        found = {run["seed"]: run["accuracy"] for run in results["runs"] if run["attention"] == attention}
        cells = [f"{100 * value:.1f} %" for value in (*(found[seed] for seed in seeds), mean)]
        rows.append([results["contestants"][attention]["model_type"], *cells])
    return markdown(["fresh DeiT", *(f"seed {seed}" for seed in seeds), "mean"], rows) + (
        f"\n\n{results['data']}; one recipe for both, learning rate chosen on held-out training images. {results['device']}, torch "
        f"{results['torch']}, transformers {results['transformers']}; settings in [{path.name}]({path.as_posix()})."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path("benchmarks/results"), help="folder for the JSON")
    parser.add_argument("--seeds", type=int, nargs="+", help="0, 1 and 2; to choose by, 10")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="runs at the same time, one thread each")
    parser.add_argument("--page", type=Path, help="page whose table is to be brought up to date as well")
    parser.add_argument("--choose", action="store_true", help="all learning rates, on held-out training images")
    arguments = parser.parse_args()
    rates = RATES if arguments.choose else (LEARNING_RATE,)
    with tempfile.TemporaryDirectory() as images:
        counts = write_digits(Path(images), arguments.choose)
        tasks = [
            (attention, seed, rate)
            for seed in arguments.seeds or ([10] if arguments.choose else [0, 1, 2])
            for rate in rates
            for attention in CONTESTANTS
        ]
        with ThreadPoolExecutor(arguments.processes) as pool:
            runs = list(tqdm(pool.map(lambda task: measure(*task, Path(images)), tasks), total=len(tasks), unit="run"))
    summary = {
        "command": "python benchmarks/deit_digits.py --choose" if arguments.choose else "make deit-digits",
        "data": f"scikit-learn digits: {counts['train']} training images, {counts['measured']} measured",
        "measured_on": "held-out training images" if arguments.choose else "test images",
        **machine_facts(),
        "processes": arguments.processes,
        "threads_each": 1,
        "revision": git_revision(),
        "contestants": CONTESTANTS,
        "recipe": RECIPE,
        "mean_accuracy": {
            attention: statistics.mean(run["accuracy"] for run in runs if run["attention"] == attention)
            for attention in CONTESTANTS
        },
        "runs": runs,
    }
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    path = arguments.output_dir / ("deit_digits_choice.json" if arguments.choose else "deit_digits.json")
    path.write_text(compact_json(summary), encoding="utf-8")
    print(f"{path}: {summary['mean_accuracy']}")
    if arguments.page and not arguments.choose:
        replace_between(arguments.page, "deit-digits", markdown_table(path))


if __name__ == "__main__":
    main()
