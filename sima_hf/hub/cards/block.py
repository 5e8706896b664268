"""The text of a card between its two marks: `template.md`, filled."""

import functools
import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import jinja2
import transformers

from ...folders.json_files import read_json
from ..processors import image_processor_file
from .attention import attention_values
from .known import Known
from .results import count_parameters
from .settings import used_settings
from .speed import speed_table
from .usage import PIPELINES, auto_class, pipeline_tag, processor_class


if TYPE_CHECKING:
    from ..checks import CheckedFolder


def card_block(checked: "CheckedFolder", known: Known, name: str, revision: str | None, title: str) -> str:
    """Fill the template.

    Args:
        checked: what `check_folder` found.
        known: what is known besides.
        name: what the card's code loads: a repository's id, or a folder.
        revision: branch that the model is on; None for the main one.
        title: heading of the card; "" where its author has one.
    """
    model, kind = checked.model, type(checked.model).__name__
    tag, processor = pipeline_tag(model), image_processor_file(checked.path)
    settings = read_json(processor) if processor else {}
    text = _template().render(
        **attention_values(checked),
        title=title,
        known=known,
        config=checked.config,
        tag=tag,
        pipeline_arguments=PIPELINES.get(tag or "", ""),
        auto_class=auto_class(model),
        processor=processor_class(checked.path, model),
        cls=kind,
        module="transformers" if hasattr(transformers, kind) else "sima_hf.patching.classes",
        place=quoted(name) + (f", revision={quoted(revision)}" if revision else ""),
        pinned=quoted(revision or "main"),
        certify=f"sima-hf certify {shlex.quote(name)}",
        weights=[path.name for path in checked.weights],
        parameters=count_parameters(model),
        preprocessing=settings.get("image_processor", settings),
        preprocessing_file=processor and processor.name,
        speed=[speed_table(path, (name, checked.path.name, str(checked.path))) for path in known.facts.benchmark],
    )
    return re.sub(r"\n{3,}", "\n\n", text)


@functools.cache
def _template() -> jinja2.Template:
    text = Path(__file__).with_name("template.md").read_text(encoding="utf-8")
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(cell=cell, code=code, link=link, digits=digits, used_settings=used_settings)
    return environment.from_string(text)


def cell(value: Any) -> str:
    """A value as one cell of a Markdown table, whatever signs are in it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = " ".join(f"{value:.6g}".split() if isinstance(value, float) else str(value).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def link(path: Path) -> str:
    """A file that is published beside the card, whatever signs are in its name."""
    shown = re.sub(r"([][])", r"\\\1", cell(path.name))
    return f"[{shown}]({quote(path.name)})"


def code(value: Any) -> str:
    """A value as code in a line of text or in a cell."""
    text = " ".join(str(value).split()).replace("<!--", "<! --").replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return f"{'`' * (longest + 1)} {text} {'`' * (longest + 1)}" if longest else f"`{text}`"


def quoted(value: str) -> str:
    """A text as Python has it between double quotes; no mark of a card can be in it."""
    return json.dumps(value, ensure_ascii=False).replace("<!--", "\\u003c!--")


def digits(value: float) -> str:
    """A number with the digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
