"""Train a SimA student with a teacher's help: from its answers, and, for a swapped model and its original, from its attention.

    python examples/distill.py --patch my-vit --calibrate 2048 --distillation_type soft --distillation_tau 3 \
        --attention_weight 1 --train_dir photos --output_dir mine             # the original teaches its swapped self
    python examples/distill.py examples/configs/sima_tiny_12_p16.json --teacher_model_name_or_path facebook/regnet-y-160 \
        --teacher_labels order --distillation_type hard --output_dir mine     # any image classifier teaches

The teacher gets the student's augmented images in its own normalization and size. Its classes are found by name; by order where
both have the same classes in other words. Calibrate before matching attention: right after the swap, outputs are so far from the
original's that their distance drowns the rest. Everything else is as in run_image_classification.py, whose arguments all work
here; --help lists them. `sima-hf distill` is the same without a clone.
"""

from sima_hf.training.commands import distill


def main() -> None:
    distill(prog="distill")


if __name__ == "__main__":
    main()
