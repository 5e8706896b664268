"""Train a SimA student with a teacher's help: from its answers, and, for a swapped model and its original, from its attention.

    python examples/distill.py --patch my-vit --calibrate 2048 --distillation_type soft --distillation_tau 3 \
        --attention_weight 1 --train_dir photos --output_dir mine             # the original teaches its swapped self
    python examples/distill.py examples/configs/sima_tiny_12_p16.json --teacher_model_name_or_path facebook/regnet-y-160 \
        --teacher_labels order --distillation_type hard --output_dir mine     # any image classifier teaches

The teacher gets the student's augmented images in its own normalisation and size. Its classes are found by name; by order where
both have the same classes in other words. Calibrate before matching attention: right after the swap, outputs are so far from the
original's that their distance drowns the rest. Everything else is as in run_image_classification.py, whose arguments all work
here; --help lists them.
"""

from transformers.utils import logging

from sima_hf.training.arguments import DataArguments, ModelArguments, SimATrainingArguments
from sima_hf.training.distillation.trainer import DistillationArguments, SimADistillationTrainer, build_teacher
from sima_hf.training.run import failures_as_sentences, parse, prepare, train_and_evaluate, trainer_arguments


logger = logging.get_logger("distill")


def main() -> None:
    with failures_as_sentences("distill"):
        kinds = (ModelArguments, DataArguments, DistillationArguments, SimATrainingArguments)
        model_args, data_args, distillation_args, args = parse(*kinds)
    if not distillation_args.needs_teacher:
        logger.warning(
            "No teacher takes part: choose --distillation_type soft or hard, or an --attention_weight above 0."
        )
    with failures_as_sentences("distill", args.output_dir):
        task, checkpoint = prepare(model_args, data_args, args)
        teacher = build_teacher(distillation_args, model_args, task.built.model, task.processor, task.built.image_size)
        trainer = SimADistillationTrainer(
            task.built.model,
            args,
            teacher=teacher,
            distillation_type=distillation_args.distillation_type,
            distillation_alpha=distillation_args.distillation_alpha,
            distillation_tau=distillation_args.distillation_tau,
            attention_weight=distillation_args.attention_weight,
            **trainer_arguments(task, data_args),
        )
        train_and_evaluate(trainer, task, checkpoint)


if __name__ == "__main__":
    main()
