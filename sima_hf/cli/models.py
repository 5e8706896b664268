"""`sima-hf models`: what can be swapped."""

from typing import Annotated

import typer

from .choices import host_types
from .output import AsJSON, emit, print_table, stdout_kept_clean


EXAMPLES = """Examples:
sima-hf models
sima-hf models deit swinv2
sima-hf models --json"""


def models(
    model_type: Annotated[
        list[str] | None,
        typer.Argument(
            help="Model types as Transformers names them; without any, all are listed.", autocompletion=host_types
        ),
    ] = None,
    as_json: AsJSON = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="As the README has it.")] = False,
) -> None:
    """List the Transformers models whose attention can be swapped for SimA, or say of some whether and how they can."""
    with stdout_kept_clean():
        from ..patching.hosts import find_host, markdown_table, supported_models
        from ..patching.rows import COMPOSITES

    if as_markdown:
        if model_type:
            raise typer.BadParameter("The README has all of them; leave out the model types.", param_hint="--markdown")
        typer.echo(markdown_table())
        return
    rows = supported_models()
    if model_type:
        known = {
            name: {"model_type": name, "task": "On a tower of these", "reached": "tower", "summary": summary}
            for name, summary in COMPOSITES.items()
        } | {row["model_type"]: row for row in rows}
        rows = [known[name] if name in known else vars(find_host(name)) for name in model_type]
    if as_json:
        emit(rows, "", True)
    else:
        names = ("model_type", "task", "reached", "summary")
        print_table(
            ("model type", "task", "reached by", "its attention"), [[row[name] for name in names] for row in rows]
        )
