"""For `measure_training_speed.py`: how fast batches are augmented and trained on, and how long a step waits for them."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from training_speed_loading import AHEAD, Contestant, Sample, bytes_batch, repeated
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from sima_hf.data.images import TrainImages
from sima_hf.data.loading import training_loader
from sima_hf.data.pixels import normalize, unit_interval
from sima_hf.training.arguments import ModelArguments, RecipeArguments
from sima_hf.training.models import build_model
from sima_hf.training.recipe.augmentation import BatchAugmentation
from sima_hf.training.recipe.ema import WeightAverage
from sima_hf.training.recipe.erasing import random_erasing
from sima_hf.training.recipe.mixup import draw_mix, mix_images, mix_targets, soft_targets
from sima_hf.training.recipe.optimization import parameter_groups
from sima_hf.training.recipe.parts import augmentation_of, scaled_lr


CONFIGS = Path(__file__).resolve().parents[1] / "examples" / "configs"
RECIPE = RecipeArguments()
NUM_LABELS = 1000


def recipe_augmentation() -> BatchAugmentation:
    """The recipe's, for ImageNet's classes."""
    return augmentation_of(RECIPE, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, NUM_LABELS)


def augmenting(batch: dict, device: str, calls: int, wait: Callable[[], None]) -> Iterator[Contestant]:
    """The recipe's augmentation on the device, then its parts by themselves; `calls` of them in a measurement."""
    whole = recipe_augmentation()
    pixels, labels = batch["pixel_values"].to(device), batch["labels"].to(device)
    scaled = unit_interval(pixels)
    normalized = normalize(pixels, whole.mean, whole.std)
    gray = scaled.new_tensor(whole.mean)

    def mix(seeds: torch.Tensor):
        drawn = draw_mix(seeds, *pixels.shape[-2:], whole.mixup, whole.cutmix, whole.mixup_switch_prob)
        targets = soft_targets(labels, NUM_LABELS, whole.label_smoothing)
        return mix_images(normalized, drawn), mix_targets(targets, drawn)

    parts = {
        "augmenting": lambda seeds: whole(pixels, labels, seeds),
        "RandAugment": lambda seeds: whole.rand_augment(scaled, seeds, fill=gray),
        "normalizing": lambda seeds: normalize(pixels, whole.mean, whole.std),
        "random erasing": lambda seeds: random_erasing(normalized, seeds, whole.random_erasing),
        "mixing": mix,
    }
    for what, part in parts.items():

        def measure(number: int, part=part) -> Sample:
            # The work depends on what is drawn; all parts get the same seeds, and other ones in each round.
            seeds = [torch.arange(len(pixels)) + len(pixels) * (number * calls + call) for call in range(calls)]
            wait()
            start = time.perf_counter()
            with torch.no_grad():
                for one in seeds:
                    part(one)
            wait()
            return Sample(calls * len(pixels), time.perf_counter() - start)

        measure(-1)
        yield Contestant({"what": what, "batch": len(pixels), "batches": calls}, measure)


class TrainingStep:
    """A model with the recipe's optimizer and average of the weights, on ready batches or on bytes.

    Args:
        name: of a file in `configs/`, without its ending; without "sima-" before it, the same with softmax: "deit-small".
        overrides: fields of its config to set besides, as for `--config_overrides`.
        image_size: in pixels.
        batch: images of a step.
        dtype: that the forward computes in; weights are float32.
        compiled: whether the model goes through torch.compile.
        device: "cpu" or "cuda".
    """

    def __init__(
        self, name: str, overrides: str, image_size: int, batch: int, dtype: torch.dtype, compiled: bool, device: str
    ):
        torch.manual_seed(0)
        arguments, drop_path = configured(name, overrides, image_size)
        built = build_model(arguments, [str(index) for index in range(NUM_LABELS)], drop_path)
        self.name, self.device, self.dtype = name, device, dtype
        self.model = built.model.to(device).train()
        self.run = torch.compile(self.model, dynamic=False) if compiled else self.model
        rate = scaled_lr(RECIPE, batch)
        groups = parameter_groups(self.model, RECIPE.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
        self.average = WeightAverage(self.model, RECIPE.ema_decay, warmup=False)
        self.augmentation = recipe_augmentation()

    def on_bytes(self, batch: dict) -> None:
        """Augment a batch as the loader gives it, and train on it."""
        pixels, labels = (batch[name].to(self.device, non_blocking=True) for name in ("pixel_values", "labels"))
        self(*self.augmentation(pixels, labels, batch["seeds"]))

    def __call__(self, pixels: torch.Tensor, targets: torch.Tensor) -> None:
        """Forward, backward, AdamW, average of the weights; `pixels` float32 (B, 3, H, W), `targets` float32 (B, K)."""
        with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.run(pixel_values=pixels).logits
        torch.nn.functional.cross_entropy(logits.float(), targets).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(self.model)


def configured(name: str, overrides: str, image_size: int) -> tuple[ModelArguments, float | None]:
    """The model arguments and drop path of a configuration of ours, or of its counterpart with softmax.

    Raises:
        ValueError: there is none of this name.
    """
    path = CONFIGS / f"{name}.json"
    softmax = not path.is_file()
    path = CONFIGS / f"sima-{name}.json" if softmax else path
    if not path.is_file():
        raise ValueError(
            f"There is no model {name!r}: there are {', '.join(sorted(file.stem for file in CONFIGS.glob('sima*.json')))}, and "
            "some of them with softmax, without 'sima-' before the name."
        )
    found = json.loads(path.read_text(encoding="utf-8"))
    fields = {key: found[key] for key in ModelArguments.__dataclass_fields__ if key in found}
    if softmax:
        fields["model_type"] = fields["model_type"].removeprefix("sima_")
        fields.pop("attention_gain", None)
    all_overrides = ",".join(text for text in (fields.get("config_overrides"), overrides) if text)
    fields |= {"config_overrides": all_overrides or None, "image_size": image_size}
    return ModelArguments(**fields), found.get("drop_path")


def training(step: TrainingStep, batch: dict, steps: int, wait: Callable[[], None]) -> Contestant:
    """Steps on one batch that has been augmented before.

    The first is not measured: workers that have been started since the last one shared this process's memory, which the system
    gives back page by page as it is written.
    """
    pixels, labels = batch["pixel_values"].to(step.device), batch["labels"].to(step.device)
    ready = step.augmentation(pixels, labels, batch["seeds"])

    def measure(number: int) -> Sample:
        step(*ready)
        wait()
        start = time.perf_counter()
        for _ in range(steps):
            step(*ready)
        wait()
        return Sample(steps * len(labels), time.perf_counter() - start)

    measure(-1)  # compiles, and makes the optimizer's state
    return Contestant({"what": "training step", "model": step.name, "batch": len(labels), "batches": steps}, measure)


def training_on_bytes(
    step: TrainingStep, images: TrainImages, batch: int, workers: int, steps: int, wait: Callable[[], None]
) -> Iterator[Contestant]:
    """Steps with augmentation, fed by a loader or on a repeated batch: what waiting for data costs.

    After a step that is not measured (see `training`; a run pays for that once in an epoch), the loader's queue is emptied,
    which is the worst moment for the clock to start. The time that the step waits is that of `next(loader)`, with the device idle.
    """
    longer = repeated(images, batch * (1 + AHEAD * workers + steps))
    repeats, pin = RECIPE.repeated_augmentation, step.device != "cpu"
    loader = training_loader(longer, batch, workers, repeats=repeats, pin_memory=pin, prefetch_factor=AHEAD)
    kept = bytes_batch(images, batch)

    def measure(number: int, batches: Iterator[dict]) -> Sample:
        waited, start = 0.0, time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            one = next(batches)
            waited += time.perf_counter() - asked
            step.on_bytes(one)
            wait()
        return Sample(steps * batch, time.perf_counter() - start, waited)

    def fed(number: int) -> Sample:
        loader.set_epoch(number)
        batches = iter(loader)
        step.on_bytes(next(batches))
        wait()
        for _ in range(AHEAD * workers):
            next(batches)
        return measure(number, batches)

    def on_one(number: int) -> Sample:
        step.on_bytes(kept)
        wait()
        return measure(
            number, ({**kept, "seeds": kept["seeds"] + batch * (number * steps + turn)} for turn in range(steps))
        )

    about = {"model": step.name, "batch": batch, "batches": steps}
    yield Contestant({"what": "training from the loader", **about, "workers": workers, "repeats": repeats}, fed)
    yield Contestant({"what": "training on a repeated batch", **about}, on_one)
