"""`sima-hf distill`: training with a teacher, from labeled images or, with `--images`, from any, for who installed the package."""

from dataclasses import dataclass, field
from pathlib import Path

import typer


EXAMPLES = """Examples:
sima-hf distill --images photos --patch my-vit --calibrate 2048 \\
  --output_dir mine                                  # no labels, any model
sima-hf distill --images photos --model_name_or_path my-sima-vit \\
  --teacher_model_name_or_path my-vit --output_dir mine
sima-hf distill --patch my-vit --calibrate 2048 --distillation_type soft \\
  --distillation_tau 3 --attention_weight 1 --train_dir photos --output_dir mine
sima-hf distill --variant sima_tiny_12_p16 --distillation_type hard \\
  --teacher_model_name_or_path facebook/regnet-y-160 --output_dir mine"""


@dataclass
class ImageDistillationArguments:
    """What a distillation without labels is told; `sima_hf.distill` says more of each."""

    images: str = field(metadata={"help": "Folder of images, flat or with sub-folders; no labels."})
    output_dir: str = field(metadata={"help": "Folder to make of the distilled model."})
    patch: str | None = field(
        default=None, metadata={"help": "A softmax model, folder or Hub name, to swap and to learn from."}
    )
    attention: str = field(
        default="sima",
        metadata={"help": "With --patch: what softmax is swapped for; 'sima', or a peer such as 'inline'."},
    )
    model_name_or_path: str | None = field(default=None, metadata={"help": "Or a model that was swapped before,"})
    teacher_model_name_or_path: str | None = field(
        default=None, metadata={"help": "with the softmax model that it was made from."}
    )
    calibrate: int = field(default=0, metadata={"help": "With --patch: images for a calibration before it."})
    num_images: int = field(default=10_000, metadata={"help": "Training images, with repetitions."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Images in a step."})
    learning_rate: float | None = field(default=None, metadata={"help": "The highest; by default found."})
    seed: int = field(default=0, metadata={"help": "Of the draw, order and views of images."})
    checkpoints: str | None = field(
        default=None, metadata={"help": "Folder for checkpoints; an interrupted run goes on from there."}
    )
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace the model that is in --output_dir."})
    use_cpu: bool = field(default=False, metadata={"help": "Leave a GPU alone."})


def distill(context: typer.Context) -> None:
    """Train a SimA student with a teacher: by default the softmax model that was swapped."""
    if any(word.partition("=")[0] == "--images" for word in context.args):
        _from_images(context.args)
        return
    from ...training import commands

    commands.distill(context.args, "sima-hf distill", EXAMPLES)


def _from_images(words: list[str]) -> None:
    from ...patch_folder import CalibrationOptions, DistillationOptions, distill_folder, make_sima
    from ...training.command_line import failures_as_sentences, parse

    with failures_as_sentences("sima-hf distill"):
        (given,) = parse(ImageDistillationArguments, arguments=words, prog="sima-hf distill", examples=EXAMPLES)
        device = "cpu" if given.use_cpu else None
        options = DistillationOptions(
            Path(given.images),
            given.num_images,
            given.per_device_train_batch_size,
            given.learning_rate,
            given.seed,
            Path(given.checkpoints) if given.checkpoints else None,
            device,
        )
        names = (given.model_name_or_path, given.teacher_model_name_or_path)
        if bool(given.patch) == any(names) or (any(names) and not all(names)):
            raise ValueError(
                "Give either --patch, or --model_name_or_path and --teacher_model_name_or_path, got "
                f"{', '.join(str(name) for name in (given.patch, *names))}."
            )
        if given.patch is None:
            if given.calibrate:
                raise ValueError("--calibrate goes with --patch; calibrate a swapped model with sima-hf calibrate.")
            if given.attention != "sima":
                raise ValueError(
                    f"--attention goes with --patch, got {given.attention!r}; --model_name_or_path keeps the attention that it has."
                )
            made = distill_folder(*names, given.output_dir, options, overwrite=given.overwrite_output_dir)
        else:
            calibration = None
            if given.calibrate:
                calibration = CalibrationOptions(options.folder, given.calibrate, seed=given.seed, device=device)
            made = make_sima(
                given.patch,
                given.output_dir,
                attention=given.attention,
                calibration=calibration,
                distillation=options,
                overwrite=given.overwrite_output_dir,
            )
        print(made)
