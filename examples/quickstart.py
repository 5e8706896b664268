"""Train a SimA image classifier from raw images, save it, and use what was saved: one script, a few minutes, no GPU.

    python examples/quickstart.py --output_dir demo                                     # scikit-learn's digits
    python examples/quickstart.py --output_dir mine --train_dir photos --image_size 128 # one sub-folder per class
    python examples/quickstart.py --output_dir mine --variant sima_tiny_12_p16 --image_size 224 --train_dir photos
    python examples/quickstart.py --output_dir demo --resume_from_checkpoint last       # go on after an interruption

Every argument of `transformers.TrainingArguments` works too. For a real training run, see the other scripts here.
"""

import ast
import json
import shutil
import sys
import time
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
import transformers
from datasets import Dataset
from model_card import write_model_card
from report import draw_report
from transformers import HfArgumentParser, Trainer, TrainingArguments, pipeline, set_seed
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.trainer_callback import ProgressCallback

import sima_hf
from sima_hf import SimAConfig, SimAForImageClassification, SimAImageProcessor
from sima_hf.data.images import decode
from sima_hf.data.sources import load_images, stratified_split
from sima_hf.errors.sentences import sentence_of, with_hint
from sima_hf.folders.weights_hash import WEIGHTS_HASH, hash_of


# 64 tokens at 64 px. "tokens" keeps the attention's scale, which small data sets need (see attention_gain).
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_class_attention_layers": 2,
    "patch_size": 16,
    "attention_gain": "tokens",
}
# What a run leaves in its folder; --overwrite_output_dir removes these and refuses to touch anything else.
OWN_FILES = (
    "README.md",
    "all_results.json",
    "config.json",
    "eval_results.json",
    "model.safetensors",
    "preprocessor_config.json",
    "report.png",
    "results.json",
    "runs",
    "train_results.json",
    "trainer_state.json",
    "training_args.bin",
)


@dataclass
class QuickstartArguments:
    """Which data, which model."""

    dataset: str | None = field(default=None, metadata={"help": "Data set on the Hub; default: the bundled digits."})
    train_dir: str | None = field(default=None, metadata={"help": "Folder with one sub-folder of images per class."})
    held_out: float = field(default=0.2, metadata={"help": "Share of the images kept for the final test."})
    variant: str | None = field(default=None, metadata={"help": "An original model, e.g. sima_tiny_12_p16."})
    config_overrides: str | None = field(
        default=None, metadata={"help": "Config fields to set, e.g. hidden_size=96,drop_path_rate=0.1."}
    )
    image_size: int = field(default=64, metadata={"help": "Resolution in pixels."})
    augment: bool = field(default=True, metadata={"help": "Shift, turn and scale the training images a little."})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Remove what an earlier run left there."})


@dataclass
class QuickstartTrainingArguments(TrainingArguments):
    """TrainingArguments with defaults for a small model on a small data set."""

    output_dir: str | None = field(default="demo", metadata={"help": "Folder for the model and everything about it."})
    num_train_epochs: float = field(default=40, metadata={"help": "Number of passes over the training images."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Batch size in training."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Batch size in evaluation."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Highest learning rate (AdamW)."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Warm-up steps, or their share of all if below 1."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rate."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to validate."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint."})
    logging_strategy: str = field(default="epoch", metadata={"help": "When to record the loss."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept: the best and the last."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Keep the best checkpoint, by validation."})
    metric_for_best_model: str | None = field(default="loss", metadata={"help": "What makes a checkpoint best."})
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "Pin batches in memory; useful on a GPU only."}
    )


class ProcessedImages(torch.utils.data.Dataset):
    """Images through the image processor, kept in memory up to `cache_bytes`; then augmented, a batch at a time."""

    def __init__(self, data: Dataset, processor, augment=None, cache_bytes: int = 2**30):
        self.data, self.processor, self.augment, self.room = data, processor, augment, cache_bytes
        self.labels = data["label"][:]
        self.cache: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict]:
        pixel_values = torch.stack([self.pixels(index) for index in indices])
        if self.augment is not None:
            pixel_values = self.augment(pixel_values)
        return [
            {"pixel_values": pixels, "labels": self.labels[index]}
            for pixels, index in zip(pixel_values, indices, strict=True)
        ]

    def pixels(self, index: int) -> torch.Tensor:
        """`(3, H, W)` of one image."""
        if index in self.cache:
            return self.cache[index]
        pixels = self.processor(decode(self.data[index]["image"]), return_tensors="pt").pixel_values[0]
        self.room -= pixels.nbytes
        if self.room >= 0:
            self.cache[index] = pixels
        return pixels


class QuietProgress(ProgressCallback):
    """The usual progress bar, with the newest loss and accuracy on it instead of a line for each."""

    shown = ("loss", "eval_accuracy")

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.newest = {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and self.training_bar is not None:
            numbers = {name.removeprefix("eval_"): float(logs[name]) for name in self.shown if name in logs}
            self.newest.update({name: f"{number:.3f}" for name, number in numbers.items()})
            self.training_bar.set_postfix(self.newest)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        """No bar of its own for a validation that takes a moment."""


def main() -> None:
    parser = HfArgumentParser((QuickstartArguments, QuickstartTrainingArguments))
    try:
        run(*parser.parse_args_into_dataclasses())
    except Exception as error:
        sentence = sentence_of(error, __name__)
        if sentence is None:
            with_hint(error)
            raise
        sys.exit(f"quickstart: {sentence}")
    except KeyboardInterrupt:
        sys.exit(
            f"\nquickstart: interrupted. To go on from the last checkpoint:\n"
            f"  {sys.executable} {' '.join(sys.argv)} --resume_from_checkpoint last"
        )


def run(arguments: QuickstartArguments, training_arguments: TrainingArguments) -> dict:
    """The whole way; returns the results that are also written to results.json."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()  # those of saving and loading; training keeps its own
    output_dir = Path(training_arguments.output_dir)
    splits = load_images(arguments.dataset, arguments.train_dir, arguments.held_out)
    config = make_config(arguments, splits["train"].features["label"].names)
    processor = SimAImageProcessor.for_image_size(arguments.image_size, crop_pct=1.0)
    augment = make_augmentation() if arguments.augment else None
    checkpoint = prepare_output_dir(
        output_dir, arguments.overwrite_output_dir, training_arguments.resume_from_checkpoint
    )

    # The held-out images choose nothing: the best checkpoint is chosen on a tenth of the training images.
    train, validation = stratified_split(splits["train"], 0.1, "the training part").values()
    set_seed(training_arguments.seed)
    trainer = Trainer(
        model=SimAForImageClassification(config),
        args=training_arguments,
        train_dataset=ProcessedImages(train, processor, augment),
        eval_dataset=ProcessedImages(validation, processor),
        processing_class=processor,
        compute_metrics=accuracy,
    )
    trainer.remove_callback(ProgressCallback)
    if not training_arguments.disable_tqdm:
        trainer.add_callback(QuietProgress)
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    test = ProcessedImages(splits["test"], processor)
    predictions = trainer.predict(test, metric_key_prefix="eval")
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("train", trained.metrics)
    trainer.save_metrics("eval", predictions.metrics)

    print(f"Loading {output_dir} back, as any user of it would ...")
    found = classify_from_folder(output_dir, splits["test"])
    expected = predictions.predictions.argmax(-1)
    if not np.array_equal(found, expected):
        raise RuntimeError(f"The pipeline disagrees with the evaluation on {int((found != expected).sum())} images.")
    results = {
        "accuracy": float((found == test.labels).mean()),
        "best_step": trainer.state.best_global_step,
        "test_images": len(test),
        "train_images": len(train),
        "validation_images": len(validation),
        "parameters": trainer.model.num_parameters(),
        WEIGHTS_HASH: hash_of(output_dir),
        "train_seconds": trained.metrics["train_runtime"],
        "train_images_per_second": trained.metrics["train_samples_per_second"],
        "inference_images_per_second": inference_speed(trainer.model, test, training_arguments),
        "data": arguments.dataset or arguments.train_dir or "scikit-learn digits",
        "image_size": arguments.image_size,
        "epochs": training_arguments.num_train_epochs,
        "batch_size": training_arguments.train_batch_size,
        "learning_rate": training_arguments.learning_rate,
        "seed": training_arguments.seed,
        "config": {name: getattr(config, name) for name in SMALL},
        "device": str(training_arguments.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sima_hf": sima_hf.__version__,
        "labels": splits["train"].features["label"].names,
        "predicted": found.tolist(),
        "true": list(test.labels),
        "history": trainer.state.log_history,
    }
    write_json(output_dir / "results.json", results)
    write_model_card(output_dir)
    draw_report(output_dir, splits["test"]["image"])
    print_table(results, output_dir)
    return results


def make_config(arguments: QuickstartArguments, names: list[str]) -> SimAConfig:
    """The small model, or the variant asked for, with the fields that --config_overrides sets."""
    overrides = {}
    known = {entry.name for entry in fields(SimAConfig)}
    for item in filter(None, (arguments.config_overrides or "").split(",")):
        name, equals, text = item.partition("=")
        if not equals or name.strip() not in known:
            raise ValueError(
                f"--config_overrides takes field=value pairs, got {item!r}. The fields are {', '.join(sorted(known))}."
            )
        try:
            overrides[name.strip()] = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            overrides[name.strip()] = text.strip()
    classes = {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "image_size": arguments.image_size,
    }
    if arguments.variant:
        return SimAConfig.from_variant(arguments.variant, **{**classes, **overrides})
    return SimAConfig(**{**SMALL, **classes, **overrides})


def make_augmentation():
    """Small shifts, turns and changes of size, a whole batch at once."""
    try:
        from kornia.augmentation import RandomAffine
    except ImportError as error:
        raise sima_hf.errors.MissingDependencyError(
            "Augmentation needs kornia: pip install 'sima-hf[train]', or leave it out with --no_augment."
        ) from error
    return RandomAffine(degrees=12.0, translate=(0.1, 0.1), scale=(0.9, 1.1), shear=8.0, padding_mode="border", p=1.0)


def prepare_output_dir(output_dir: Path, overwrite: bool, resume: str | None) -> str | None:
    """Make sure that nothing stale is used; returns the checkpoint to go on from, if one was asked for.

    Raises:
        FileExistsError: the folder holds something, and neither resuming nor overwriting was asked for, or overwriting
            would remove files that no run of this script has left there.
        FileNotFoundError: there is no complete checkpoint to go on from.
    """
    if resume in ("last", "True", "true"):
        checkpoints = sorted(output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        complete = [path for path in checkpoints if (path / "trainer_state.json").is_file()]
        if not complete:
            raise FileNotFoundError(f"{output_dir} has no complete checkpoint to go on from; leave out the option.")
        return str(complete[-1])
    if resume:
        if not (Path(resume) / "trainer_state.json").is_file():
            raise FileNotFoundError(f"{resume} is not a complete checkpoint: it has no trainer_state.json.")
        return resume
    present = sorted(output_dir.iterdir()) if output_dir.is_dir() else []
    if present and not overwrite:
        raise FileExistsError(
            f"{output_dir} is not empty. Go on with --resume_from_checkpoint last, start over with "
            "--overwrite_output_dir, or name another folder."
        )
    foreign = [path.name for path in present if path.name not in OWN_FILES and not path.match("checkpoint-*")]
    if foreign:
        raise FileExistsError(f"{output_dir} also holds {', '.join(foreign)}, which is not this script's to remove.")
    for path in present:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return None


def accuracy(prediction) -> dict[str, float]:
    """Share of images whose highest logit is the true class."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def classify_from_folder(folder: Path, data: Dataset) -> np.ndarray:
    """Class indices that the saved folder alone predicts, through `pipeline`."""
    classifier = pipeline(
        "image-classification", model=str(folder), image_processor=AutoImageProcessor.from_pretrained(folder)
    )
    label2id = classifier.model.config.label2id
    images = [decode(image) for image in data["image"]]
    answers = classifier(images, batch_size=64, top_k=1)
    return np.array([label2id[answer[0]["label"]] for answer in answers])


def inference_speed(
    model, data: ProcessedImages, training_arguments: TrainingArguments, seconds: float = 1.0
) -> float:
    """Images per second through the model alone, in batches, in evaluation mode, without gradients."""
    count = min(training_arguments.eval_batch_size, len(data))
    pixel_values = torch.stack([data.pixels(index) for index in range(count)]).to(training_arguments.device)
    model.eval()
    done = 0
    with torch.inference_mode():
        float(model(pixel_values).logits.sum())  # warm up; the sum waits for an accelerator
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            float(model(pixel_values).logits.sum())
            done += count
    return done / (time.perf_counter() - start)


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def print_table(results: dict, output_dir: Path) -> None:
    rows = (
        ("accuracy, held-out images", f"{results['accuracy']:.2%} of {results['test_images']}"),
        ("the same through pipeline()", "equal, image by image"),
        ("parameters", f"{results['parameters']:,}"),
        ("training", f"{results['train_seconds']:.0f} s, {results['train_images_per_second']:,.0f} images/s"),
        ("inference", f"{results['inference_images_per_second']:,.0f} images/s on {results['device']}"),
        ("model, card, results", f"{output_dir}/"),
        ("picture", f"{output_dir / 'report.png'}"),
    )
    width = max(len(name) for name, _ in rows)
    print("\n" + "\n".join(f"  {name:<{width}}  {value}" for name, value in rows) + "\n")


if __name__ == "__main__":
    main()
