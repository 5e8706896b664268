"""`sima-hf patch`: from a softmax model to a folder with SimA, in one line."""

from pathlib import Path
from typing import Annotated

import typer

from .calibrate import (
    BatchSize,
    Certified,
    Checkpoints,
    Classifier,
    Device,
    DistillImages,
    Images,
    LearningRate,
    MaxUnreadable,
    MemoryGiB,
    Overwrite,
    Seed,
    calibration_options,
)
from .choices import Attention, Gain
from .output import AsJSON, emit, stdout_kept_clean


EXAMPLES = """Examples:
sima-hf patch facebook/deit-small-patch16-224 sima-deit \\
  --calibrate-with photos --certify
sima-hf patch my-vit my-sima-vit --calibrate-with photos --images 512
sima-hf patch my-vit my-sima-vit --calibrate-with photos \\
  --distill-with photos --distill-images 50000 --checkpoints run
sima-hf patch facebook/dinov2-small sima-dinov2 --certify"""


# Options that say how to calibrate or how to distill, and nothing else.
OF_CALIBRATION = ("images", "batch_size", "classifier", "memory_gib")
OF_BOTH = ("seed", "max_unreadable", "device")
OF_DISTILLATION = ("distill_images", "learning_rate", "checkpoints")


def patch(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Folder or Hub name of a Transformers vision model with softmax.")],
    output_dir: Annotated[Path, typer.Argument(help="Folder to make.")],
    gain: Annotated[
        Gain, typer.Option(help="tokens: keep the scale of softmax's output; none: the paper's formula.")
    ] = Gain.tokens,
    attention: Annotated[
        Attention, typer.Option(help="What softmax is swapped for: SimA, or a peer to compare with.")
    ] = Attention.sima,
    calibrate_with: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images, flat or with sub-folders, no labels needed: refit layers so that the model answers as before."
        ),
    ] = None,
    distill_with: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images, no labels needed: then train until the model answers as the softmax model."
        ),
    ] = None,
    distill_images: DistillImages = 10_000,
    learning_rate: LearningRate = None,
    checkpoints: Checkpoints = None,
    images: Images = 2048,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    max_unreadable: MaxUnreadable = 20,
    classifier: Classifier = False,
    memory_gib: MemoryGiB = 4.0,
    device: Device = None,
    certified: Certified = False,
    overwrite: Overwrite = False,
    as_json: AsJSON = False,
) -> None:
    """Swap a model's softmax attention for SimA, calibrate, distill and certify it, and save it with its image processor.

    Without calibration or distillation the swapped weights answer at random until they are trained.
    """
    from ..machine.devices import check_device

    check_device(device)
    if calibrate_with is None:
        idle = OF_CALIBRATION if distill_with is not None else OF_CALIBRATION + OF_BOTH
        _refuse_idle_options(context, idle, "--calibrate-with", "calibrated")
    if distill_with is None:
        _refuse_idle_options(context, OF_DISTILLATION, "--distill-with", "distilled")
    with stdout_kept_clean():
        from ..patch_folder import DistillationOptions, make_sima

        options = None
        if calibrate_with is not None:
            options = calibration_options(
                calibrate_with, images, batch_size, seed, max_unreadable, classifier, memory_gib, device
            )
        distillation = None
        if distill_with is not None:
            distillation = DistillationOptions(
                distill_with,
                distill_images,
                learning_rate=learning_rate,
                seed=seed,
                checkpoints=checkpoints,
                device=device,
                max_unreadable=max_unreadable,
            )
        made = make_sima(
            model,
            output_dir,
            gain=gain.value,
            attention=attention.value,
            calibration=options,
            distillation=distillation,
            certified=certified,
            overwrite=overwrite,
        )
    emit(made.to_dict(), made, as_json)


def _refuse_idle_options(context: typer.Context, options: tuple[str, ...], needed: str, done: str) -> None:
    """Wrong usage, exit code 2, where options of a step were given and the step is not asked for."""
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in options and context.get_parameter_source(parameter.name).name != "DEFAULT"
    ]
    if given:
        raise typer.BadParameter(
            f"Without {needed} nothing is {done}, so this would have no effect: name a folder of images, or leave it out.",
            ctx=context,
            param_hint=", ".join(given),
        )
