"""`sima-hf convert`: original checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

from .choices import one_of, variants
from .output import AsJSON, emit, stdout_kept_clean


EXAMPLES = """Examples:
sima-hf convert checkpoint.pth --variant sima_small_12_p16 sima-small
sima-hf convert checkpoint.pth sima-small --weights model_ema"""


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Original checkpoint, a .pth file of UCDvision/sima.")],
    output_dir: Annotated[Path, typer.Argument(help="Folder to make.")],
    variant: Annotated[
        str | None,
        typer.Option(help="Original model name; defaults to what the file says.", autocompletion=variants),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Entry to take: model or model_ema.", autocompletion=one_of("model", "model_ema")),
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """Turn an original checkpoint into a Transformers folder: safetensors, config with labels, image processor."""
    with stdout_kept_clean():
        from ..models.sima.convert_sima import convert_original_checkpoint

        config = convert_original_checkpoint(checkpoint, output_dir, variant=variant, weights=weights)
    names = ("num_hidden_layers", "hidden_size", "patch_size", "image_size", "num_labels")
    text = (
        f"{output_dir}: {config.num_hidden_layers} blocks of width {config.hidden_size}, patches of {config.patch_size}, "
        f"{config.num_labels} classes. Load it with AutoModelForImageClassification.from_pretrained({str(output_dir)!r})."
    )
    emit({"folder": str(output_dir), **{name: getattr(config, name) for name in names}}, text, as_json)
