"""Train or fine-tune an image classifier with SimA, or swap a trained one's softmax for SimA and go on: Transformers' Trainer.

    python examples/run_image_classification.py --variant sima_tiny_12_p16 --train_dir photos --output_dir mine
    python examples/run_image_classification.py examples/configs/sima_small_12_p16.json --output_dir sima-small
    python examples/run_image_classification.py --patch facebook/deit-small-patch16-224 --calibrate 2048 \
        --train_dir photos --output_dir mine
    torchrun --nproc_per_node 8 examples/run_image_classification.py CONFIG.json --output_dir mine   # or accelerate launch

After an interruption, the same command with --resume_from_checkpoint last. Every argument of `TrainingArguments` works;
--help lists them all. `sima-hf train` is the same without a clone.
"""

from transformers import set_seed
from transformers.utils import logging

from sima_hf.training import DataArguments, ModelArguments, SimATrainer, SimATrainingArguments
from sima_hf.training.callbacks import WarnBelowStartCallback
from sima_hf.training.checkpoints.folders import checkpoint_to_resume
from sima_hf.training.command_line import failures_as_sentences, parse
from sima_hf.training.models import build_model, image_processor_of
from sima_hf.training.run import TrainingSetup, calibrate_on, check_folders, finish, hub_name_of, load_data, start_over


NAME = "run_image_classification"


def train(model_args: ModelArguments, data_args: DataArguments, args: SimATrainingArguments) -> None:
    """From arguments to a finished folder: model, image processor, results, curves and card."""
    logging.disable_progress_bar()  # of saving and loading weights; training keeps its own
    # "last", "auto" or a folder: a whole checkpoint, or an error that names the one before it.
    checkpoint = checkpoint_to_resume(args.output_dir, args.resume_from_checkpoint)

    # Splits of `datasets` with columns "image" and "label": digits, folders of classes, shards, the Hub, a stream.
    data = load_data(data_args, model_args.token, checkpoint)
    if data.validation is None:
        args.eval_strategy = "no"

    # Fresh weights, a trained model, or a softmax model that is swapped; one output for each class of the data.
    set_seed(args.seed)
    loaded = build_model(model_args, data.labels, args.drop_path)
    processor = image_processor_of(loaded, model_args)
    check_folders(args, checkpoint, *data_args.folders)
    if model_args.calibrate and checkpoint is None:
        calibrate_on(loaded, data.train, processor, model_args.calibrate, args)

    # Views, augmentation and normalization are the trainer's, as `args` say.
    trainer = SimATrainer(
        loaded.model,
        args,
        train_dataset=data.train,
        eval_dataset=data.validation,
        processing_class=processor,
        num_images=data.num_train,
        max_unreadable=data_args.max_unreadable_images,
        shuffle_buffer_size=data_args.shuffle_buffer_size,
    )
    setup = TrainingSetup(data, loaded, processor, checkpoint, hub_name_of(data_args))
    if setup.measures_start:  # a trained model, which training may ruin
        args.eval_on_start = True
        trainer.add_callback(WarnBelowStartCallback())

    start_over(args, checkpoint)  # with --overwrite_output_dir
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.stopped_by_signal:  # SIGTERM: the checkpoint is there, and has been named
        return
    metrics = trainer.evaluate() if data.validation is not None else {}
    finish(trainer, setup, result.metrics, metrics)  # and --push_to_hub


def main() -> None:
    """Read the arguments and train; what a user can mend ends in a sentence."""
    with failures_as_sentences(NAME):
        model_args, data_args, args = parse(ModelArguments, DataArguments, SimATrainingArguments)
    with failures_as_sentences(NAME, args.output_dir):
        train(model_args, data_args, args)


if __name__ == "__main__":
    main()
