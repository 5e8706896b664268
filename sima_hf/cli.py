"""The command line, `sima-hf`: thin shells over the package's functions. A user's mistake gives a sentence, not a traceback."""

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from .errors import SimAError
from .version import __version__


app = typer.Typer(name="sima-hf", no_args_is_help=True, pretty_exceptions_enable=False)
bench = typer.Typer(no_args_is_help=True, help="Measure SimA on this machine against what would run otherwise.")
app.add_typer(bench, name="bench")

_PACKAGES = ("torch", "transformers", "huggingface_hub", "safetensors", "pillow", "accelerate", "datasets", "kornia")


@app.callback()
def _root() -> None:
    """SimA: softmax-free vision transformers for Hugging Face Transformers."""


@app.command(epilog="Example: sima-hf convert checkpoint.pth --variant sima_small_12_p16 sima-small")
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Original checkpoint, a .pth file of UCDvision/sima.")],
    output_dir: Annotated[Path, typer.Argument(help="Folder to make.")],
    variant: Annotated[str | None, typer.Option(help="Original model name; defaults to what the file says.")] = None,
    weights: Annotated[str | None, typer.Option(help="Entry to take: model or model_ema.")] = None,
) -> None:
    """Turn an original checkpoint into a Transformers folder: safetensors, config with labels, image processor."""
    from .models.sima.convert_sima import convert_original_checkpoint

    config = convert_original_checkpoint(checkpoint, output_dir, variant=variant, weights=weights)
    typer.echo(
        f"{output_dir}: {config.num_hidden_layers} blocks of width {config.hidden_size}, patches of {config.patch_size}, "
        f"{config.num_labels} classes. Load it with AutoModelForImageClassification.from_pretrained({str(output_dir)!r})."
    )


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="As the README has it.")] = False,
) -> None:
    """List the Transformers models whose attention can be swapped for SimA."""
    from .patching.hosts import HOSTS, markdown_table, supported_models

    if as_json:
        typer.echo(json.dumps(supported_models(), indent=2))
    elif as_markdown:
        typer.echo(markdown_table())
    else:
        width = max(map(len, HOSTS))
        for host in HOSTS.values():
            typer.echo(f"{host.model_type:<{width}}  {host.task:<38}  {host.reached:<9}  {host.summary}")


@app.command(epilog="Example: sima-hf certify sima-deit")
def certify(
    model: Annotated[str, typer.Argument(help="Folder or Hub name of any Transformers vision model, swapped or not.")],
    height: Annotated[int | None, typer.Option(help="Of the random image; defaults to what the config says.")] = None,
    width: Annotated[int | None, typer.Option(help="Of the random image; defaults to the height.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Run one forward and count every softmax, exp and fused attention; exit code 1 if any is left that should not be."""
    from .patching import certify as count
    from .patching.example_inputs import example_inputs
    from .patching.load import load_saved_class

    loaded = load_saved_class(model)
    if height is None and width is not None:
        raise ValueError("--width came without --height; give both, or --height alone for a square.")
    try:
        report = count(loaded, example_inputs(loaded, None if height is None else (height, width or height)))
    except (TypeError, RuntimeError, IndexError) as error:
        raise ValueError(
            f"{type(loaded).__name__} did not run on a made-up image ({error}). Certify it in Python with inputs of your own: "
            "sima_hf.certify(model, inputs)."
        ) from error
    typer.echo(json.dumps(report.to_dict(), indent=2) if as_json else str(report))
    if not report.softmax_free:
        raise typer.Exit(1)


@bench.command(
    "attention", epilog="Example: sima-hf bench attention --dtype bfloat16 --mode train --output-dir results"
)
def bench_attention(
    output_dir: Annotated[Path, typer.Option(help="Folder for the CSV and the PNG.")] = Path(),
    tokens: Annotated[list[int] | None, typer.Option(help="Tokens; may be given several times.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images at once, with --tokens; 1 by default.")] = None,
    mode: Annotated[str, typer.Option(help="forward, or train for forward and backward.")] = "forward",
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Let torch.compile's SimA take part.")
    ] = True,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    seconds: Annotated[float, typer.Option(help="Time for each size.")] = 6.0,
    readme: Annotated[Path | None, typer.Option(help="README whose table is to be brought up to date.")] = None,
) -> None:
    """The attention alone, against softmax and the literal formula, over numbers of tokens."""
    from . import benchmark, benchmark_report

    sizes = _bench_sizes(device, batch, tokens, "--tokens", 1) or benchmark.SIZES
    rows = benchmark.measure(sizes, _dtype(dtype), device, seconds, mode, compiled)
    output_dir.mkdir(parents=True, exist_ok=True)
    parts = ("attention", *(["train"] if mode == "train" else []), device.partition(":")[0], dtype)
    path = output_dir / f"{'_'.join(parts)}.csv"
    benchmark_report.write_csv(rows, path)
    benchmark_report.draw(path, path.with_suffix(".png"))
    if readme is not None:
        benchmark_report.replace_between(readme, "bench", benchmark_report.markdown_table(path))
    typer.echo(f"{benchmark_report.table(path)}\n{path} and {path.with_suffix('.png')}")


@bench.command("model", epilog="Example: sima-hf bench model deit-small --against sdpa --pixels 224 --pixels 512")
def bench_model(
    model: Annotated[
        str, typer.Argument(help="deit-tiny, deit-small, deit-base, or a folder or Hub name.")
    ] = "deit-small",
    against: Annotated[str, typer.Option(help="Softmax attention to compare with: sdpa or eager.")] = "sdpa",
    pixels: Annotated[list[int] | None, typer.Option(help="Side of the image; may be given several times.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images at once, with --pixels; 1 by default.")] = None,
    mode: Annotated[str, typer.Option(help="forward or train.")] = "forward",
    compiled: Annotated[bool, typer.Option("--compile", help="torch.compile both.")] = False,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    seconds: Annotated[float, typer.Option(help="Time for each size.")] = 10.0,
    output_dir: Annotated[Path | None, typer.Option(help="Folder for a CSV and a PNG.")] = None,
) -> None:
    """A whole model with softmax against the same one with SimA, over image sizes."""
    from . import benchmark_model, benchmark_model_report, benchmark_report

    sizes = _bench_sizes(device, batch, pixels, "--pixels", 32) or benchmark_model.SIZES
    rows = benchmark_model.measure_model(model, against, sizes, mode, compiled, _dtype(dtype), device, seconds)
    typer.echo(benchmark_model_report.table(rows))
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
        parts = ("model", Path(model).name, mode, *(["compiled"] if compiled else []), device.partition(":")[0], dtype)
        path = output_dir / f"{'_'.join(parts)}.csv"
        benchmark_report.write_csv(rows, path)
        benchmark_model_report.draw(rows, path.with_suffix(".png"))
        typer.echo(f"{path} and {path.with_suffix('.png')}")


@bench.command("memory", epilog="Example: sima-hf bench memory deit-small --pixels 2048")
def bench_memory(
    model: Annotated[str, typer.Argument(help="As for bench model; not a native variant.")] = "deit-small",
    against: Annotated[str, typer.Option(help="Softmax attention to compare with: sdpa or eager.")] = "sdpa",
    pixels: Annotated[int, typer.Option(help="Side of the image.")] = 2048,
    output_dir: Annotated[Path | None, typer.Option(help="Folder for a CSV.")] = None,
) -> None:
    """The most memory that one image takes on its way through a model, with softmax and with SimA (CPU, Linux)."""
    from . import benchmark_model, benchmark_report

    if model in benchmark_model.SIMA_VARIANTS:
        raise ValueError(
            f"{model} has no softmax to compare with; name a model that can be swapped, such as deit-small."
        )
    rows = benchmark_model.measure_memory(model, against, pixels)
    for row in rows:
        typer.echo(f"{row.attention:>8}, {row.pixels} x {row.pixels} px: {row.peak_resident_bytes / 2**30:.2f} GiB")
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
        path = output_dir / f"memory_{Path(model).name}_cpu_float32.csv"
        benchmark_report.write_csv(rows, path)
        typer.echo(str(path))


def _bench_sizes(device: str, batch: int | None, sizes: list[int] | None, option: str, least: int) -> tuple:
    """`(batch, size)` for each size asked for, none for the usual ones; ValueError for what cannot be measured."""
    import torch

    if batch is not None and (batch < 1 or not sizes):
        raise ValueError(
            f"--batch must be 1 or more and come with {option}: the usual sizes have batches of their own."
        )
    if sizes and min(sizes) < least:
        raise ValueError(f"{option} must be {least} or more, but {min(sizes)} came.")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"--device {device} needs a CUDA device and a torch built for it; there is none here. Leave it out for the CPU."
        )
    return tuple((batch or 1, size) for size in sizes or ())


def _dtype(name: str):
    import torch

    if name not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"--dtype must be float32, bfloat16 or float16, but {name!r} came.")
    return getattr(torch, name)


@app.command()
def env(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """Print what a bug report needs: versions, hardware, backends."""
    facts = environment()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            typer.echo(f"{name}:")
            for key, text in value.items():
                typer.echo(f"  {key}: {text}")
        else:
            typer.echo(f"{name}: {value}")


def environment() -> dict:
    """Versions of what matters, the machine, and each backend with what it is or why it cannot serve."""
    import torch

    from .ops import backend_report

    return {
        "sima_hf": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: _version(package) for package in _PACKAGES},
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "not available",
        "threads": torch.get_num_threads(),
        "backends": backend_report(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def main() -> None:
    """Entry point of the `sima-hf` command: exit code 1 and one sentence for anything a user can mend."""
    try:
        app()
    except (SimAError, ValueError, OSError) as error:
        typer.echo(f"sima-hf: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
