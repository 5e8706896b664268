"""`sima-hf embed`: the features of a collection of images, in parquet files."""

from pathlib import Path
from typing import Annotated

import typer

from ..choices import DEVICES, Backend, DType, Pooling, Weights, one_of
from ..output import AsJSON, emit, quiet_transformers, stdout_kept_clean


EXAMPLES = """Examples:
sima-hf embed photos photos-features --model sima-deit
sima-hf embed 'shards/*.parquet' features --model facebook/dinov2-small \\
  --pooling mean --batch-size 256 --num-workers 8
sima-hf embed imagenet-1k features --model org/sima-deit \\
  --split validation --streaming
accelerate launch -m sima_hf.cli embed photos features --model sima-deit

In Python: datasets.load_dataset("features", split="train")"""


def embed(
    context: typer.Context,
    images: Annotated[
        str,
        typer.Argument(
            help="Folder of images, pattern of parquet or WebDataset shards (in quotes), or data set on the Hub."
        ),
    ],
    output_dir: Annotated[Path, typer.Argument(help="Folder to make; a run that was interrupted goes on in it.")],
    model: Annotated[str, typer.Option(help="Model folder, training checkpoint, or Hub name.")],
    pooling: Annotated[
        Pooling, typer.Option(help="Which vector is read; auto goes by the model's convention.")
    ] = Pooling.auto,
    weights: Annotated[
        Weights | None, typer.Option(help="Weights of a training checkpoint: averaged, or raw (the default).")
    ] = None,
    split: Annotated[str, typer.Option(help="Of a data set.")] = "train",
    config_name: Annotated[str | None, typer.Option(help="Configuration of a data set.")] = None,
    streaming: Annotated[bool, typer.Option("--streaming", help="Read shards as they come.")] = False,
    image_column: Annotated[
        str | None, typer.Option(help="Name of the column, if it has none of the usual names.")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Name of the column, if it has none of the usual names.")
    ] = None,
    max_unreadable: Annotated[int, typer.Option(min=0, help="Broken images that are left out, by name.")] = 20,
    images_per_file: Annotated[
        int, typer.Option(min=1, help="Images of each file; as many are lost, at most, when a process is killed.")
    ] = 4096,
    image_size: Annotated[int | None, typer.Option(help="Resolution in pixels; the model's own by default.")] = None,
    crop_pct: Annotated[
        float | None, typer.Option(help="0.875, or 1.0 for the full crop; the model's own way by default.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 64,
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that decode images.")] = 0,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, cuda:1, mps; the best there is by default.", autocompletion=one_of(*DEVICES)),
    ] = None,
    dtype: Annotated[
        DType, typer.Option(help="Type of the model's parameters; features are float32.")
    ] = DType.float32,
    backend: Annotated[Backend, typer.Option(help="Backend of SimA attention.")] = Backend.auto,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model on the Hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a Hub model.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the features of other settings that the folder holds.")
    ] = False,
    as_json: AsJSON = False,
) -> None:
    """Features of a collection of images, from any image encoder, on one or many processes, in files that datasets reads."""
    with stdout_kept_clean():
        from ...embedding.run import EmbeddingOptions, embed_images

        quiet_transformers()
        options = {name: getattr(value, "value", value) for name, value in context.params.items()}
        del options["as_json"]
        record = embed_images(EmbeddingOptions(model_name_or_path=options.pop("model"), **options))
    if record is not None:  # else it is one of several processes, and not the one that speaks
        emit({**record, "folder": str(output_dir)}, _text(record, output_dir), as_json)


def _text(record: dict, folder: Path) -> str:
    """The record as a table."""
    from ...errors.words import first_few

    settings, sessions = record["settings"], record["sessions"]
    rows = [
        ("model", f"{settings['model']} ({settings['encoder']}, {settings['dtype']})"),
        ("pooling", settings["pooling"]),
        ("data", settings["data"]),
        ("images", f"{record['num_images']:,}"),
        ("features", f"{record['size']} numbers each"),
        ("files", f"{record['files']:,} in {folder}"),
    ]
    if sessions:
        last = sessions[-1]
        several = f", {last['processes']} processes" if last["processes"] > 1 else ""
        rows.append(("images/s", f"{last['images_per_second']:,.1f} on {last['device']}{several}, loading included"))
    if record["unreadable"]:
        rows.append(("left out", f"{len(record['unreadable']):,}, unreadable: {first_few(record['unreadable'], 5)}"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(["", *(f"  {name:<{width}}  {value}" for name, value in rows), ""])
