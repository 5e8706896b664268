"""The quickstart with several seeds, summed up in one file: the evidence behind the figures in the README.

python benchmarks/quickstart_seeds.py --output_dir benchmarks/results        # or: make evidence
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
import transformers


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from quickstart import RECIPE, QuickstartArguments, run

import sima_hf
from sima_hf.machine.description import device_name, git_revision
from sima_hf.training import SimATrainingArguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path("benchmarks/results"), help="folder for JSON and PNG")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            recipe = json.loads(RECIPE.read_text(encoding="utf-8"))
            args = SimATrainingArguments(str(Path(folder, "digits")), seed=seed, report_to="none", **recipe)
            found = run(QuickstartArguments(), args)
            measured = {"accuracy": found["eval_accuracy"], "train_seconds": found["train_runtime"]}
            results.append({"seed": seed, **measured})
            if seed == arguments.seeds[0]:
                shutil.copy(Path(folder, "digits", "report.png"), arguments.output_dir / "quickstart_digits.png")
    summary = {
        "command": "make evidence",
        "device": device_name("cpu"),
        "revision": git_revision(),
        "recipe": json.loads(RECIPE.read_text(encoding="utf-8")),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sima_hf": sima_hf.__version__,
        "lowest_accuracy": min(result["accuracy"] for result in results),
        "runs": results,
    }
    path = arguments.output_dir / "quickstart_digits.json"
    path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(f"{path}: lowest accuracy {summary['lowest_accuracy']:.2%}")


if __name__ == "__main__":
    main()
