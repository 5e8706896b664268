"""`sima-hf certify`: is there softmax left?"""

from typing import Annotated

import typer

from .output import AsJSON, emit, stdout_kept_clean


EXAMPLES = """Examples:
sima-hf certify sima-deit
sima-hf certify facebook/deit-small-patch16-224 --height 384 --json
sima-hf certify sima-deit-onnx/model.onnx"""


def certify(
    model: Annotated[
        str,
        typer.Argument(
            help="Folder or Hub name of any Transformers vision model, swapped or not; or a file, .onnx or OpenVINO's .xml."
        ),
    ],
    height: Annotated[
        int | None, typer.Option(min=1, help="Height of the random image; the config's size by default.")
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Width of the random image; the height by default.")] = None,
    as_json: AsJSON = False,
) -> None:
    """Run one forward and count every softmax, exp and fused attention; exit code 1 if any is left, wherever in the model, that is not allowed by name.

    Of a file, the nodes in its graph are counted instead; exit code 1 if any of them is in attention.
    """
    with stdout_kept_clean():
        if model.endswith((".onnx", ".xml")):
            if height is not None or width is not None:
                raise ValueError(
                    "--height and --width have no effect on a file, whose nodes are read; leave them out."
                )
            report = _of_file(model)
        else:
            report = _of_model(model, height, width)
    emit(report.to_dict(), report, as_json)
    if not report.softmax_free:
        raise typer.Exit(1)


def _of_file(path: str):
    from ..exporting.graph_certificate import certify_graph

    return certify_graph(path)


def _of_model(name: str, height: int | None, width: int | None):
    from ..loading.by_name import certify_made_up, load_model

    if height is None and width is not None:
        raise ValueError("--width needs --height; give both, or --height alone for a square.")
    return certify_made_up(load_model(name, whole=False), None if height is None else (height, width or height))
