"""`sima-hf patch`: from a softmax model to a folder with SimA, in one line."""

from pathlib import Path
from typing import Annotated

import typer

from .calibrate import (
    BatchSize,
    Certified,
    Classifier,
    Device,
    Images,
    MaxUnreadable,
    MemoryGiB,
    Overwrite,
    Seed,
    calibration_options,
)
from .choices import Gain
from .output import AsJSON, emit, stdout_kept_clean


EXAMPLES = """Examples:
sima-hf patch facebook/deit-small-patch16-224 sima-deit \\
  --calibrate-with photos --certify
sima-hf patch my-vit my-sima-vit --calibrate-with photos --images 512
sima-hf patch facebook/dinov2-small sima-dinov2 --certify"""


# Options that say how to calibrate, and nothing else.
OF_CALIBRATION = ("images", "batch_size", "seed", "max_unreadable", "classifier", "memory_gib", "device")


def patch(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Folder or Hub name of a Transformers vision model with softmax.")],
    output_dir: Annotated[Path, typer.Argument(help="Folder to make.")],
    gain: Annotated[
        Gain, typer.Option(help="tokens: keep the scale of softmax's output; none: the paper's formula.")
    ] = Gain.tokens,
    calibrate_with: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images, flat or with sub-folders, no labels needed: refit layers so that the model answers as before."
        ),
    ] = None,
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
    """Swap a model's softmax attention for SimA, calibrate and certify it, and save it with its image processor.

    Without calibration the swapped weights answer at random until they are trained.
    """
    if calibrate_with is None:
        _refuse_idle_options(context)
    with stdout_kept_clean():
        from ..patch_folder import make_sima

        options = None
        if calibrate_with is not None:
            options = calibration_options(
                calibrate_with, images, batch_size, seed, max_unreadable, classifier, memory_gib, device
            )
        made = make_sima(
            model, output_dir, gain=gain.value, calibration=options, certified=certified, overwrite=overwrite
        )
    emit(made.to_dict(), made, as_json)


def _refuse_idle_options(context: typer.Context) -> None:
    """Wrong usage, exit code 2, where options of the calibration were given and there is none."""
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in OF_CALIBRATION and context.get_parameter_source(parameter.name).name != "DEFAULT"
    ]
    if given:
        raise typer.BadParameter(
            "Without --calibrate-with nothing is calibrated, so this would have no effect: name a folder of images, or leave it out.",
            ctx=context,
            param_hint=", ".join(given),
        )
