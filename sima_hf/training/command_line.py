"""What training commands do with a command line: words to dataclasses, failures to sentences."""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from transformers import HfArgumentParser

from ..errors.sentences import sentence_of, traceback_wanted, with_hint
from .checkpoints.folders import last_good_sentence
from .checkpoints.interruption import StoppedBySignal


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Defaults of arguments, and examples line by line."""


def parse(*kinds: type, arguments: list[str] | None = None, prog: str | None = None, examples: str = "") -> tuple:
    """Read the command line into dataclasses: `[CONFIG.json] [--name value ...]`, the command line having the last word.

    Args:
        kinds: the dataclasses.
        arguments: without the program's name; None: those of the process.
        prog: what the help calls the command; None: the script's name.
        examples: end of the help.

    Raises:
        ValueError: the JSON file has a field that no dataclass has.
        SystemExit: as argparse, for a wrong command line.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = HfArgumentParser(kinds, prog=prog, epilog=examples.replace("\n", "\n  "), formatter_class=_Help)
    if arguments and arguments[0].endswith(".json"):
        defaults = _read_arguments(Path(arguments[0]))
        foreign = sorted(set(defaults) - {field.name for kind in kinds for field in fields(kind)})
        if foreign:
            raise ValueError(f"{arguments[0]} sets {', '.join(foreign)}, which this script does not know.")
        parser.set_defaults(**defaults)
        arguments = arguments[1:]
    return parser.parse_args_into_dataclasses(args=arguments)


def _read_arguments(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"There is no file {path} of arguments.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold an object with one entry for each argument, got a {type(found).__name__}.")
    return found


@contextlib.contextmanager
def failures_as_sentences(script: str | None, output_dir: str | None = None) -> Iterator[None]:
    """Turn what a user can mend into one sentence and exit code 1; Ctrl-C into where to go on, and 130; let faults through.

    A run that SIGTERM has stopped ends with its sentence and exit code 0.
    """
    try:
        yield
    except StoppedBySignal as stopped:
        print(stopped)
        sys.exit(0)
    except KeyboardInterrupt:
        where = f" {last_good_sentence(output_dir)}" if output_dir else ""
        print(f"\n{script}: interrupted.{where}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            with_hint(error)
        if sentence is None or traceback_wanted():
            raise
        print(f"{script}: {sentence}", file=sys.stderr)
        sys.exit(1)
