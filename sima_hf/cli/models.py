"""`sima-hf models`: what can be swapped."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .choices import host_types
from .output import AsJSON, emit, print_table, stdout_kept_clean


EXAMPLES = """Examples:
sima-hf models
sima-hf models deit swinv2
sima-hf models my-vit
sima-hf models --json"""
REFUSED = "Refused"


def models(
    model_type: Annotated[
        list[str] | None,
        typer.Argument(
            help="Model types as Transformers names them, or folders of models; without any, all are listed.",
            autocompletion=host_types,
        ),
    ] = None,
    as_json: AsJSON = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="As the README has it.")] = False,
) -> None:
    """List the Transformers models whose attention can be swapped for SimA, or say of some whether and how they can.

    Exit code 1 if one of those cannot, with the reason in its row.
    """
    with stdout_kept_clean():
        from ..patching.hosts import markdown_table, supported_models

    if as_markdown:
        if as_json:
            raise typer.BadParameter(
                "It is one or the other: leave out --json or --markdown.", param_hint="--markdown"
            )
        if model_type:
            raise typer.BadParameter("The README has all of them; leave out the model types.", param_hint="--markdown")
        typer.echo(markdown_table())
        return
    rows = [_row(name) for name in model_type] if model_type else supported_models()
    if as_json:
        emit(rows, "", True)
    else:
        names = ("model_type", "task", "reached", "summary")
        print_table(
            ("model type", "task", "reached by", "its attention"), [[row[name] for name in names] for row in rows]
        )
    if any(row["task"] == REFUSED for row in rows):
        raise typer.Exit(1)


def _row(name: str) -> dict[str, str]:
    """What the table says of a model type, or of that of the model in a folder, which is then named as `folder`."""
    from ..errors import UnsupportedModelError
    from ..patching.host_table import COMPOSITES
    from ..patching.hosts import find_host, supported_models

    towers = {
        known: {"model_type": known, "task": "On a tower of these", "reached": "tower", "summary": summary}
        for known, summary in COMPOSITES.items()
    }
    table = towers | {row["model_type"]: row for row in supported_models()}
    model_type, folder = name, {}
    try:
        if name not in table:
            model_type = _type_in(name)
            folder = {} if model_type == name else {"folder": name}
        if model_type.startswith("sima_"):
            raise UnsupportedModelError(
                f"{model_type!r} is SimA already, a swapped {model_type.removeprefix('sima_')}."
            )
        found = table[model_type] if model_type in table else vars(find_host(model_type))
    except UnsupportedModelError as error:
        found = {"model_type": model_type, "task": REFUSED, "reached": "none", "summary": str(error)}
    return {**found, **folder}


def _type_in(name: str) -> str:
    """The model type of the model in a folder; a name that is no folder's, as it is."""
    from ..errors import UnsupportedModelError

    folder = Path(name)
    if not folder.is_dir():
        if "/" not in name and not folder.exists():
            return name
        what = "a file" if folder.exists() else "neither a model type nor a folder that is here"
        raise UnsupportedModelError(
            f"{name} is {what}. Give the model_type that its config.json says, such as vit, or the folder of a model; `sima-hf patch` "
            "takes names on the Hub."
        )
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        found = None
    if not isinstance(found, str):
        raise UnsupportedModelError(f"{name} holds no model: it has no config.json that says a model_type.")
    return found
