"""Train or fine-tune an image classifier with SimA, or swap a trained one's softmax for SimA and go on: Transformers' Trainer.

    python examples/run_image_classification.py --variant sima_tiny_12_p16 --train_dir photos --output_dir mine
    python examples/run_image_classification.py examples/configs/sima_small_12_p16.json --output_dir sima-small
    python examples/run_image_classification.py --patch facebook/deit-small-patch16-224 --calibrate 2048 \
        --train_dir photos --output_dir mine
    torchrun --nproc_per_node 8 examples/run_image_classification.py CONFIG.json --output_dir mine   # or accelerate launch

After an interruption, the same command with --resume_from_checkpoint last. Every argument of `TrainingArguments` works;
--help lists them all. `sima-hf train` is the same without a clone.
"""

from sima_hf.training.commands import train


def main() -> None:
    train(prog="run_image_classification")


if __name__ == "__main__":
    main()
