"""The command `sima-hf` itself: its sub-commands, what every one of them has in common, and how they end."""

import io
import sys
from typing import Annotated

import typer

from ..errors.sentences import sentence_of, traceback_wanted, with_hint
from ..version import __version__
from . import bench, calibrate, certify, convert, env, models, patch, push
from .commands import DEBUG, Command, Commands, PassingOn
from .exporting import export
from .inference import embed, evaluate
from .output import on_terminal
from .training import distill, train


EPILOG = """Examples:
sima-hf env
sima-hf patch facebook/deit-small-patch16-224 sima-deit \\
  --calibrate-with photos --certify
sima-hf evaluate sima-deit --validation-dir photos-val --json
sima-hf push sima-deit org/sima-deit --dry-run

Exit codes: 0 done; 1 a mistake, with what to do about it, or the answer
is no (certify found softmax, models a type that cannot be swapped);
2 wrong usage; 130 interrupted; 141 the output was closed by its reader.

Environment: SIMA_HF_DEBUG=1 is --debug; HF_HUB_OFFLINE, HF_ENDPOINT,
HF_TOKEN and HF_HOME are those of huggingface_hub."""

app = typer.Typer(
    name="sima-hf",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    rich_markup_mode="rich" if on_terminal() else None,  # panels for people, plain help in a pipe
)
for _module, _in_brief in (
    (env, "Print what a bug report needs."),
    (models, "List the models that can be swapped."),
    (convert, "Turn an original .pth checkpoint into a folder."),
    (patch, "Swap softmax for SimA, calibrate, certify and save."),
    (calibrate, "Calibrate a model that was swapped before."),
    (certify, "Count the softmax that a forward runs, or a file holds."),
    (train, "Train or fine-tune, with all of Trainer's arguments."),
    (distill, "Train with a teacher."),
    (evaluate, "Measure an image classifier's accuracy, or frozen features."),
    (embed, "Write the features of a collection of images."),
    (export, "Write ONNX, OpenVINO or ExecuTorch, checked."),
    (push, "Publish a folder on the Hub."),
):
    _name = _module.__name__.rpartition(".")[2]
    _kind = PassingOn if _module in (train, distill) else Command
    app.command(cls=_kind, epilog=_module.EXAMPLES, short_help=_in_brief)(getattr(_module, _name))
app.add_typer(bench.app, name="bench")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sima-hf {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show where an error came from.")] = False,
) -> None:
    """SimA: softmax-free vision transformers for Hugging Face Transformers."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `sima-hf` command: exit code 1 and one sentence for anything a user can fix.

    What is a fault of ours comes through, as a traceback that ends in how to report it.

    Args:
        arguments: without the program's name; None: those of the process.

    Raises:
        SystemExit: always, with the exit code.
    """
    given = sys.argv[1:] if arguments is None else arguments
    debug = DEBUG in given or traceback_wanted()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # what it cannot write is shown as an escape, not an end of the command
            stream.reconfigure(errors="backslashreplace")
    if "" in given:
        typer.echo(
            "sima-hf: An empty argument came, perhaps from a shell variable that is not set. Give it a value, or leave it out.",
            err=True,
        )
        sys.exit(2)
    try:
        app(args=arguments, prog_name="sima-hf")
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            with_hint(error)
        if sentence is None or debug:
            raise
        typer.echo(f"sima-hf: {sentence}", err=True)
        sys.exit(1)
