"""What the docstrings of the package say, read off its sources.

Public is what has no underscore in front, nor anything around it that has. Of these:

1. a function with tensors among its annotated arguments names shapes, in its own docstring or in its class's;
2. a function that raises errors names each of them, or what it derives from; what `__init__`, `__post_init__` and `__call__`
   raise may be in the class's;
3. an "Args:" section, of private functions too, names all arguments and no others, those that `**kwargs` stands for aside;
4. what the packages export in `__all__` says what goes in and what comes out, under headings. Without arguments the first
   sentence is what comes out.

That everything has a docstring at all is ruff's to say. Commands are left out of 2: their docstrings are what `--help` prints, and errors reach people as sentences and exit codes.
Units, and whether a sentence is true, no program can tell. Errors from functions that are called, private ones of the same file
included, are not looked for either.
"""

import ast
import builtins
import dataclasses
import functools
import importlib
import inspect
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from sima_hf import errors


PACKAGE = Path(__file__).resolve().parents[1] / "sima_hf"
SOURCES = {
    path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))
}

PACKAGES = ("sima_hf", "sima_hf.ops", "sima_hf.patching", "sima_hf.training", "sima_hf.hub")

# `(B,H,N,D)`, (B, 3, H, W), `(B*windows,N,C)`, `(length, num_features)`; or words where there is no more to say.
SHAPE = re.compile(
    r"\((?:\d|[A-Z]|\.\.\.|\[)[^()]*,[^()]*\)|`\([^()]*,[^()]*\)`|any shape|same shape|shape\s+that|scalar"
)
ERROR = re.compile(r"(Error|Exception|Interrupt|Exit|Warning)$|^Stop")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Definition(NamedTuple):
    """A class, function or method, by its dotted name within the file, with the docstring of the class around it."""

    name: str
    node: ast.AST
    public: bool
    doc: str
    class_doc: str

    def arguments(self):
        """Those of a function, `self` and `cls` left out."""
        arguments = self.node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        return [one for one in named if one is not None and one.arg not in ("self", "cls")]


@functools.cache
def definitions(source):
    """Everything that a source defines outside of functions, and in its classes."""

    def below(node, name, public, class_doc):
        for one in node.body:
            if not isinstance(one, (*FUNCTIONS, ast.ClassDef)):
                continue
            doc, shown = ast.get_docstring(one) or "", public and not one.name.startswith("_")
            yield Definition(f"{name}{one.name}", one, shown, doc, class_doc)
            if isinstance(one, ast.ClassDef):
                yield from below(one, f"{name}{one.name}.", shown, doc)

    return list(below(ast.parse(source), "", True, ""))


def functions(source):
    return [one for one in definitions(source) if isinstance(one.node, FUNCTIONS)]


def raised(node):
    """Names of the errors raised in a function's own body; `raise` alone and `raise error` pass on somebody else's."""
    waiting, names = list(node.body), set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, (*FUNCTIONS, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(one, ast.Raise) and one.exc is not None:
            error = one.exc.func if isinstance(one.exc, ast.Call) else one.exc
            names.add(ast.unparse(error).split(".")[-1])
        waiting.extend(ast.iter_child_nodes(one))
    return {name for name in names if ERROR.search(name)}


def names_of(error):
    """An error's name, and those of what it derives from, short of `Exception`."""
    cls = getattr(errors, error, None) or getattr(builtins, error, None)
    bases = cls.__mro__ if cls else ()
    return {error} | {base.__name__ for base in bases if issubclass(base, Exception)} - {"Exception"}


def section(doc, *headings):
    """The indented text under the first of the headings that a docstring has; None without one."""
    found = re.search(rf"^(?:{'|'.join(headings)}):[^\n]*\n((?:[ ]+.*\n|\n)*)", f"{doc}\n", flags=re.MULTILINE)
    return found and inspect.cleandoc(f"\n{found[1]}")


def entries(text):
    """Names before the colons of a section: `query, key: ...` gives two, `size (`int`, *optional*): ...` one."""
    heads = re.findall(r"^((?:\*{0,2}\w+, )*\*{0,2}\w+)(?: \(.*\))?:(?:\s|$)", text, flags=re.MULTILINE)
    return {name.strip(" *") for head in heads for name in head.split(",")}


def without_shapes(source):
    """Rule 1: function -> arguments that are tensors."""
    found = {}
    for one in functions(source):
        annotated = {x.arg: ast.unparse(x.annotation) for x in one.arguments() if x.annotation}
        tensors = [name for name, annotation in annotated.items() if "Tensor" in annotation]
        if one.public and tensors and not SHAPE.search(one.doc) and not SHAPE.search(one.class_doc):
            found[one.name] = tensors
    return found


def with_unnamed_errors(source):
    """Rule 2: function -> errors that nothing says."""
    found = {}
    for one in functions(source):
        *around, name = one.name.split(".")
        of_class = name in ("__init__", "__post_init__", "__call__") and not any(x.startswith("_") for x in around)
        said = one.doc + (one.class_doc if of_class else "")
        missing = {error for error in raised(one.node) if not any(name in said for name in names_of(error))}
        if missing and (one.public or of_class):
            found[one.name] = missing
    return found


def with_other_arguments(source):
    """Rule 3: function -> names that are in the signature or in the section, and not in both."""
    found = {}
    for one in functions(source):
        text = section(one.doc, "Args")
        if text is None:
            continue
        named, there = entries(text), {x.arg for x in one.arguments()}
        rest = one.node.args.kwarg
        wrong = there - named - {rest.arg} if rest else there ^ named
        if wrong:
            found[one.name] = wrong
    return found


def offenders(rule, without=()):
    """File -> what a rule finds in it, of all files but those in the folders `without`."""
    found = {file: rule(source) for file, source in SOURCES.items() if not file.startswith(tuple(without))}
    return {file: offences for file, offences in found.items() if offences}


def test_tensors_have_shapes():
    assert offenders(without_shapes) == {}


def test_errors_are_named():
    assert offenders(with_unnamed_errors, without=["cli/"]) == {}


def test_sections_of_arguments_match_the_signature():
    assert offenders(with_other_arguments) == {}


def unsaid(thing):
    """Rule 4: what the docstring of an exported thing leaves out."""
    if not callable(thing):  # a table or a version; what it is stands where it is defined
        return None if isinstance(thing, (dict, tuple, str)) else "is neither called nor a table"
    doc = inspect.cleandoc(vars(thing).get("__doc__") or "" if inspect.isclass(thing) else thing.__doc__ or "")
    fields = dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ()
    if not doc:
        return "has no docstring"
    if fields and all(field.metadata.get("help") for field in fields if field.init):
        return None  # a script's arguments: `--help` prints what each is
    signature = inspect.signature(thing)
    if set(signature.parameters) - {"args", "kwargs"}:
        if not section(doc, "Args", "Attributes"):
            return "says nothing about its arguments"
        gives = not inspect.isclass(thing) and signature.return_annotation not in (None, "None")
        if gives and not section(doc, "Returns", "Yields"):
            return "says nothing about its result"
    return None


@pytest.mark.parametrize("package", PACKAGES)
def test_exported_names_say_what_goes_in_and_out(package):
    module = importlib.import_module(package)
    found = {name: unsaid(getattr(module, name)) for name in module.__all__}
    assert {name: words for name, words in found.items() if words} == {}


BAD = '''
class Layer:
    """A layer."""

    def __init__(self, size):
        if size < 1:
            raise ValueError("too small")

    def forward(self, x: torch.Tensor, y: "torch.Tensor | None" = None):
        """The output."""

    def told(self, x: torch.Tensor):
        """`(B,N,C)` to the same."""

    def silent(self):
        raise errors.DataError

    def brief(self):
        """Raises ValueError, and Exception."""
        if self:
            raise errors.DataError
        raise KeyError


def documented(first, second, *more, flag=False, **kwargs):
    """Something.

    Args:
        first, second: numbers.
        third (`int`, *optional*): one of the keyword arguments.

    Raises:
        TypeError: never.
    """
    def inner():
        raise ValueError
    try:
        raise TypeError("as documented")
    except TypeError as error:
        raise error
'''


def test_the_rules_find_what_they_look_for():
    assert without_shapes(BAD) == {"Layer.forward": ["x", "y"]}
    assert with_unnamed_errors(BAD) == {
        "Layer.__init__": {"ValueError"},
        "Layer.silent": {"DataError"},
        "Layer.brief": {"KeyError"},
    }
    assert with_other_arguments(BAD) == {"documented": {"more", "flag"}}
    without_rest = BAD.replace(", **kwargs", "")
    assert with_other_arguments(without_rest) == {"documented": {"more", "flag", "third"}}
