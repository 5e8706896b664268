"""`sima-hf calibrate`: a model that was swapped before, from its softmax original."""

from pathlib import Path
from typing import Annotated

import typer

from .calibration_options import (
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
from .output import AsJSON, emit, stdout_kept_clean


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
        from .patch_folder import calibrate_folder

        options = calibration_options(folder, images, batch_size, seed, max_unreadable, classifier, memory_gib, device)
        made = calibrate_folder(model, teacher, output_dir, options, certified=certified, overwrite=overwrite)
    emit(made.to_dict(), made, as_json)
