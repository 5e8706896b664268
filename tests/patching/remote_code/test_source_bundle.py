"""Cutting sources: what is needed comes along as it stands, in an order that runs; what cannot stand alone is refused."""

import importlib
import subprocess
import sys

import pytest

from sima_hf.patching.remote_code.source_bundle import Cut, bundle, import_lines, read_source


FILES = {
    "__init__.py": '"""A package to cut."""\n',
    "numbers.py": '''"""Numbers."""

import math
from collections.abc import Iterable


# What a circle needs.
HALF_TURN = math.pi
UNUSED = 1


def total(values: Iterable[float]) -> float:
    """Their sum."""
    return sum(values)


def unused():
    return UNUSED
''',
    "shapes.py": '''"""Shapes."""

import functools
from dataclasses import dataclass

from .numbers import HALF_TURN, total


@dataclass
class Circle:
    radius: float

    def area(self):
        return HALF_TURN * self.radius**2

    def save(self):
        from . import numbers

        return numbers

    def double(self):
        return Circle(2 * self.radius)


def _row(name, size):
    return {"name": name, "size": size}


# Comment of the table.
ROWS = (
    _row("small", 1),
    _row(
        "large",
        10,
    ),
)


@functools.cache
def areas():
    return total(Circle(row["size"]).area() for row in ROWS)


def lazy():
    from .numbers import total

    return total([])
''',
}
PLACES = {"base": ("cutpackage.numbers",), "top": ("cutpackage.shapes",)}


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "cutpackage"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cutpackage", raising=False)
    importlib.invalidate_caches()
    return "cutpackage.shapes"


def run(texts, folder, code):
    """What `code` prints in a package made of the cut files."""
    home = folder / "flat"
    home.mkdir()
    (home / "__init__.py").write_text("")
    for name, text in texts.items():
        (home / f"{name}.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


OMITTED = {("cutpackage.shapes", "Circle"): ("save",)}


def test_what_is_needed_and_no_more(package, tmp_path):
    texts = bundle([(package, "areas")], PLACES, Cut(omitted=OMITTED), "TOTAL = areas()")
    assert "unused" not in texts["base"]
    assert "UNUSED" not in texts["base"]
    assert "lazy" not in texts["top"]
    assert "def save" not in texts["top"]
    assert "def double" in texts["top"]
    assert "# What a circle needs." in texts["base"]
    assert "from .base import HALF_TURN, total" in texts["top"]
    got = float(run(texts, tmp_path, "from flat.top import TOTAL; print(TOTAL)"))
    assert got == pytest.approx(3.141592653589793 * 101)


def test_rows_and_replacements(package, tmp_path):
    cut = Cut(
        rows={(package, "ROWS"): lambda name: name == "large"},
        replaced={(package, "areas"): "def areas():\n    return [row['size'] for row in ROWS]"},
    )
    texts = bundle([(package, "areas")], PLACES, cut)
    assert "# Comment of the table." in texts["top"]
    assert "Circle" not in texts["top"]
    assert run(texts, tmp_path, "from flat.top import areas; print(areas())") == "[10]"


def test_an_import_inside_a_body_is_refused(package):
    with pytest.raises(ValueError, match=r"cutpackage\.shapes\.lazy cannot be published: it imports from the package"):
        bundle([(package, "lazy")], PLACES, Cut())
    with pytest.raises(ValueError, match="Circle cannot be published"):
        bundle([(package, "Circle")], PLACES, Cut())


def test_a_file_for_everything(package):
    with pytest.raises(ValueError, match=r"No published file is meant for cutpackage\.numbers"):
        bundle([(package, "areas")], {"top": ("cutpackage.shapes",)}, Cut(omitted=OMITTED))


def test_namesakes_are_refused(package, tmp_path):
    (tmp_path / "cutpackage" / "twins.py").write_text(
        '"""Twins."""\n\nfrom .shapes import areas\n\n\ndef _row():\n    return areas()\n'
    )
    importlib.invalidate_caches()
    with pytest.raises(ValueError, match=r"'_row' of .* has a namesake"):
        bundle([("cutpackage.twins", "_row")], {"base": ("cutpackage",)}, Cut(omitted=OMITTED))


def test_sources_are_read_and_not_imported(package):
    source = read_source(package, Cut())
    assert set(source.definitions) == {"Circle", "_row", "ROWS", "areas", "lazy"}
    assert source.inside["total"] == ("cutpackage.numbers", "total")
    assert source.outside["dataclass"] == "from dataclasses import dataclass"
    assert package not in sys.modules


def test_imports_are_sorted_as_everywhere():
    lines = import_lines(
        {"import torch", "from torch import nn", "import math", "from torch.nn import functional as F"},
        {"base": {"total", "Circle", "HALF"}},
    )
    assert lines.splitlines() == [
        "import math",
        "",
        "import torch",
        "from torch import nn",
        "from torch.nn import functional as F",
        "",
        "from .base import Circle, HALF, total",
    ]
