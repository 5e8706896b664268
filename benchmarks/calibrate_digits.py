"""What calibration keeps of a swapped model, and what fine-tuning and distillation add: measured on scikit-learn's digits.

Four small models are trained with softmax, swapped, calibrated with 32 to 2,048 unlabeled images, and trained on for up to
30 epochs from there and from the bare swap. Nothing was chosen by the 500 test images: `--choose` trains on fewer images and
measures on held-out training images, and that is what the settings below come from.

python benchmarks/calibrate_digits.py --output_dir benchmarks/results --page docs/calibration.md        # or: make calibration
"""

import argparse
import copy
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch
from calibration_figure import draw_figure, update_page
from digits_training import Digits, accuracy, batches_of_epoch, begin_process, shifted, train
from machine_facts import machine_facts
from tqdm.auto import tqdm
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    PreTrainedModel,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

import sima_hf
from sima_hf.machine.description import git_revision


CALIBRATION_IMAGES = (32, 128, 512, 2048)
EPOCHS = (1, 3, 10, 30)

IMAGES = {"image_size": 8, "num_channels": 1, "num_labels": 10, "initializer_range": 0.1}
PLAIN = {**IMAGES, "patch_size": 2, "hidden_size": 48, "num_attention_heads": 4}
MODELS = {
    "vit_4": (
        ViTForImageClassification,
        ViTConfig,
        {**PLAIN, "num_hidden_layers": 4, "intermediate_size": 96},
    ),
    "vit_12": (
        ViTForImageClassification,
        ViTConfig,
        {**PLAIN, "num_hidden_layers": 12, "intermediate_size": 96},
    ),
    "dinov2_4": (
        Dinov2ForImageClassification,
        Dinov2Config,
        {**PLAIN, "num_hidden_layers": 4, "mlp_ratio": 2},
    ),
    "swin_2_2": (
        SwinForImageClassification,
        SwinConfig,
        {
            **IMAGES,
            "patch_size": 1,
            "embed_dim": 32,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
            "mlp_ratio": 2.0,
            "drop_path_rate": 0.0,
            "use_absolute_embeddings": True,
        },
    ),
}
ORIGINAL = {"epochs": 50, "learning_rate": 1e-3, "weight_decay": 0.5, "label_smoothing": 0.1, "batch_size": 64}
# What a model needs to train well that others do not.
ORIGINAL_OF = {"swin_2_2": {"learning_rate": 3e-3, "weight_decay": 0.05}}
ADAPTED = {
    "learning_rate": 3e-4,
    "weight_decay": 0.05,
    "average": 0.98,
    "temperature": 2.0,
    "hidden_states_weight": 10.0,
    "batch_size": 32,
}


def adapt(model: PreTrainedModel, data: Digits, seed: int, teacher: PreTrainedModel | None) -> dict[str, float]:
    """Accuracy by epochs of fine-tuning with labels or, with a teacher, of distillation without them.

    Measured is a running average of the weights, so that no epoch depends on a schedule that was made for another.
    """
    generator = torch.Generator().manual_seed(1000 + seed)
    optimizer = torch.optim.AdamW(model.parameters(), ADAPTED["learning_rate"], weight_decay=ADAPTED["weight_decay"])
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=10)
    average, step, found = copy.deepcopy(model), 0, {}
    for epoch in range(1, EPOCHS[-1] + 1):
        model.train()
        for images, labels in batches_of_epoch(data, ADAPTED["batch_size"], generator):
            loss_of(model, images, labels, teacher).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            warm_up.step()
            optimizer.zero_grad()
            step += 1
            share = 1 - min(ADAPTED["average"], step / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), share)
        if epoch in EPOCHS:
            found[str(epoch)] = accuracy(average, data)
    return found


def loss_of(model, images, labels, teacher):
    """Cross-entropy with labels; with a teacher, the distance from its softened answer and, block by block, from its stream."""
    if teacher is None:
        return torch.nn.functional.cross_entropy(model(images).logits, labels)
    warmth = ADAPTED["temperature"]
    with torch.no_grad():
        wanted = teacher(images, output_hidden_states=True)
    found = model(images, output_hidden_states=True)
    soft = torch.nn.functional.kl_div(
        found.logits.div(warmth).log_softmax(-1), wanted.logits.div(warmth).softmax(-1), reduction="batchmean"
    )
    streams = list(zip(found.hidden_states, wanted.hidden_states, strict=True))[1:]
    apart = sum((one - two).square().mean() / two.var() for one, two in streams) / len(streams)
    return warmth**2 * soft + ADAPTED["hidden_states_weight"] * apart


def measure(name: str, seed: int, data: Digits) -> dict:
    """One model with one seed, from training to the last epoch."""
    cls, config_cls, fields = MODELS[name]
    torch.manual_seed(seed)
    start = time.perf_counter()
    teacher = train(cls(config_cls(**fields)), data, seed, {**ORIGINAL, **ORIGINAL_OF.get(name, {})})
    result = {"model": name, "seed": seed, "original": accuracy(teacher, data)}
    result["original_seconds"] = time.perf_counter() - start
    raw = sima_hf.patch_model(copy.deepcopy(teacher))
    result["swapped"] = accuracy(raw, data)
    generator = torch.Generator().manual_seed(2000 + seed)
    pool = torch.cat([shifted(data.train, generator) for _ in range(2)])[: CALIBRATION_IMAGES[-1]]
    result["calibrated"], result["calibration_seconds"] = {}, {}
    for images in CALIBRATION_IMAGES:
        model = copy.deepcopy(raw)
        start = time.perf_counter()
        report = sima_hf.calibrate(model, teacher, pool[:images].split(64), classifier=True, progress=False)
        result["calibration_seconds"][str(images)] = time.perf_counter() - start
        result["calibrated"][str(images)] = accuracy(model, data)
    result["unexplained"] = {fit.layer: [fit.before, fit.after] for fit in report.fits}
    for kind, guide in (("labels", None), ("teacher", teacher)):
        for start_from, begun in (("swapped", raw), ("calibrated", model)):
            result[f"{kind}_from_{start_from}"] = adapt(copy.deepcopy(begun), data, seed, guide)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path("benchmarks/results"), help="folder for JSON and PNG")
    parser.add_argument("--page", type=Path, help="page whose table is to be brought up to date as well")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument(
        "--choose", action="store_true", help="measure on held-out training images, to choose settings by"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="runs at the same time, one thread each")
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    data, start = Digits(arguments.choose), time.perf_counter()
    tasks = [(name, seed) for seed in arguments.seeds for name in arguments.models]
    with ProcessPoolExecutor(arguments.processes, get_context("spawn"), initializer=begin_process) as pool:
        waiting = [pool.submit(measure, name, seed, data) for name, seed in tasks]
        for task in tqdm(as_completed(waiting), total=len(waiting), unit="model"):
            found = task.result()
            kept = 100 * found["calibrated"][str(CALIBRATION_IMAGES[-1])] / found["original"]
            tqdm.write(
                f"{found['model']}, seed {found['seed']}: {100 * found['original']:.1f} %, calibrated {kept:.1f} % of it"
            )
        runs = [task.result() for task in waiting]
    summary = {
        "command": "make calibration",
        "data": f"scikit-learn digits: {len(data.train)} training images, {len(data.test)} measured",
        "measured_on": "held-out training images" if arguments.choose else "test images",
        "calibration_images": f"training images moved by up to a pixel; {CALIBRATION_IMAGES[-1]} at most",
        **machine_facts(),
        "revision": git_revision(),
        "seconds": time.perf_counter() - start,
        "original": ORIGINAL,
        "original_of": ORIGINAL_OF,
        "adapted": ADAPTED,
        "models": {name: MODELS[name][2] for name in arguments.models},
        "runs": runs,
    }
    path = arguments.output_dir / "calibration_digits.json"
    path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    draw_figure(path)
    if arguments.page:
        update_page(arguments.page, path)
    print(f"{path}: {summary['seconds']:.0f} s")


if __name__ == "__main__":
    main()
