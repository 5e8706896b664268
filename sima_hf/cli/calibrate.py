"""`sima-hf calibrate`: a model that was swapped before, from its softmax original."""

import math
from pathlib import Path
from typing import Annotated

import typer

from .choices import DEVICES, one_of
from .output import AsJSON, emit, stdout_kept_clean


# Options that `sima-hf patch` and `sima-hf distill` have as well.
Images = Annotated[int, typer.Option(min=1, help="Images to calibrate with, drawn from the folder.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at a time.")]
Seed = Annotated[int, typer.Option(help="Of the draw of images.")]
MaxUnreadable = Annotated[int, typer.Option(min=0, help="Broken image files that are left out, by name.")]
Classifier = Annotated[
    bool, typer.Option("--classifier/--no-classifier", help="Also fit the last linear layer to the original's logits.")
]
MemoryGiB = Annotated[
    float, typer.Option(min=0, help="For hidden states; where they do not fit, they are computed again and again.")
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1, mps; the best there is by default.", autocompletion=one_of(*DEVICES)),
]
Certified = Annotated[
    bool, typer.Option("--certify", help="Count softmax in a forward; if any ran in what was swapped, save nothing.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the model that the folder to make holds.")]
DistillImages = Annotated[int, typer.Option(min=1, help="Training images, with repetitions where there are fewer.")]
LearningRate = Annotated[
    float | None, typer.Option(min=0, help="Highest learning rate of the distillation; by default found.")
]
Checkpoints = Annotated[
    Path | None,
    typer.Option(help="Folder for checkpoints of the distillation; an interrupted one goes on from there."),
]


def calibration_options(folder, images, batch_size, seed, max_unreadable, classifier, memory_gib, device):
    """The package's `CalibrationOptions` from what the command line gave."""
    from ..machine.devices import check_device
    from ..patch_folder import CalibrationOptions

    check_device(device)
    if not math.isfinite(memory_gib):
        raise ValueError(f"--memory-gib takes a finite number of GiB, got {memory_gib}.")
    return CalibrationOptions(
        folder, images, batch_size, seed, max_unreadable, classifier, int(memory_gib * 2**30), device
    )


EXAMPLES = """Examples:
sima-hf calibrate sima-deit --with photos --output sima-deit-calibrated \\
  --teacher facebook/deit-small-patch16-224
sima-hf calibrate sima-deit --with photos --output sima-deit --overwrite \\
  --teacher facebook/deit-small-patch16-224 --classifier"""


def calibrate(
    model: Annotated[str, typer.Argument(help="Folder or Hub name of a freshly swapped model.")],
    teacher: Annotated[str, typer.Option(help="Folder or Hub name of the softmax model that it was made from.")],
    folder: Annotated[Path, typer.Option("--with", help="Folder of images, flat or with sub-folders; no labels.")],
    output_dir: Annotated[Path, typer.Option("--output", help="Folder to make.")],
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
    """Refit layers of a swapped model, in closed form, so that it follows the softmax model it was made from."""
    with stdout_kept_clean():
        from ..patch_folder import calibrate_folder

        options = calibration_options(folder, images, batch_size, seed, max_unreadable, classifier, memory_gib, device)
        made = calibrate_folder(model, teacher, output_dir, options, certified=certified, overwrite=overwrite)
    emit(made.to_dict(), made, as_json)
