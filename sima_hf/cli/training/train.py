"""`sima-hf train`: the training script, for who installed the package."""

import typer


EXAMPLES = """Examples:
sima-hf train --variant sima_tiny_12_p16 --train_dir photos \\
  --output_dir mine
sima-hf train --patch facebook/deit-small-patch16-224 --calibrate 2048 \\
  --train_dir photos --output_dir mine
sima-hf train recipe.json --output_dir mine --resume_from_checkpoint last
torchrun --nproc_per_node 8 -m sima_hf.cli train recipe.json"""


def train(context: typer.Context) -> None:
    """Train or fine-tune an image classifier, or swap a trained one's softmax for SimA and go on."""
    from ...training import commands

    commands.train(context.args, "sima-hf train", EXAMPLES)
