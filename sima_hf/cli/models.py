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
    """List the Transformers models whose attention can be swapped for SimA, or say of some whether and how they can.

    Exit code 1 if one of those cannot, with the reason in its row.
    """
    with stdout_kept_clean():
        from ..errors import UnsupportedModelError
        from ..patching.hosts import find_host, markdown_table, supported_models
        from ..patching.rows import COMPOSITES

    if as_markdown:
        if as_json:
            raise typer.BadParameter(
                "It is one or the other: leave out --json or --markdown.", param_hint="--markdown"
            )
        if model_type:
            raise typer.BadParameter("The README has all of them; leave out the model types.", param_hint="--markdown")
        typer.echo(markdown_table())
        return
    rows, refused = supported_models(), False
    if model_type:
        known = {
            name: {"model_type": name, "task": "On a tower of these", "reached": "tower", "summary": summary}
            for name, summary in COMPOSITES.items()
        } | {row["model_type"]: row for row in rows}
        rows = []
        for name in model_type:
            try:
                rows.append(known[name] if name in known else vars(find_host(name)))
            except UnsupportedModelError as error:
                refused = True
                rows.append({"model_type": name, "task": "Refused", "reached": "none", "summary": str(error)})
    if as_json:
        emit(rows, "", True)
    else:
        names = ("model_type", "task", "reached", "summary")
        print_table(
            ("model type", "task", "reached by", "its attention"), [[row[name] for name in names] for row in rows]
        )
    if refused:
        raise typer.Exit(1)
