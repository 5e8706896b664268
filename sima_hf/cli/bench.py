"""`sima-hf bench`: SimA against what would run otherwise, measured here."""

from pathlib import Path
from typing import Annotated

import typer

from .choices import DEVICES, DType, bench_models, one_of, softmax_models
from .commands import Command, Group
from .output import AsJSON, check_results_folder, emit, stdout_kept_clean


EXAMPLES = """Examples:
sima-hf bench attention --tokens 196 --tokens 1024
sima-hf bench model deit-small --pixels 224 --pixels 512
sima-hf bench memory deit-small --pixels 2048
sima-hf bench export deit-small --threads 1 --pixels 224"""

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    short_help="Measure speed and memory against softmax, here.",
    help="Measure SimA on this machine against what would run otherwise.",
    epilog=EXAMPLES,
)

Mode = Annotated[
    str,
    typer.Option(help="forward, or train for forward and backward.", autocompletion=one_of("forward", "train")),
]
DTypeName = Annotated[
    str,
    typer.Option(help="float32, bfloat16 or float16.", autocompletion=one_of(*(one.value for one in DType))),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...", autocompletion=one_of(*DEVICES))]
Against = Annotated[
    str,
    typer.Option(help="Softmax attention to compare with: sdpa or eager.", autocompletion=one_of("sdpa", "eager")),
]

Seconds = Annotated[
    float, typer.Option(help="Time for each size, roughly; at least 9 rounds are run, however long they take.")
]


@app.command(
    "attention",
    cls=Command,
    short_help="The attention alone, over numbers of tokens.",
    epilog="Example:\nsima-hf bench attention --dtype bfloat16 --mode train --output-dir results",
)
def bench_attention(
    output_dir: Annotated[Path, typer.Option(help="Folder for the CSV and the PNG.")] = Path(),
    tokens: Annotated[list[int] | None, typer.Option(help="Tokens; may be given several times.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images at once, with --tokens; 1 by default.")] = None,
    mode: Mode = "forward",
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Also time SimA compiled by torch.compile.")
    ] = True,
    dtype: DTypeName = "float32",
    device: Device = "cpu",
    seconds: Seconds = 6.0,
    readme: Annotated[Path | None, typer.Option(help="Page whose table to update.")] = None,
    as_json: AsJSON = False,
) -> None:
    """The attention alone, against softmax and the literal formula, over numbers of tokens."""
    with stdout_kept_clean():
        from ..bench import attention, attention_report
        from ..bench.tables import replace_between
        from ..machine.plotting import pyplot

        pyplot()  # fail before measuring, not after it
        sizes = _sizes(device, batch, tokens, "--tokens", 1) or attention.SIZES
        check_results_folder(output_dir)
        rows = attention.measure(sizes, _dtype(dtype), device, seconds, mode, compiled)
        trains = ["train"] if mode == "train" else []
        path = _write(rows, output_dir, "attention", *trains, device.partition(":")[0], dtype)
        picture = path.with_suffix(".png")
        attention_report.draw(path, picture)
        if readme is not None:
            replace_between(readme, "bench", attention_report.markdown_table(path))
    emit(_facts(rows, [path, picture]), f"{attention_report.table(path)}\n{path} and {picture}", as_json)


@app.command(
    "model",
    cls=Command,
    short_help="A whole model, over image sizes.",
    epilog="Example:\nsima-hf bench model deit-small --against sdpa --pixels 224 --pixels 512",
)
def bench_model(
    model: Annotated[
        str,
        typer.Argument(help="deit-tiny, deit-small, deit-base, or a folder or Hub name.", autocompletion=bench_models),
    ] = "deit-small",
    against: Against = "sdpa",
    pixels: Annotated[list[int] | None, typer.Option(help="Side of the image; may be given several times.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images at once, with --pixels; 1 by default.")] = None,
    mode: Mode = "forward",
    compiled: Annotated[bool, typer.Option("--compile", help="torch.compile both.")] = False,
    dtype: DTypeName = "float32",
    device: Device = "cpu",
    seconds: Seconds = 10.0,
    output_dir: Annotated[Path | None, typer.Option(help="Folder for a CSV and a PNG.")] = None,
    as_json: AsJSON = False,
) -> None:
    """A whole model with softmax against the same one with SimA, over image sizes."""
    with stdout_kept_clean():
        from ..bench.model import SIZES, measure_model
        from ..bench.model_report import draw, table
        from ..machine.plotting import pyplot

        sizes = _sizes(device, batch, pixels, "--pixels", 32) or SIZES
        if output_dir is not None:
            pyplot()  # fail before measuring, not after it
            check_results_folder(output_dir)
        rows = measure_model(model, against, sizes, mode, compiled, _dtype(dtype), device, seconds)
        text, files = table(rows), []
        if output_dir is not None:
            kind = ["compiled"] if compiled else []
            path = _write(rows, output_dir, "model", Path(model).name, mode, *kind, device.partition(":")[0], dtype)
            files = [path, path.with_suffix(".png")]
            draw(rows, files[1])
            text += f"\n{files[0]} and {files[1]}"
    emit(_facts(rows, files), text, as_json)


@app.command(
    "memory",
    cls=Command,
    short_help="The most memory that one image takes.",
    epilog="Example:\nsima-hf bench memory deit-small --pixels 2048",
)
def bench_memory(
    model: Annotated[
        str, typer.Argument(help="As for bench model; not a native variant.", autocompletion=softmax_models)
    ] = "deit-small",
    against: Against = "sdpa",
    pixels: Annotated[int, typer.Option(help="Side of the image.")] = 2048,
    output_dir: Annotated[Path | None, typer.Option(help="Folder for a CSV.")] = None,
    as_json: AsJSON = False,
) -> None:
    """The most memory that one image takes on its way through a model, with softmax and with SimA (CPU, Linux)."""
    with stdout_kept_clean():
        from ..bench.model import SIMA_VARIANTS, measure_memory

        if model in SIMA_VARIANTS:
            raise ValueError(
                f"{model} has no softmax to compare with; name a model that can be swapped, such as deit-small."
            )
        if output_dir is not None:
            check_results_folder(output_dir)
        rows = measure_memory(model, against, pixels)
        files = [] if output_dir is None else [_write(rows, output_dir, "memory", Path(model).name, "cpu", "float32")]
    lines = [
        f"{row.attention:>8}, {row.pixels} x {row.pixels} px: {row.peak_resident_bytes / 2**30:.2f} GiB"
        for row in rows
    ]
    emit(_facts(rows, files), "\n".join([*lines, *map(str, files)]), as_json)


@app.command(
    "export",
    cls=Command,
    short_help="Exported files on their runtimes, over image sizes.",
    epilog="Example:\nsima-hf bench export deit-small --format openvino --threads 1 --pixels 224 --pixels 512",
)
def bench_export(
    model: Annotated[
        str, typer.Argument(help="As for bench model; not a native variant.", autocompletion=softmax_models)
    ] = "deit-small",
    pixels: Annotated[list[int] | None, typer.Option(help="Side of the image; may be given several times.")] = None,
    threads: Annotated[list[int] | None, typer.Option(help="Threads of the runtime, likewise; 1 and 2.")] = None,
    format: Annotated[
        list[str] | None,
        typer.Option(help="onnx or openvino, likewise; those installed.", autocompletion=one_of("onnx", "openvino")),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="float32 or int8, likewise; both.", autocompletion=one_of("float32", "int8")),
    ] = None,
    calibration_images: Annotated[Path | None, typer.Option(help="Folder of images, for int8.")] = None,
    seconds: Seconds = 10.0,
    output_dir: Annotated[Path | None, typer.Option(help="Folder for CSVs and PNGs.")] = None,
    page: Annotated[
        Path | None, typer.Option(help="Page whose table to update, from the CSVs in --output-dir.")
    ] = None,
    readme: Annotated[Path | None, typer.Option(help="README whose line to update, likewise.")] = None,
    as_json: AsJSON = False,
) -> None:
    """A model exported with softmax against the same one with SimA, on ONNX Runtime and OpenVINO: time, memory, size of the file."""
    with stdout_kept_clean():
        from ..bench.exported import DTYPES, PIXELS, THREADS, measure_exported
        from ..bench.exported_report import draw, markdown_table, short_line, table
        from ..bench.tables import replace_between
        from ..errors import ExportError
        from ..machine.plotting import pyplot

        if output_dir is None and (page or readme):
            raise ValueError("--page and --readme are made from the CSVs, so give --output-dir as well.")
        if output_dir is not None:
            pyplot()  # fail before measuring, not after it
            check_results_folder(output_dir)
        rows, files = [], []
        for one in dtype or DTYPES:
            try:
                own = measure_exported(
                    model, pixels or PIXELS, threads or THREADS, format or (), one, seconds, calibration_images
                )
            except ExportError as error:
                if dtype or one == DTYPES[0]:
                    raise
                typer.echo(f"{one} is left out: {error}", err=True)
                continue
            rows += own
            if output_dir is not None:
                csv = _write(own, output_dir, *_exported(model, one))
                files += [csv, csv.with_suffix(".png")]
                draw(own, files[-1])
        if output_dir is not None:
            csvs = [path for one in DTYPES if (path := _path(output_dir, *_exported(model, one))).is_file()]
        if page is not None:
            replace_between(page, "export-speed", markdown_table(csvs))
        if readme is not None:
            replace_between(readme, "readme-export", short_line(csvs))
    emit(_facts(rows, files), "\n".join([table(rows), *map(str, files)]), as_json)


def _write(rows: list, folder: Path, *parts: str) -> Path:
    """The rows as a CSV in a folder that is made, named after the parts."""
    from ..bench.tables import write_csv

    folder.mkdir(parents=True, exist_ok=True)
    path = _path(folder, *parts)
    write_csv(rows, path)
    return path


def _path(folder: Path, *parts: str) -> Path:
    return folder / f"{'_'.join(parts)}.csv"


def _exported(model: str, dtype: str) -> tuple[str, ...]:
    return "export", Path(model).name, "cpu", dtype


def _facts(rows: list, files: list[Path]) -> dict:
    return {"rows": [vars(row) for row in rows], "files": [str(file) for file in files]}


def _sizes(device: str, batch: int | None, sizes: list[int] | None, option: str, least: int) -> tuple:
    """`(batch, size)` for each size asked for, none for the usual ones; ValueError for what cannot be measured."""
    from ..machine.devices import check_device

    if batch is not None and (batch < 1 or not sizes):
        raise ValueError(
            f"--batch must be 1 or more and come with {option}: the usual sizes have batches of their own."
        )
    if sizes and min(sizes) < least:
        raise ValueError(f"{option} must be {least} or more, got {min(sizes)}.")
    check_device(device)
    return tuple((batch or 1, size) for size in sizes or ())


def _dtype(name: str):
    import torch

    if name not in [one.value for one in DType]:
        raise ValueError(f"--dtype must be float32, bfloat16 or float16, got {name!r}.")
    return getattr(torch, name)
