"""What all commands have in common: examples that can be copied from the help, --debug anywhere, quiet ends."""

import contextlib
import os
import sys
from collections.abc import Iterator

import typer
from typer.core import TyperCommand, TyperGroup


DEBUG = "--debug"
TRAINERS_DEBUG = {"underflow_overflow", "tpu_metrics_debug"}  # what --debug of `TrainingArguments` takes
ORDER = (
    "env",
    "models",
    "convert",
    "patch",
    "calibrate",
    "certify",
    "train",
    "distill",
    "evaluate",
    "embed",
    "bench",
    "export",
    "push",
)


class Command(TyperCommand):
    """A command whose examples are printed as they are, not filled to the width of the page."""

    def format_help(self, ctx, formatter):
        """As typer has it, and the lines of the examples."""
        _with_lines(self, super().format_help, ctx, formatter)


class PassingOn(Command):
    """A command that hands everything after its name, --help as well, to a parser of its own as `context.args`."""

    def parse_args(self, ctx, args):
        """Parse nothing."""
        if ctx.parent and ctx.parent.params.get("debug"):
            os.environ["SIMA_HF_DEBUG"] = "1"
        ctx.args = list(args)
        return ctx.args


class Group(TyperGroup):
    """A group of commands with examples."""

    def format_help(self, ctx, formatter):
        """As a command's."""
        _with_lines(self, super().format_help, ctx, formatter)


class Commands(Group):
    """The group of all commands: takes --debug anywhere, and ends quietly when interrupted or when its output is closed."""

    def list_commands(self, ctx):
        """In the order of their use; others after them."""
        return sorted(self.commands, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    def parse_args(self, ctx, args):
        """--debug belongs to `sima-hf`, but where people add it is at the end."""
        before, end, after = args, [], []
        if "--" in args:
            place = args.index("--")
            before, end, after = args[:place], ["--"], args[place + 1 :]
        ours = [
            place
            for place, one in enumerate(before)
            if one == DEBUG and not {*before[place + 1 : place + 2]} & TRAINERS_DEBUG
        ]
        rest = (one for place, one in enumerate(before) if place not in ours)
        return super().parse_args(ctx, [*([DEBUG] if ours else []), *rest, *end, *after])

    def make_context(self, *args, **kwargs):
        """Help is printed in here."""
        with _quiet_end():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx):
        """Run a command."""
        with _quiet_end():
            return super().invoke(ctx)


def _with_lines(command, format_help, ctx, formatter) -> None:
    """Format a help page, plain or rich's, without filling the lines at its end."""
    epilog, command.epilog = command.epilog, None
    try:
        format_help(ctx, formatter)
    finally:
        command.epilog = epilog
    for line in ("", *(epilog or "").splitlines()):
        formatter.write(f"  {line}".rstrip() + "\n")


@contextlib.contextmanager
def _quiet_end() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("\nsima-hf: interrupted.", err=True)
        raise typer.Exit(130) from None
    except BrokenPipeError:
        with contextlib.suppress(
            OSError, ValueError
        ):  # Python writes what is left when it ends, and would complain again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(141) from None
