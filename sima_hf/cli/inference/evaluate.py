"""`sima-hf evaluate`: accuracy of an image classifier, or of frozen features."""

from pathlib import Path
from typing import Annotated

import typer

from ..choices import DEVICES, Backend, DType, Pooling, Protocol, Weights, one_of
from ..output import AsJSON, check_results_folder, emit, quiet_transformers, stdout_kept_clean


EXAMPLES = """Examples:
sima-hf evaluate sima-deit --validation-dir imagenet/val --output-dir evaluated
sima-hf evaluate out/checkpoint-500 --weights ema --validation-dir val
sima-hf evaluate org/sima-deit --dataset imagenet-1k --image-size 384 \\
  --eval-crop-pct 1.0 --json
sima-hf evaluate org/sima-dino --protocol knn --train-dir photos
accelerate launch -m sima_hf.cli evaluate sima-deit --validation-dir val"""
_OF_PROTOCOLS = ("pooling", "neighbors", "regularization")


def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Model folder, training checkpoint, or Hub name.")],
    protocol: Annotated[
        Protocol,
        typer.Option(
            help="The model's own classifier; or k-NN or a linear probe on its frozen features, of training images."
        ),
    ] = Protocol.classifier,
    weights: Annotated[
        Weights | None, typer.Option(help="Weights of a training checkpoint: averaged, or raw (the default).")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Data set on the Hub; digits, the default, is scikit-learn's.")
    ] = None,
    config_name: Annotated[str | None, typer.Option(help="Configuration of that data set.")] = None,
    train_dir: Annotated[
        str | None, typer.Option(help="Folder of training images by class; what is held out of it is evaluated.")
    ] = None,
    validation_dir: Annotated[
        str | None, typer.Option(help="Folder with one sub-folder of images for each class, all evaluated.")
    ] = None,
    data_files: Annotated[
        list[str] | None,
        typer.Option(help="Parquet files or WebDataset shards, all evaluated; may be given several times."),
    ] = None,
    image_column: Annotated[
        str | None, typer.Option(help="Name of the column, if it has none of the usual names.")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Name of the column, if it has none of the usual names.")
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share held out, where there is no validation split.")] = 0.2,
    labels_by_index: Annotated[
        bool, typer.Option("--labels-by-index", help="Match classes by index, whatever their names.")
    ] = False,
    pooling: Annotated[
        Pooling | None, typer.Option(help="Of a protocol: which features; by default the model's convention.")
    ] = None,
    neighbors: Annotated[
        list[int] | None, typer.Option(help="Of k-NN, 20 and 10 by default; may be given several times.")
    ] = None,
    regularization: Annotated[
        float | None, typer.Option(help="Of the linear probe; by default chosen on a fifth of the training images.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Resolution in pixels; the model's own by default.")] = None,
    eval_crop_pct: Annotated[
        float | None, typer.Option(help="0.875, or 1.0 for the full crop; the model's own way by default.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 64,
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that decode images.")] = 0,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, cuda:1, mps; the best there is by default.", autocompletion=one_of(*DEVICES)),
    ] = None,
    dtype: Annotated[DType, typer.Option(help="Type of the model's parameters.")] = DType.float32,
    backend: Annotated[Backend, typer.Option(help="Backend of SimA attention.")] = Backend.auto,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a Hub model.")
    ] = False,
    output_dir: Annotated[Path | None, typer.Option(help="Folder for evaluation.json and confusion.png.")] = None,
    as_json: AsJSON = False,
) -> None:
    """Top-1, top-5, loss, speed and each class's accuracy, of a native, swapped or softmax model, at any resolution."""
    with stdout_kept_clean():
        from ...evaluation.protocols.run import ProtocolOptions, run_protocol
        from ...evaluation.report import report_text, write_report
        from ...evaluation.run import EvaluationOptions, run_evaluation

        quiet_transformers()
        if output_dir is not None:
            check_results_folder(output_dir)
        options = {
            name: getattr(value, "value", value) for name, value in context.params.items()
        }  # words of enums as text
        del options["model"], options["as_json"]  # all others have the names of the fields
        own = {name: value for name in _OF_PROTOCOLS if (value := options.pop(name)) not in (None, [], ())}
        if protocol is not Protocol.classifier:
            found = run_protocol(ProtocolOptions(model, **options, **own))
        elif own:
            raise ValueError(f"--{next(iter(own))} is of --protocol knn or linear; say which, or leave it out.")
        else:
            del options["protocol"]
            found = run_evaluation(EvaluationOptions(model, **options))
        if found is None:  # one of several processes, and not the one that speaks
            return
        files = [str(path) for path in write_report(found, output_dir)] if output_dir else []
    emit({**found.report, "files": files}, "\n".join([report_text(found.report), *files]), as_json)
