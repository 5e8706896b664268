"""Pre-train an image encoder without labels by DINO, with SimA, softmax or a swapped model: Transformers' Trainer.

    python examples/run_dino.py --variant sima_small_12_p16 --train_dir photos --output_dir mine       # any folder of images
    python examples/run_dino.py --patch facebook/dino-vits16 --calibrate 2048 --train_dir photos --output_dir mine
    torchrun --nproc_per_node 8 examples/run_dino.py examples/configs/self_supervision/dino_sima_small_12_p16.json --output_dir mine
    sima-hf evaluate mine --protocol knn --train-dir photos/train --validation-dir photos/val           # how good it is

After an interruption, the same command with --resume_from_checkpoint last. Every argument of `TrainingArguments` works;
--help lists them all. The finished folder holds the teacher's encoder, which `AutoModel` loads.
"""

from transformers import set_seed
from transformers.utils import logging

from sima_hf.data.sources import ImageData
from sima_hf.machine.waiting import main_process_first
from sima_hf.training import DataArguments, DINOTrainer, DINOTrainingArguments, ModelArguments
from sima_hf.training.checkpoints.folders import checkpoint_to_resume
from sima_hf.training.command_line import failures_as_sentences, parse
from sima_hf.training.models import build_model, image_processor_of
from sima_hf.training.run import TrainingSetup, calibrate_on, check_folders, finish, hub_name_of, start_over
from sima_hf.training.self_supervision.data import open_images


NAME = "run_dino"


def train(model_args: ModelArguments, data_args: DataArguments, args: DINOTrainingArguments) -> None:
    """From arguments to a finished folder: encoder, image processor, results, curves and card."""
    logging.disable_progress_bar()  # of saving and loading weights; training keeps its own
    checkpoint = checkpoint_to_resume(args.output_dir, args.resume_from_checkpoint)

    # Images of a folder, shards, the Hub, a stream; labels that there are play no part.
    with main_process_first():
        images, num_images, source = open_images(data_args, model_args.token)

    # Fresh weights, a trained encoder, or one with softmax that is swapped; without a head.
    set_seed(args.seed)
    loaded = build_model(model_args, None, args.drop_path)
    processor = image_processor_of(loaded, model_args)
    check_folders(args, checkpoint, *data_args.folders)
    if model_args.calibrate and checkpoint is None:
        calibrate_on(loaded, images, processor, model_args.calibrate, args)

    # Crops, augmentation, projection head, teacher and center are the trainer's.
    trainer = DINOTrainer(
        loaded.model,
        args,
        train_dataset=images,
        processing_class=processor,
        num_images=num_images,
        max_unreadable=data_args.max_unreadable_images,
        shuffle_buffer_size=data_args.shuffle_buffer_size,
    )
    start_over(args, checkpoint)  # with --overwrite_output_dir
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.stopped_by_signal:  # SIGTERM: the checkpoint is there, and has been named
        return
    data = ImageData(images, None, [], num_images, source)
    setup = TrainingSetup(data, loaded, processor, checkpoint, hub_name_of(data_args))
    finish(trainer, setup, result.metrics, {}, task="image-feature-extraction")  # and --push_to_hub


def main() -> None:
    """Read the arguments and train; what a user can mend ends in a sentence."""
    with failures_as_sentences(NAME):
        model_args, data_args, args = parse(ModelArguments, DataArguments, DINOTrainingArguments)
    with failures_as_sentences(NAME, args.output_dir):
        train(model_args, data_args, args)


if __name__ == "__main__":
    main()
