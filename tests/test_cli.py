"""The command line: help, facts for a bug report, and mistakes that get a sentence."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from sima_hf import __version__, cli


def invoke(*arguments):
    return CliRunner().invoke(cli.app, list(arguments))


def test_help_lists_the_commands():
    result = invoke("--help")
    assert result.exit_code == 0
    for word in ("convert", "models", "env", "--install-completion"):
        assert word in result.output


def test_without_arguments_it_shows_the_help():
    assert "convert" in invoke().output


def test_convert_shows_an_example():
    assert "sima-hf convert checkpoint.pth --variant sima_small_12_p16 sima-small" in " ".join(
        invoke("convert", "--help").output.split()
    )


def test_models():
    rows = json.loads(invoke("models", "--json").output)
    assert {"vit", "deit", "dinov2"} <= {row["model_type"] for row in rows}
    plain = invoke("models").output.splitlines()
    assert [line.split()[0] for line in plain] == [row["model_type"] for row in rows]
    assert invoke("models", "--markdown").output.count("|") > 3 * len(rows)


def test_env():
    result = invoke("env")
    assert result.exit_code == 0
    for words in (f"sima_hf: {__version__}", "torch: 2.", "transformers: 5.", "backends:", "  eager: folded norms"):
        assert words in result.output


def test_env_for_machines(monkeypatch):
    monkeypatch.setattr(cli, "_PACKAGES", ("torch", "no-such-package"))
    facts = json.loads(invoke("env", "--json").output)
    assert facts["sima_hf"] == __version__
    assert facts["no-such-package"] == "not installed"
    assert set(facts["backends"]) == {"eager", "reference"}


def test_the_installed_command():
    from pathlib import Path

    command = Path(sys.executable).with_name("sima-hf")
    run = subprocess.run(
        [command, "convert", "nope.pth", "out"], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 1
    assert run.stderr == "sima-hf: There is no file nope.pth.\n"
    assert run.stdout == ""


@pytest.mark.parametrize("arguments", [("convert",), ("convert", "a", "b", "--size", "3"), ("fly",)], ids=str)
def test_wrong_usage(arguments):
    assert invoke(*arguments).exit_code == 2
