"""Train a SimA image classifier from raw images, save it, and use what was saved: one script, a few minutes, no GPU.

    python examples/quickstart.py --output_dir demo                                     # scikit-learn's digits
    python examples/quickstart.py --output_dir mine --train_dir photos --image_size 128 # one sub-folder per class
    python examples/quickstart.py --output_dir mine --variant sima_tiny_12_p16 --image_size 224 --train_dir photos
    python examples/quickstart.py --output_dir demo --resume_from_checkpoint last       # go on after an interruption

Every argument of `SimATrainingArguments` works too. For a real training run, see the other scripts here.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import transformers
from report import draw_report

import sima_hf
from sima_hf.data.images import decode
from sima_hf.data.sources import load_image_data
from sima_hf.training import ModelArguments, SimATrainer, SimATrainingArguments
from sima_hf.training.checkpoints.folders import checkpoint_to_resume
from sima_hf.training.command_line import failures_as_sentences, parse
from sima_hf.training.models import build_model
from sima_hf.training.run import TrainingSetup, check_folders, finish, start_over


# For few, small images, which are moved a little, and that is all; the recipe's defaults are for a million photos.
RECIPE = Path(__file__).parent / "configs" / "small_sets" / "fresh.json"
# 16 tokens at 64 px. "tokens" keeps the attention's scale, which small data sets need (see attention_gain).
SMALL = "hidden_size=64,num_hidden_layers=4,num_attention_heads=4,num_class_attention_layers=2,attention_gain=tokens"


@dataclass
class QuickstartArguments(ModelArguments):
    """Which data, which model: `--variant`, or a small one of its own."""

    dataset: str | None = field(default=None, metadata={"help": "Data set on the Hub; default: the bundled digits."})
    train_dir: str | None = field(default=None, metadata={"help": "Folder with one sub-folder of images per class."})
    held_out: float = field(default=0.2, metadata={"help": "Share of the images kept to measure on."})
    image_size: int = field(default=64, metadata={"help": "Resolution in pixels."})


def run(arguments: QuickstartArguments, args: SimATrainingArguments) -> dict:
    """The whole way; returns what was measured."""
    transformers.utils.logging.disable_progress_bar()  # of saving and loading; training keeps its own
    checkpoint = checkpoint_to_resume(args.output_dir, args.resume_from_checkpoint)
    data = load_image_data(arguments.dataset, arguments.train_dir, held_out=arguments.held_out)

    transformers.set_seed(args.seed)
    if arguments.variant is None:
        arguments.variant = "sima_nano_12_p16"
        arguments.config_overrides = f"{SMALL},{arguments.config_overrides or ''}"
    loaded = build_model(arguments, data.labels)
    processor = sima_hf.SimAImageProcessor.for_image_size(arguments.image_size, crop_pct=1.0)
    check_folders(args, checkpoint, arguments.train_dir)

    splits = {"train_dataset": data.train, "eval_dataset": data.validation}
    trainer = SimATrainer(loaded.model, args, **splits, processing_class=processor)
    start_over(args, checkpoint)  # with --overwrite_output_dir
    trained = trainer.train(resume_from_checkpoint=checkpoint).metrics
    if trainer.stopped_by_signal:
        return {}
    measured = trainer.evaluate()
    setup = TrainingSetup(data, loaded, processor, checkpoint)
    finish(trainer, setup, trained, measured)  # model, results, curves, card, and the code to load it without sima_hf

    # As any user of it would: the folder alone.
    classifier = transformers.pipeline("image-classification", model=args.output_dir)
    images = [decode(row["image"]) for row in data.validation]
    answers = classifier(images, batch_size=64, top_k=1)
    predicted = [data.labels.index(answer[0]["label"]) for answer in answers]
    path = draw_report(trainer, data.source, images, data.validation["label"][:], predicted)
    print(f"{measured['eval_accuracy']:.2%} of {len(images)} held-out images are right: {path}")
    return {**trained, **measured}


def main() -> None:
    """Read the arguments and run; what a user can mend ends in a sentence."""
    with failures_as_sentences("quickstart"):
        arguments, args = parse(QuickstartArguments, SimATrainingArguments, arguments=[str(RECIPE), *sys.argv[1:]])
    with failures_as_sentences("quickstart", args.output_dir):
        run(arguments, args)


if __name__ == "__main__":
    main()
