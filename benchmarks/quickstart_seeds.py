"""The quickstart with several seeds, summed up in one file: the evidence behind the figures in the README.

python benchmarks/quickstart_seeds.py --output_dir benchmarks/results        # or: make evidence
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from quickstart import QuickstartArguments, QuickstartTrainingArguments, run, write_json

from sima_hf.machine.description import device_name, git_revision


# What differs from one seed to the next, and what is the same for all; the rest of results.json is too long for here.
PER_SEED = (
    "seed",
    "accuracy",
    "best_step",
    "train_seconds",
    "train_images_per_second",
    "inference_images_per_second",
)
SHARED = (
    "data",
    "config",
    "train_images",
    "validation_images",
    "test_images",
    "parameters",
    "image_size",
    "epochs",
    "batch_size",
    "learning_rate",
    "threads",
    "torch",
    "transformers",
    "sima_hf",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path("benchmarks/results"), help="folder for JSON and PNG")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            training_arguments = QuickstartTrainingArguments(
                output_dir=str(Path(folder, "digits")), seed=seed, disable_tqdm=False
            )
            results.append(run(QuickstartArguments(), training_arguments))
            if seed == arguments.seeds[0]:
                shutil.copy(Path(folder, "digits", "report.png"), arguments.output_dir / "quickstart_digits.png")
    summary = {
        "command": "make evidence",
        "device": device_name("cpu"),
        "revision": git_revision(),
        **{name: results[0][name] for name in SHARED},
        "lowest_accuracy": min(result["accuracy"] for result in results),
        "runs": [{name: result[name] for name in PER_SEED} for result in results],
    }
    write_json(arguments.output_dir / "quickstart_digits.json", summary)
    print(f"{arguments.output_dir / 'quickstart_digits.json'}: lowest accuracy {summary['lowest_accuracy']:.2%}")


if __name__ == "__main__":
    main()
