"""What commands print: JSON for machines, tables for people on a terminal, aligned text without decoration in a pipe."""

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer


AsJSON = Annotated[bool, typer.Option("--json", help="For machines: JSON on stdout, and nothing else there.")]


@contextlib.contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """What libraries print meanwhile goes to stderr, so that stdout holds results alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def emit(facts: Any, text: Any, as_json: bool) -> None:
    """Print a result: `facts` as JSON, numbers that JSON lacks (NaN, infinity) as null, or `text`."""
    typer.echo(json.dumps(_plain(facts), indent=2, allow_nan=False, default=str) if as_json else str(text))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_results_folder(folder: Path) -> None:
    """See that a folder for results can be made and written into, before what fills it is measured; it is made after that.

    Raises:
        ValueError: it is a file.
        OSError: it cannot be made, or nothing can be written into it.
    """
    from ..folders.atomic_folder import try_writing

    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output-dir must be a folder, got the file {folder}.")
    try_writing(folder)


def on_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows: on a terminal as a table with headers, wrapped to its width; else one line each, columns aligned, whole."""
    if on_terminal():
        with contextlib.suppress(ImportError):  # typer can be installed without rich
            _print_rich(headers, rows)
            return
    widths = [max(len(row[column]) for row in rows) for column in range(len(headers))] if rows else []
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        typer.echo("  ".join(cells).rstrip())


def _print_rich(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headers, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))  # as text: names may hold square brackets, which are rich's markup
    Console().print(table)


def quiet_transformers() -> None:
    """Errors of Transformers only, and no bars: for commands whose table says all that matters."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
