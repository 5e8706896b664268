"""Cut the package's own sources down to what some names need, and lay it out in flat files that work alone.

Transformers copies the code of a Hub model file by file into one flat folder, so published files import each other by single dots
and nothing of the package. They are made here by following names: every top-level definition that the asked-for ones use, as
it stands in its file, comments included, with the imports that it needs.
"""

import ast
import functools
import importlib.util
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Definition:
    """One top-level definition: where it stands, its text, the names that it uses, and why it could not stand alone."""

    module: str
    line: int
    text: str
    uses: frozenset[str]
    problem: str | None = None


@dataclass(frozen=True)
class Source:
    """A file of the package, taken apart: definitions by name, what it imports from the package, and what from outside."""

    definitions: Mapping[str, Definition] = field(default_factory=dict)
    inside: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """What differs between a published definition and the one in the package.

    Attributes:
        rows: (module, name of a table) -> whether a row, by its first argument or the one called `name`, stays.
        replaced: (module, name) -> the text that stands for it.
        omitted: (module, class) -> methods that only make sense within the package.
    """

    rows: Mapping[tuple[str, str], Callable[[str], bool]] = field(default_factory=dict)
    replaced: Mapping[tuple[str, str], str] = field(default_factory=dict)
    omitted: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)


@functools.cache
def _tree(module: str) -> tuple[str, ast.Module]:
    path = Path(importlib.util.find_spec(module).origin)
    text = path.read_text(encoding="utf-8")
    return text, ast.parse(text)


def read_source(module: str, cut: Cut) -> Source:
    """Take a module of the package apart, by its full name; it is read, not imported."""
    text, tree = _tree(module)
    package = (
        module if Path(importlib.util.find_spec(module).origin).name == "__init__.py" else module.rpartition(".")[0]
    )
    definitions, inside, outside = {}, {}, {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level:
            home = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            inside |= {one.asname or one.name: (home, one.name) for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            outside |= {one.asname or one.name: f"from {node.module} import {_alias(one)}" for one in node.names}
        elif isinstance(node, ast.Import):
            outside |= {(one.asname or one.name).split(".")[0]: f"import {_alias(one)}" for one in node.names}
        else:
            for name in _names_of(node):
                definitions[name] = _define(module, name, node, text, cut)
    return Source(definitions, inside, outside)


def _alias(one: ast.alias) -> str:
    return f"{one.name} as {one.asname}" if one.asname else one.name


def _names_of(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    flat = [one for target in targets for one in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [one.id for one in flat if isinstance(one, ast.Name)]


def _define(module: str, name: str, node: ast.stmt, text: str, cut: Cut) -> Definition:
    key, lines = (module, name), text.splitlines()
    if key in cut.replaced:
        return _definition(module, node.lineno, cut.replaced[key], [ast.parse(cut.replaced[key])])
    first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])
    start = first
    while start > 1 and lines[start - 2].startswith("#"):
        start -= 1
    if key in cut.rows:
        kept = [row for row in node.value.elts if cut.rows[key](_name_of(row))]
        rows = [f"    {ast.get_source_segment(text, row)},\n" for row in kept]
        comment = lines[start - 1 : first - 1]
        return _definition(module, node.lineno, "\n".join([*comment, f"{name} = (\n{''.join(rows)})"]), kept)
    parts, dropped = [node], set()
    if key in cut.omitted:
        methods = [one for one in node.body if getattr(one, "name", None) in cut.omitted[key]]
        dropped = {number for one in methods for number in range(one.lineno, one.end_lineno + 2)}
        parts = [*(one for one in node.body if one not in methods), *node.bases, *node.decorator_list]
    kept = [line for number, line in enumerate(lines[start - 1 : node.end_lineno], start) if number not in dropped]
    return _definition(module, node.lineno, "\n".join(kept).rstrip(), parts)


def _name_of(row: ast.Call) -> str:
    """The first argument of a row of a table, or the one called `name`."""
    named = [one.value for one in row.keywords if one.arg == "name"]
    return (row.args or named)[0].value


def _definition(module: str, line: int, text: str, parts: list[ast.AST]) -> Definition:
    nodes = [node for part in parts for node in ast.walk(part)]
    inner = next((node.lineno for node in nodes if isinstance(node, ast.ImportFrom) and node.level), None)
    problem = inner and (
        f"it imports from the package inside its body, in line {inner}: name it in the cut, or import at the top of its file"
    )
    return Definition(module, line, text, frozenset(node.id for node in nodes if isinstance(node, ast.Name)), problem)


def bundle(
    wanted: list[tuple[str, str]], files: Mapping[str, tuple[str, ...]], cut: Cut, ending: str = ""
) -> dict[str, str]:
    """Lay out what `wanted` names need.

    Args:
        wanted: (module, name) of what has to be there.
        files: name of a published module -> prefixes of the package's modules whose definitions go there, the first that fits; each
            file may import from those before it.
        cut: what differs.
        ending: statements at the end of the last file, where `importlib` is there.

    Returns:
        The text of each published module, without a docstring.

    Raises:
        ValueError: a definition cannot stand alone, two share a name, or no file is meant for one.
    """
    sources: dict[str, Source] = {}
    chosen: dict[tuple[str, str], Definition] = {}
    queue = list(wanted)
    resolved: dict[tuple[str, str], tuple[str, str]] = {}
    while queue:
        key = queue.pop()
        if key in resolved:
            continue
        module, name = key
        if module not in sources:
            sources[module] = read_source(module, cut)
        source = sources[module]
        if name in source.definitions:
            resolved[key] = key
            definition = chosen[key] = source.definitions[name]
            if definition.problem:
                raise ValueError(f"{module}.{name} cannot be published: {definition.problem}.")
            queue += [(module, used) for used in sorted(definition.uses)]
        elif name in source.inside:
            resolved[key] = source.inside[name]
            queue.append(source.inside[name])
    homes: dict[str, str] = {}
    for module, name in chosen:
        if name in homes:
            raise ValueError(
                f"{name!r} of {module} has a namesake among what is published beside it; rename one of them."
            )
        homes[name] = _file_of(module, files)
    order = _order(sources)
    texts = {}
    for place in files:
        here = sorted(
            (definition for (_, name), definition in chosen.items() if homes[name] == place),
            key=lambda one: (order.index(one.module), one.line),
        )
        texts[place] = _file(here, place, homes, sources, ending if place == list(files)[-1] else "")
    return texts


def _file_of(module: str, files: Mapping[str, tuple[str, ...]]) -> str:
    for place, prefixes in files.items():
        if any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes):
            return place
    raise ValueError(f"No published file is meant for {module}.")


def _order(sources: Mapping[str, Source]) -> list[str]:
    """Modules, those that others import first."""
    order: list[str] = []

    def visit(module: str) -> None:
        if module in order or module not in sources:
            return
        for home, _ in sources[module].inside.values():
            if home != module:
                visit(home)
        order.append(module)

    for module in sorted(sources):
        visit(module)
    return order


def _file(
    definitions: list[Definition],
    place: str,
    homes: Mapping[str, str],
    sources: Mapping[str, Source],
    ending: str,
) -> str:
    outside = {"import importlib"} if ending else set()
    used = {node.id for node in ast.walk(ast.parse(ending)) if isinstance(node, ast.Name)}
    for one in definitions:
        source = sources[one.module]
        outside |= {source.outside[name] for name in one.uses & source.outside.keys() - source.definitions.keys()}
        used |= one.uses & (source.inside.keys() | source.definitions.keys())
    inside: dict[str, set[str]] = {}
    for name in used:
        if homes.get(name, place) != place:
            inside.setdefault(homes[name], set()).add(name)
    texts = list(dict.fromkeys(one.text for one in definitions))
    return "\n\n\n".join([import_lines(outside, inside), *_joined(texts), *filter(None, [ending])]) + "\n"


def _joined(texts: list[str]) -> list[str]:
    """Constants that follow each other stay together; functions and classes get two empty lines around them."""
    blocks: list[str] = []
    for text in texts:
        constant = not text.lstrip().startswith(("def ", "class ", "@"))
        if constant and blocks and blocks[-1][0]:
            blocks[-1] = (True, f"{blocks[-1][1]}\n{text}")
        else:
            blocks.append((constant, text))
    return [text for _, text in blocks]


def import_lines(outside: set[str], inside: Mapping[str, set[str]]) -> str:
    """Import statements: the standard library, other packages, siblings."""
    heads: dict[str, set[str]] = {f"from .{home}": set(names) for home, names in inside.items()}
    for line in outside:
        head, _, name = line.partition(" import ")
        heads.setdefault(head, set()).update([name] if name else [])
    blocks: tuple[list[str], ...] = ([], [], [])
    for head in sorted(heads, key=lambda head: (head.startswith("from"), head)):
        package = head.split()[1].split(".")[0]
        group = 0 if package in sys.stdlib_module_names else 1 if package else 2
        blocks[group].append(_statement(head, sorted(heads[head])))
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _statement(head: str, names: list[str]) -> str:
    line = f"{head} import {', '.join(names)}" if names else head
    if len(line) < 120:
        return line
    text = textwrap.fill(", ".join(names), 115, initial_indent="    ", subsequent_indent="    ")
    return f"{head} import (\n{text},\n)"
