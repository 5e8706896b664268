"""Softmax against SimA, trained from scratch on scikit-learn's digits with the same budget: accuracy, epochs to 95 %, scales.

A ViT, the same with SimA and either gain, both with a single head, the paper's own architecture, and CvT. A swapped model starts
from the weights that its softmax twin starts from. Nothing was chosen by the 500 test images: `--choose` trains on fewer images
and measures on held-out training images, where the learning rate of each family below was chosen.

python benchmarks/compare_digits.py --output_dir benchmarks/results --readme README.md        # or: make comparison
"""

import argparse
import json
import os
import re
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch
from comparison_figure import THRESHOLD, draw_figure, update_readme, update_scales
from comparison_scales import SIDES, against_tokens, block_scales, normal_inputs, projections, random_vit
from digits_training import Digits, accuracy, begin_process, enlarged, train
from machine_facts import machine_facts
from tqdm.auto import tqdm
from transformers import CvtConfig, CvtForImageClassification, PreTrainedModel, ViTConfig, ViTForImageClassification

import sima_hf
from sima_hf.machine.description import git_revision


SCALE_IMAGES = 32  # training images that the scales are measured on
DIGITS = {"num_channels": 1, "num_labels": 10}
FAMILIES = {
    "vit": (
        ViTForImageClassification,
        ViTConfig,
        {
            **DIGITS,
            "initializer_range": 0.1,  # the default, 0.02, is made for a width of 768; see the contestants with small weights
            "image_size": 16,
            "patch_size": 2,
            "hidden_size": 48,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "intermediate_size": 96,
        },
    ),
    "native": (
        sima_hf.SimAForImageClassification,
        sima_hf.SimAConfig,
        {
            **DIGITS,
            "image_size": 64,
            "patch_size": 8,
            "hidden_size": 48,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "num_class_attention_layers": 1,
            "mlp_ratio": 2,
        },
    ),
    "cvt": (
        CvtForImageClassification,
        CvtConfig,
        {
            **DIGITS,
            "patch_sizes": [3, 3, 3],
            "patch_stride": [1, 2, 1],
            "patch_padding": [1, 1, 1],
            "embed_dim": [16, 32, 48],
            "num_heads": [1, 2, 3],
            "depth": [1, 2, 3],  # Transformers' CvT takes no fewer: it looks for the drop path rate of as many layers
            "mlp_ratio": [2.0, 2.0, 2.0],
            "drop_path_rate": [0.0, 0.0, 0.0],
        },
    ),
}
SIZES = {"vit": 16, "native": 64, "cvt": 8}  # pixels: 64 patches each, in CvT's first stage too
# Family, attention, and what is different in the config.
CONTESTANTS = {
    "vit_softmax": ("vit", "softmax", {}),
    "vit_none": ("vit", "none", {}),
    "vit_tokens": ("vit", "tokens", {}),
    "vit_tokens_one_head": ("vit", "tokens", {"num_attention_heads": 1}),
    "native_none": ("native", "none", {}),
    "native_tokens": ("native", "tokens", {}),
    "cvt_softmax": ("cvt", "softmax", {}),
    "cvt_none": ("cvt", "none", {}),
    "cvt_tokens": ("cvt", "tokens", {}),
}
RECIPE = {"epochs": 45, "batch_size": 16, "weight_decay": 0.05, "label_smoothing": 0.1, "fused": True}
RATES = (1e-3, 2e-3, 4e-3)
# Chosen on held-out training images, among RATES for the ViT; `--choose` measures all of them for all families.
LEARNING_RATES = {"vit": 4e-3, "native": 2e-3, "cvt": 2e-3}


def build(name: str) -> PreTrainedModel:
    """An untrained contestant; swapped where it is SimA in a model that comes with softmax."""
    family, attention, changes = CONTESTANTS[name]
    cls, config_cls, fields = FAMILIES[family]
    if family == "native":
        return cls(config_cls(**{**fields, **changes, "attention_gain": attention}))
    model = cls(config_cls(**{**fields, **changes}))
    return model if attention == "softmax" else sima_hf.patch_model(model, gain=attention)


def measure(name: str, seed: int, recipe: dict, choose: bool) -> dict:
    """One contestant with one seed, from the first weights to the last epoch.

    Returns:
        accuracy: with the last weights; curve: after each epoch; epochs_to_threshold: the first epoch at which the curve reaches
        THRESHOLD, or None; for a ViT the scales of its blocks before and after; for its softmax also those against tokens.
    """
    family, attention, _ = CONTESTANTS[name]
    data = Digits(choose, SIZES[family])
    images = data.sized(data.train[:SCALE_IMAGES])
    torch.manual_seed(seed)
    model = build(name)
    result = {"model": name, "seed": seed, "learning_rate": recipe["learning_rate"]}
    result["parameters"] = model.num_parameters()
    result["softmax_free"] = sima_hf.certify(model, images).softmax_free
    if family == "vit":
        result["scales_at_start"] = block_scales(model, images)
    curve, start, processor = [], time.perf_counter(), time.process_time()
    train(model, data, seed, recipe, after_epoch=lambda _: curve.append(accuracy(model, data)))
    result["seconds"], result["processor_seconds"] = time.perf_counter() - start, time.process_time() - processor
    result["accuracy"], result["curve"] = curve[-1], curve
    result["epochs_to_threshold"] = next((epoch for epoch, at in enumerate(curve, 1) if at >= THRESHOLD), None)
    if family == "vit":
        result["scales_after"] = block_scales(model, images)
        if attention == "softmax":
            originals, patch = data.train[:SCALE_IMAGES], model.config.patch_size
            result["scales_by_tokens"] = against_tokens(
                lambda side: projections(model, enlarged(originals, patch * side))
            )
    return result


def scales_by_tokens(seeds: list[int]) -> dict[str, list[dict]]:
    """Each attention's scale against the number of tokens, by seed: of unit-normal input, and of an untrained ViT's."""
    fields, images = FAMILIES["vit"][2], Digits(choose=False).train[:SCALE_IMAGES]

    def of_vit(seed):
        def blocks_at(side):
            size = fields["patch_size"] * side
            return projections(random_vit(fields, size, seed), enlarged(images, size))

        return against_tokens(blocks_at)

    def of_normal(seed):
        return against_tokens(lambda side: normal_inputs(side * side + 1, seed))

    return {"unit_normal": [of_normal(seed) for seed in seeds], "untrained_vit": [of_vit(seed) for seed in seeds]}


def run_all(tasks: list[tuple], processes: int, show: bool = True) -> list[dict]:
    """`measure` of every task, several at a time, in the order of the tasks."""
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=begin_process) as pool:
        waiting = [pool.submit(measure, *task) for task in tasks]
        for task in tqdm(as_completed(waiting), total=len(waiting), unit="model", disable=not show):
            found = task.result()
            tqdm.write(
                f"{found['model']}, seed {found['seed']}, rate {found['learning_rate']}: {100 * found['accuracy']:.1f} %, "
                f"{100 * THRESHOLD:.0f} % after {found['epochs_to_threshold']} epochs, {found['processor_seconds']:.0f} s"
            )
        return [task.result() for task in waiting]


def compact_json(content: dict) -> str:
    """Indented JSON with every list of plain values on one line."""
    text = json.dumps(content, indent=1)
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path("benchmarks/results"), help="folder for JSON and PNG")
    parser.add_argument("--readme", type=Path, help="README whose table is to be brought up to date as well")
    parser.add_argument("--text", type=Path, help="text whose table of scales is to be brought up to date as well")
    parser.add_argument(
        "--from_results", action="store_true", help="measure nothing: picture and tables from the JSON"
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="0, 1 and 2; to choose by, 10")
    parser.add_argument("--models", nargs="+", choices=list(CONTESTANTS), help="all by default")
    parser.add_argument("--epochs", type=int, default=RECIPE["epochs"])
    parser.add_argument("--choose", action="store_true", help="all learning rates, on held-out training images")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="runs at the same time, one thread each")
    arguments = parser.parse_args()
    arguments.seeds = arguments.seeds or ([10] if arguments.choose else [0, 1, 2])
    arguments.models = arguments.models or list(CONTESTANTS)
    path = arguments.output_dir / ("comparison_choice.json" if arguments.choose else "comparison_digits.json")
    if not arguments.from_results:
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(compact_json(compare(arguments)), encoding="utf-8")
    if arguments.choose:
        return
    draw_figure(path)
    if arguments.readme:
        update_readme(arguments.readme, path)
    if arguments.text:
        update_scales(arguments.text, path)


def compare(arguments: argparse.Namespace) -> dict:
    """All runs, and everything that they depend on."""
    start = time.perf_counter()
    recipe = {**RECIPE, "epochs": arguments.epochs}
    tasks = [
        (name, seed, {**recipe, "learning_rate": rate}, arguments.choose)
        for seed in arguments.seeds
        for name in arguments.models
        for rate in (RATES if arguments.choose else (LEARNING_RATES[CONTESTANTS[name][0]],))
    ]
    runs = run_all(tasks, arguments.processes)
    data = Digits(arguments.choose)
    summary = {
        "command": "python benchmarks/compare_digits.py --choose" if arguments.choose else "make comparison",
        "data": f"scikit-learn digits: {len(data.train)} training images, {len(data.test)} measured",
        "measured_on": "held-out training images" if arguments.choose else "test images",
        "augmentation": "moved by at most one of 8 pixels each way, then interpolated to the family's size",
        "threshold": THRESHOLD,
        **machine_facts(),
        "processes": arguments.processes,
        "threads_each": 1,
        "revision": git_revision(),
        "recipe": {**recipe, "optimizer": "AdamW", "schedule": "OneCycleLR, pct_start 0.1", "clip_grad_norm": 1.0},
        "learning_rates": list(RATES) if arguments.choose else LEARNING_RATES,
        "sizes": SIZES,
        "families": {name: fields for name, (_, _, fields) in FAMILIES.items()},
        "contestants": {name: CONTESTANTS[name] for name in arguments.models},
        "runs": runs,
    }
    if not arguments.choose:
        summary["tokens"] = [side * side + 1 for side in SIDES]
        summary["scale_images"] = SCALE_IMAGES
        summary["scales_by_tokens"] = scales_by_tokens(arguments.seeds)
    summary["seconds"] = time.perf_counter() - start
    return summary


if __name__ == "__main__":
    main()
