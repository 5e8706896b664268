"""Train or fine-tune an image classifier with SimA, or swap a trained one's softmax for SimA and go on: Transformers' Trainer.

    python examples/run_image_classification.py --variant sima_tiny_12_p16 --train_dir photos --output_dir mine
    python examples/run_image_classification.py examples/configs/sima_small_12_p16.json --output_dir sima-small
    python examples/run_image_classification.py --patch facebook/deit-small-patch16-224 --calibrate 2048 \
        --train_dir photos --output_dir mine
    torchrun --nproc_per_node 8 examples/run_image_classification.py CONFIG.json --output_dir mine   # or accelerate launch

After an interruption, the same command with --resume_from_checkpoint last. Every argument of `TrainingArguments` works;
--help lists them all.
"""

from sima_hf.training.arguments import DataArguments, ModelArguments, SimATrainingArguments
from sima_hf.training.run import failures_as_sentences, parse, prepare, train_and_evaluate, trainer_arguments
from sima_hf.training.trainer import SimATrainer


def main() -> None:
    with failures_as_sentences("run_image_classification"):
        model_args, data_args, args = parse(ModelArguments, DataArguments, SimATrainingArguments)
    with failures_as_sentences("run_image_classification", args.output_dir):
        task, checkpoint = prepare(model_args, data_args, args)
        trainer = SimATrainer(task.built.model, args, **trainer_arguments(task, data_args))
        train_and_evaluate(trainer, task, checkpoint)


if __name__ == "__main__":
    main()
