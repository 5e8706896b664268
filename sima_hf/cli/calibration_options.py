"""The options that `sima-hf patch` and `sima-hf calibrate` have in common."""

import math
from typing import Annotated

import typer

from .choices import DEVICES, one_of


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


def calibration_options(folder, images, batch_size, seed, max_unreadable, classifier, memory_gib, device):
    """The package's `CalibrationOptions` from what the command line gave."""
    from ..machine.devices import check_device
    from .patch_folder import CalibrationOptions

    check_device(device)
    if not math.isfinite(memory_gib):
        raise ValueError(f"--memory-gib takes a finite number of GiB, but {memory_gib} came.")
    return CalibrationOptions(
        folder, images, batch_size, seed, max_unreadable, classifier, int(memory_gib * 2**30), device
    )
