"""`sima-hf certify`: is there softmax left?"""

from typing import Annotated

import typer

from .output import AsJSON, emit, stdout_kept_clean


EXAMPLES = """Examples:
sima-hf certify sima-deit
sima-hf certify facebook/deit-small-patch16-224 --height 384 --json"""


def certify(
    model: Annotated[str, typer.Argument(help="Folder or Hub name of any Transformers vision model, swapped or not.")],
    height: Annotated[
        int | None, typer.Option(min=1, help="Height of the random image; the config's size by default.")
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Width of the random image; the height by default.")] = None,
    as_json: AsJSON = False,
) -> None:
    """Run one forward and count every softmax, exp and fused attention; exit code 1 if any is left, wherever in the model, that is not allowed by name."""
    with stdout_kept_clean():
        from ..loading.by_name import certify_made_up, load_model

        if height is None and width is not None:
            raise ValueError("--width needs --height; give both, or --height alone for a square.")
        loaded = load_model(model, whole=False)
        report = certify_made_up(loaded, None if height is None else (height, width or height))
    emit(report.to_dict(), report, as_json)
    if not report.softmax_free:
        raise typer.Exit(1)
