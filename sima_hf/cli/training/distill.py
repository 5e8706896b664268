"""`sima-hf distill`: training with a teacher, for who installed the package."""

import typer


EXAMPLES = """Examples:
sima-hf distill --patch my-vit --calibrate 2048 --distillation_type soft \\
  --distillation_tau 3 --attention_weight 1 --train_dir photos --output_dir mine
sima-hf distill --variant sima_tiny_12_p16 --distillation_type hard \\
  --teacher_model_name_or_path facebook/regnet-y-160 --output_dir mine"""


def distill(context: typer.Context) -> None:
    """Train a SimA student with a teacher: by default the softmax model that was swapped."""
    from ...training import commands

    commands.distill(context.args, "sima-hf distill", EXAMPLES)
