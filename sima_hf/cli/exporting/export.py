"""`sima-hf export`: a file for a runtime."""

from pathlib import Path
from typing import Annotated

import typer

from ..calibrate import Overwrite
from ..choices import DType, Dynamic, Format, Quantize
from ..output import AsJSON, emit, stdout_kept_clean


EXAMPLES = """Examples:
sima-hf export sima-deit sima-deit-onnx
sima-hf export sima-deit sima-deit-onnx --dynamic resolution
sima-hf export sima-deit sima-deit-int8 --quantize int8 --calibration-images photos
sima-hf export sima-deit sima-deit-openvino --format openvino --json"""


def export(
    model: Annotated[str, typer.Argument(help="Folder or Hub name of a Transformers vision model.")],
    output_dir: Annotated[Path, typer.Argument(help="Folder to make.")],
    format: Annotated[Format, typer.Option(help="The runtime it is for.")] = Format.onnx,
    dynamic: Annotated[
        Dynamic,
        typer.Option(help="What may differ between two runs: the number of images, their size as well, or nothing."),
    ] = Dynamic.batch,
    dtype: Annotated[DType | None, typer.Option(help="Of weights and inputs; the model's by default.")] = None,
    quantize: Annotated[
        Quantize | None,
        typer.Option(
            help="Products in 8 bits, but for SimA's own that need more; ONNX alone, with calibration images."
        ),
    ] = None,
    calibration_images: Annotated[
        Path | None, typer.Option(help="With --quantize: folder of 32 or more images, no labels needed.")
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(help="With --quantize: least share of same answers on images held out; 0.9 by default."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJSON = False,
) -> None:
    """Export a model with its image processor and labels, run the file, compare it with the model, and count its softmax.

    A file that differs from the model is not kept.
    """
    with stdout_kept_clean():
        from ...exporting.export import export as to_folder

        made = to_folder(
            model,
            output_dir,
            format.value,
            dynamic=dynamic.value,
            dtype=None if dtype is None else dtype.value,
            quantize=None if quantize is None else quantize.value,
            calibration_images=calibration_images,
            min_agreement=min_agreement,
            overwrite=overwrite,
        )
    emit(made.to_dict(), made, as_json)
