"""CONTRIBUTING, CHANGELOG and CITATION say what is: files, commands and code that they name exist and do what they say."""

import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

import sima_hf
from sima_hf.version import __version__
from tests.helpers.hosts.at_hand import IDS


ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
TARGETS = re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
both = pytest.mark.parametrize("text", [CONTRIBUTING, CHANGELOG], ids=["CONTRIBUTING", "CHANGELOG"])


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", CONTRIBUTING, flags=re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line.startswith(".venv/bin/python ")]
PYTEST = re.findall(r"\.venv/bin/python (-m pytest [^`\n]*)", CONTRIBUTING)


@both
def test_paths_it_names_exist(text):
    named = set(re.findall(r"\]\((?!https?://)([^)#]+)\)", text))
    named |= set(re.findall(r"`((?:sima_hf|tests|examples)(?:/[\w./]*)?|\w+\.(?:txt|md|cff))`", text))
    assert named
    # Files of a folder that the sentence has just named.
    places = [ROOT, ROOT / "sima_hf" / "patching" / "attentions", ROOT / "tests" / "helpers" / "hosts"]
    named |= set(re.findall(r"`(\w+\.py)`", text)) - {"utils.py"}
    assert not {one for one in named if not any((place / one).exists() for place in places)}


@both
def test_make_targets_it_names_exist(text):
    named = set(re.findall(r"`make ([a-z0-9-]+)", text)) | set(
        re.findall(r"^make ([a-z0-9-]+)", text, flags=re.MULTILINE)
    )
    assert named <= set(TARGETS)
    assert named or text is CHANGELOG


def test_tests_it_names_exist():
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", CONTRIBUTING))
    assert named
    assert not {name for name in named if f"def {name}(" not in sources}


def test_python_it_shows_runs(capsys):
    (shown,) = [block for block in blocks("python") if block.startswith("import")]
    exec(shown, {})
    assert "[PvtEfficientSelfAttention]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("place", "beginning"),
    [
        ("sima_hf/patching/host_table/rows.py", "Host("),
        ("sima_hf/patching/attentions/pvt.py", "class "),
        ("tests/helpers/hosts/own.py", '"pvt"'),
    ],
    ids=["row", "class", "case"],
)
def test_code_of_the_recipe_is_the_code(place, beginning):
    (shown,) = [block for block in blocks("python") if block.startswith(beginning)]
    source = textwrap.dedent((ROOT / place).read_text(encoding="utf-8"))
    for piece in re.split(r"\n(?=Host)", shown.strip()):
        assert any(textwrap.indent(piece, indent) in source for indent in ("", "    "))


def test_tests_of_the_recipe_are_there():
    """Each word after -k is in a test's name or in an id; that of the first command means its host and no other."""
    assert len(PYTEST) >= 4
    for command in PYTEST:
        words = shlex.split(command)
        (place,) = [word for word in words if word.startswith("tests/")]
        assert (ROOT / place).exists()
        source = (ROOT / place).read_text(encoding="utf-8") if place.endswith(".py") else ""
        names = [*re.findall(r"^def (test_\w+)", source, flags=re.MULTILINE), *(f"[{one}]" for one in IDS)]
        for keyword in words[words.index("-k") + 1].split(" or ") if "-k" in words else ():
            found = [name for name in names if keyword in name]
            assert found, f"{command} finds nothing for {keyword}"
            if keyword == "pvt-":
                assert all(name.startswith("[pvt-") for name in found)


@pytest.mark.slow
def test_the_command_for_the_table_of_hosts_works(tmp_path):
    (command,) = [line for line in COMMANDS if "replace_between" in line]
    path = tmp_path / "docs" / "supported-models.md"
    path.parent.mkdir()
    page = (ROOT / "docs" / path.name).read_text(encoding="utf-8")
    path.write_text(page.replace("| `pvt` |", "| `gone` |"), encoding="utf-8")
    run = subprocess.run([sys.executable, *shlex.split(command)[1:]], cwd=tmp_path, timeout=120, check=False)
    assert run.returncode == 0
    assert path.read_text(encoding="utf-8") == page


def test_the_error_it_shows_is_the_error():
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    (shown,) = re.findall(r"^> `` (.*) ``$", CONTRIBUTING, flags=re.MULTILINE)
    with pytest.raises(ValueError, match=re.escape(shown)):
        sima_hf.patch_model(ViTModel(ViTConfig(image_size=16, patch_size=8, **sizes)), backend="cuda")


def test_names_of_the_changelog_exist():
    import importlib

    from typer.main import get_command

    from sima_hf.cli import app

    commands = set(re.findall(r"`sima-hf ([a-z]+)", CHANGELOG))
    assert {"push", "patch"} <= commands <= set(get_command(app).commands)
    names = re.findall(r"`(sima_hf(?:\.\w+)+)", CHANGELOG)
    assert len(names) >= 10
    for name in names:
        module, _, attribute = name.rpartition(".")
        thing = importlib.import_module(module)
        assert hasattr(thing, attribute) or importlib.import_module(name), name


def test_the_citation_is_of_this_version():
    assert {"cff-version", "message", "title", "authors", "type", "license", "preferred-citation"} <= set(CITATION)
    assert str(CITATION["version"]) == __version__
    assert CITATION["preferred-citation"]["url"] in README
