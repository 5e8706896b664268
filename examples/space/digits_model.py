"""The model that the page shows without arguments: a small softmax ViT trained here on scikit-learn's digits, and its twin.

Training takes some seconds on two cores; both models, the accuracies measured after training, and a few of the test images
are kept in a folder and taken from there the next time.
"""

import contextlib
import copy
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import sima_hf


TEST_IMAGES, CALIBRATION_IMAGES = 500, 2048
# The digits are 8 x 8; enlarged, they have 36 patches of 2 x 2. Finer patches take minutes to learn.
MODEL = {
    "image_size": 12,
    "patch_size": 2,
    "num_channels": 1,
    "num_labels": 10,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "initializer_range": 0.1,
}
RECIPE = {
    "epochs": 30,
    "batch_size": 32,
    "learning_rate": 3e-3,
    "weight_decay": 0.3,
    "label_smoothing": 0.1,
    "seed": 0,
}
OURS = {"softmax", "sima", "examples", "results.json"}


def default_cache() -> Path:
    """Where the models are kept: `$XDG_CACHE_HOME/sima_hf/space_digits`, or the same below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sima_hf" / "space_digits"


def digits_folder(cache: Path, say: Callable[[str], None] = print, recipe: dict = RECIPE) -> Path:
    """The folder with `softmax/`, `sima/`, `examples/*.png` and `results.json`; made first where it is not there.

    Args:
        cache: the folder. It appears at once and whole, so a run that was interrupted leaves nothing that looks finished.
        say: gets a sentence now and then.
        recipe: epochs, batch_size, learning_rate, weight_decay, label_smoothing, seed.

    Raises:
        FileExistsError: the folder holds something else, which is left as it is.
        MissingDependencyError: scikit-learn, which has the images, is not installed.
    """
    wanted = {"model": MODEL, "recipe": recipe, "sima_hf": sima_hf.__version__}
    if _made_with(cache) == wanted:
        return cache
    _check_ours(cache)
    cache.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=cache.parent, prefix=".incomplete-"))
    try:
        with _one_thread():
            found = _make(unfinished, say, recipe)
        text = json.dumps({"made_with": wanted, **found}, indent=2) + "\n"
        (unfinished / "results.json").write_text(text, encoding="utf-8")
        if _made_with(cache) != wanted:  # another process may have been quicker
            _check_ours(cache)
            shutil.rmtree(cache, ignore_errors=True)
            unfinished.rename(cache)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return cache


def _made_with(cache: Path) -> dict | None:
    """What the models in a folder were made with; None if it is none that `digits_folder` made."""
    try:
        results = json.loads((cache / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = results.get("made_with") if isinstance(results, dict) else None
    return found if isinstance(found, dict) and {"model", "recipe", "sima_hf"} <= set(found) else None


def _check_ours(cache: Path) -> None:
    """Only what was made here may be replaced."""
    if not cache.exists():
        return
    inside = {one.name for one in cache.iterdir()} if cache.is_dir() else {cache.name}
    if inside and (_made_with(cache) is None or inside - OURS):
        raise FileExistsError(
            f"{cache} holds something other than the page's digits models, so nothing in it is replaced; name a new or an empty "
            "folder with --cache."
        )


def light_on_dark(image: Image.Image) -> tuple[Image.Image, str]:
    """A picture of a digit as the model knows them, light on dark, and a sentence if it had to be inverted."""
    gray = image.convert("L")
    pixels = np.asarray(gray)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    if np.median(border) <= 127:
        return image, ""
    return ImageOps.invert(
        gray
    ), "It is dark on light; the digits model has seen light on dark only, so it was inverted."


def _make(folder: Path, say: Callable[[str], None], recipe: dict) -> dict:
    """Train, swap, calibrate, measure and save into `folder`; what was measured."""
    start = time.perf_counter()
    images, labels = _digits()
    train, train_labels = images[:-TEST_IMAGES], labels[:-TEST_IMAGES]
    test, test_labels = images[-TEST_IMAGES:], labels[-TEST_IMAGES:]
    say(f"Training a small ViT on {len(train):,} digits of scikit-learn; this happens once and takes some seconds.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe["seed"])
        softmax = ViTForImageClassification(ViTConfig(**MODEL, id2label={n: str(n) for n in range(10)}))
        _train(softmax, train, train_labels, recipe)
    sima = sima_hf.patch_model(copy.deepcopy(softmax))
    uncalibrated = _accuracy(sima, test, test_labels)
    generator = torch.Generator().manual_seed(recipe["seed"] + 1)
    pool = torch.cat([_shifted(train, generator) for _ in range(2)])[:CALIBRATION_IMAGES]
    sima_hf.calibrate(sima, softmax, _enlarged(pool).split(64), classifier=True, progress=False)
    processor = ViTImageProcessorPil(
        size={"height": 12, "width": 12}, resample=Image.Resampling.BOX, image_mean=[0.5], image_std=[0.5]
    )
    for name, model in (("softmax", softmax), ("sima", sima)):
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    (folder / "examples").mkdir()
    for label in range(10):
        index = int((test_labels == label).nonzero()[0])
        pixels = test[index, 0].add(1).mul(127.5).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).resize((96, 96), Image.Resampling.NEAREST).save(
            folder / "examples" / f"digit_{label}.png"
        )
    return {
        "seconds": time.perf_counter() - start,
        "test_images": len(test),
        "accuracy": {
            "softmax": _accuracy(softmax, test, test_labels),
            "sima": _accuracy(sima, test, test_labels),
            "sima_uncalibrated": uncalibrated,
        },
    }


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """More threads only wait for each other on a model this small, and for minutes where others use the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    """All images `(1797, 1, 8, 8)` in -1..1 and their labels, in one fixed random order."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise sima_hf.errors.MissingDependencyError(
            "The digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 8 - 1
    return images[order], torch.tensor(bunch.target)[order]


def _shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images `(B, 1, 8, 8)`, each moved by at most a pixel each way."""
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), value=-1.0)
    down, right = torch.randint(0, 3, (2, len(images), 1), generator=generator)
    rows, columns, index = down + torch.arange(8), right + torch.arange(8), torch.arange(len(images))
    return padded[index[:, None, None], 0, rows[:, :, None], columns[:, None]][:, None]


def _enlarged(images: torch.Tensor) -> torch.Tensor:
    """`(B, 1, 8, 8)` to `(B, 1, 12, 12)` as Pillow's box filter does it, which is what the image processor has."""
    return torch.nn.functional.avg_pool2d(images.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3), 2)


def _train(model, images: torch.Tensor, labels: torch.Tensor, recipe: dict) -> None:
    """AdamW over one cycle of the learning rate; every batch is shifted at random. The model ends in evaluation mode."""
    generator = torch.Generator().manual_seed(recipe["seed"])
    rate, size = recipe["learning_rate"], recipe["batch_size"]
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=recipe["weight_decay"], fused=True)
    steps = recipe["epochs"] * -(-len(images) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    entropy = torch.nn.CrossEntropyLoss(label_smoothing=recipe["label_smoothing"])
    model.train()
    for _ in range(recipe["epochs"]):
        for batch in torch.randperm(len(images), generator=generator).split(size):
            entropy(model(_enlarged(_shifted(images[batch], generator))).logits, labels[batch]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()


def _accuracy(model, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of right answers for images `(B, 1, 8, 8)`."""
    with torch.no_grad():
        return (model.eval()(_enlarged(images)).logits.argmax(-1) == labels).double().mean().item()
