"""The table of training configurations in the README, made from the files themselves.

python benchmarks/list_configs.py --readme README.md
"""

import argparse
import json
from pathlib import Path

import torch

from sima_hf.bench.tables import markdown, replace_between
from sima_hf.training.arguments import ModelArguments
from sima_hf.training.models import build_model


CONFIGS = Path(__file__).resolve().parents[1] / "examples" / "configs"
# Top-1 on ImageNet-1k as far as it is known: quoted in UCDvision/sima#4, and not contradicted by the author. The paper's tables
# were not at hand for the others.
KNOWN = {"sima-deit-small": "79.8 (softmax: 79.9)"}


def markdown_table() -> str:
    """One row for each configuration that trains from fresh weights, and the one that fine-tunes."""
    rows = []
    for path in sorted(CONFIGS.glob("*.json")):
        settings = json.loads(path.read_text(encoding="utf-8"))
        known = {name: settings[name] for name in ModelArguments.__dataclass_fields__ if name in settings}
        if "model_name_or_path" in known:
            size = f"as {known['model_name_or_path']}, at {known['image_size']} px"
        else:
            with torch.device("meta"):
                built = build_model(ModelArguments(**known), [str(index) for index in range(1000)])
            size = f"{built.model.num_parameters() / 1e6:.1f} M"
        batch = 8 * settings["per_device_train_batch_size"] * settings.get("gradient_accumulation_steps", 1)
        name, known = f"[{path.name}](examples/configs/{path.name})", KNOWN.get(path.stem, "not known")
        rows.append([name, size, settings["num_train_epochs"], f"{batch:,}", known])
    header = ["configuration", "parameters", "epochs", "images a step", "ImageNet top-1"]
    return markdown(header, rows) + "\n\nImages a step: on 8 GPUs."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--readme", type=Path, help="README whose table is to be brought up to date")
    arguments = parser.parse_args()
    table = markdown_table()
    if arguments.readme:
        replace_between(arguments.readme, "configs", table)
    print(table)


if __name__ == "__main__":
    main()
