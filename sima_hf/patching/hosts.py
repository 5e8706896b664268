"""Look-ups in the table of hosts: by name, by config, and Transformers' own classes of a host."""

import difflib
import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import transformers

from ..errors import UnsupportedModelError
from .host_table import COMPOSITES, HOSTS, REFUSED, Host


# What names of swapped classes begin with.
PREFIX = "SimA"

# The module by which swapped classes are found, by pickle and by people; `classes` there makes them.
HOME = f"{__package__}.classes"


def host_config_class(host: Host) -> type:
    """Transformers' config class of a host."""
    return getattr(transformers, host.config)


def modeling_module(host: Host) -> ModuleType:
    """Transformers' file of a host's models."""
    return importlib.import_module(host_config_class(host).__module__.replace(".configuration_", ".modeling_"))


def host_of_config(config: Any) -> Host | None:
    """The row of a swapped model's config, by its type; None for any other."""
    model_type = str(getattr(config, "model_type", ""))
    return HOSTS.get(model_type.removeprefix("sima_")) if model_type.startswith("sima_") else None


def auto_classes(base: type) -> Iterator[tuple[type, tuple[type, ...]]]:
    """Transformers' Auto classes that know a config class, each with the models that it may make, the usual one first."""
    from transformers.models.auto import modeling_auto

    for name, auto in vars(modeling_auto).items():
        mapping = getattr(auto, "_model_mapping", None)
        if name.startswith("Auto") and mapping is not None and base in mapping:
            classes = mapping[base]
            yield auto, classes if isinstance(classes, tuple) else (classes,)


def supported_models() -> list[dict[str, Any]]:
    """The rows of the table, as data: `model_type`, `config`, `task`, `reached`, `position_bias`, `summary`; `attentions`, the names
    that `patch_model(attention=...)` takes there."""
    from .attentions.mechanisms import offered

    names = ("model_type", "config", "task", "reached", "position_bias", "summary")
    return [{**{name: getattr(host, name) for name in names}, "attentions": offered(host)} for host in HOSTS.values()]


def markdown_table() -> str:
    """The tables as the README has them, with counts; `sima-hf models --markdown` prints them."""
    tasks = dict.fromkeys(host.task for host in HOSTS.values())
    counts = [f"{sum(host.task == task for host in HOSTS.values())} {task[0].lower()}{task[1:]}" for task in tasks]
    lines = [
        f"{len(HOSTS)} model types ({', '.join(counts)}), {len(COMPOSITES)} more on a tower of these, {len(REFUSED)} refused."
    ]
    for task in tasks:
        rows = [
            f"| `{host.model_type}` | {host.reached} | {_POLICIES[host.position_bias]} | {host.summary} |"
            for host in HOSTS.values()
            if host.task == task
        ]
        lines += _folded(f"{task}: {len(rows)}", "| model type | reached by | position bias | its attention |", rows)
    rows = [f"| `{name}` | {summary} |" for name, summary in COMPOSITES.items()]
    lines += _folded(
        f"Dense heads and larger models on such a tower: {len(rows)}", "| model type | what is swapped |", rows
    )
    rows = [f"| `{name}` | {reason} |" for name, reason in REFUSED.items()]
    lines += _folded(f"Refused: {len(rows)}", "| model type | because |", rows)
    return "\n".join(lines)


_POLICIES = {"none": "none", "add": "added"}


def _folded(title: str, header: str, rows: list[str]) -> list[str]:
    """A table that GitHub shows when its title is clicked."""
    rule = "|" + "---|" * (header.count("|") - 1)
    return ["", f"<details><summary>{title}</summary>", "", header, rule, *rows, "", "</details>"]


def find_host(model_type: str) -> Host:
    """The row of a `model_type`.

    Raises:
        UnsupportedModelError: there is none; the text has the reason or the nearest names.
    """
    if model_type in HOSTS:
        return HOSTS[model_type]
    if model_type in REFUSED:
        raise UnsupportedModelError(f"{model_type!r} cannot be swapped to SimA: {REFUSED[model_type]}.")
    near = difflib.get_close_matches(str(model_type).lower(), [*HOSTS, *COMPOSITES], n=3, cutoff=0.6)
    hint = f" Similar names that can: {', '.join(near)}." if near else ""
    raise UnsupportedModelError(
        f"{model_type!r} is not among the {len(HOSTS)} models that can be swapped, nor does it hold one of them.{hint} "
        "`sima-hf models` lists them, in Python sima_hf.supported_models()."
    )
