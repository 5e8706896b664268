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


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of a softmax DeiT, the same swapped, and a model without images."""
    from transformers import BertConfig, BertModel, DeiTConfig, DeiTForImageClassification

    import sima_hf

    root = tmp_path_factory.mktemp("models")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = DeiTForImageClassification(DeiTConfig(image_size=16, patch_size=8, **sizes))
    model.save_pretrained(root / "softmax")
    sima_hf.patch_model(model).save_pretrained(root / "sima")
    BertModel(BertConfig(vocab_size=9, **sizes)).save_pretrained(root / "bert")
    config = sima_hf.SimAConfig(image_size=16, patch_size=8, num_class_attention_layers=1, **sizes)
    sima_hf.SimAForImageClassification(config).save_pretrained(root / "native")
    return root


def test_certify(saved):
    result = invoke("certify", str(saved / "sima"))
    assert (result.exit_code, result.stdout) == (0, "SimADeiTForImageClassification: no softmax ran\n")
    result = invoke("certify", str(saved / "native"), "--height", "32", "--width", "16")
    assert (result.exit_code, result.stdout) == (0, "SimAForImageClassification: no softmax ran\n")
    result = invoke("certify", str(saved / "softmax"))
    assert result.exit_code == 1
    assert "deit.layers.0.attention" in result.output
    facts = json.loads(invoke("certify", str(saved / "softmax"), "--json").stdout)
    assert facts["softmax_free"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bert",), "takes no `pixel_values`"),
        (("sima", "--width", "16"), "--width came without --height"),
        (("sima", "--height", "3"), "did not run on a made-up image"),
        (("nowhere",), "nowhere"),
    ],
    ids=["text", "width-alone", "too-small", "no-folder"],
)
def test_certify_says_what_is_wrong(saved, arguments, words):
    name, *options = arguments
    found = subprocess.run(
        [sys.executable, "-m", "sima_hf.cli", "certify", str(saved / name), *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 1
    assert words in found.stderr
    assert "Traceback" not in found.stderr


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
    assert set(facts["backends"]) == {"cpu", "triton", "eager", "reference"}


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
