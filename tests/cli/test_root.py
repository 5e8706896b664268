"""The command itself: help, examples, how it ends, and what it says about mistakes."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import typer

from sima_hf import __version__, cli
from sima_hf.bench.attention import take_turns
from sima_hf.errors import CheckpointError
from sima_hf.loading import by_name as named_models


COMMAND = str(Path(sys.executable).with_name("sima-hf"))
NAMES = [
    "env",
    "models",
    "convert",
    "patch",
    "calibrate",
    "certify",
    "train",
    "distill",
    "evaluate",
    "embed",
    "bench",
    "export",
    "push",
]


def start(*arguments, **kwargs):
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False, **kwargs)


def group():
    return typer.main.get_command(cli.app)


def test_help_lists_the_commands_in_order_and_what_exit_codes_mean(run):
    found = run("--help")
    assert found.code == 0
    listed = re.findall(r"^  ([a-z]+)  +[A-Z]", found.out.split("Commands:")[1], flags=re.MULTILINE)
    assert listed == NAMES
    for words in ("--install-completion", "0 done", "2 wrong usage", "130 interrupted", "141 ", "SIMA_HF_DEBUG"):
        assert words in found.out
    assert "..." not in found.out.split("Commands:")[1].split("Examples:")[0]


def test_the_help_says_how_long_a_benchmark_takes_at_least(run):
    calls = []
    take_turns({"a": lambda: calls.append(1)}, 0, lambda: None)
    for kind in ("attention", "model"):
        assert f"at least {len(calls)} rounds" in " ".join(run("bench", kind, "--help").out.split())


def test_without_a_command_it_shows_the_help(run):
    assert "Commands:" in (found := run()).out + found.err
    assert found.code == 2


def pages():
    yield ()
    for name in NAMES:
        yield (name,)
    for name in ("attention", "model", "memory"):
        yield ("bench", name)


@pytest.mark.parametrize("page", list(pages()), ids="-".join)
def test_every_example_can_be_copied_and_is_understood(page, run):
    text = run(*page, "--help").out
    lines = re.split(r"Examples?:\n", text)[1].replace("\\\n", " ").splitlines()
    examples = [shlex.split(line, comments=True) for line in lines if line.startswith("  sima-hf ")]
    assert examples
    for _, *arguments in examples:
        arguments = arguments[: arguments.index(">")] if ">" in arguments else arguments
        assert page == () or tuple(arguments[: len(page)]) == page
        command = group()
        while hasattr(command, "commands"):
            command = command.commands[arguments.pop(0)]
        command.make_context(
            "example", arguments
        )  # raises for an option that is not there, or a value it does not take


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["patch", "--help"], ["evaluate", "--help"]], ids=str
)
def test_help_is_quick(arguments):
    code = (
        "import sys\nfrom sima_hf import cli\ntry:\n    cli.main("
        + repr(arguments)
        + ")\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'transformers', 'huggingface_hub', 'numpy'} & set(sys.modules)"
    )
    found = start(sys.executable, "-c", code)
    assert found.returncode == 0, found.stderr
    assert found.stdout


def test_version(run):
    assert run("--version").out == f"sima-hf {__version__}\n"
    assert start(sys.executable, "-m", "sima_hf.cli", "--version").stdout == f"sima-hf {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["convert"], "Missing argument"),
        (["convert", "a", "b", "--size", "3"], "No such option"),
        (["fly"], "No such command"),
        (["patch", "a", "b", "--gain", "sum"], "'tokens', 'none'"),
        (["patch", "a", "b", "--images", "0"], "--images"),
        (["calibrate", "a", "--with", "b"], "Missing option"),
        (["evaluate", "a", "--batch-size", "0"], "--batch-size"),
        (["models", "vit", "--markdown"], "leave out the model types"),
        (["models", "--json", "--markdown"], "leave out --json or --markdown"),
        (["patch", "a", "b", "--images", "9"], "for --images: Without --calibrate-with nothing is calibrated"),
        (["patch", "a", "b", "--classifier", "--memory-gib", "4"], "for --classifier, --memory-gib: Without"),
        (["patch", "a", "b", "--device", "cpu", "--seed", "0"], "for --seed, --device: Without"),
        (["patch", "a", "b", "--batch-size", "2", "--max-unreadable", "1"], "for --batch-size, --max-unreadable: W"),
    ],
    ids=str,
)
def test_wrong_usage(arguments, words, run):
    found = run(*arguments)
    assert found.code == 2
    assert words in found.err
    assert found.out == ""
    assert "Traceback" not in found.err


def test_a_mistake_is_a_sentence_and_with_debug_a_traceback(run, monkeypatch):
    found = run("certify", "./nowhere")
    assert (found.code, found.out) == (1, "")
    assert found.err == "sima-hf: There is no folder ./nowhere with a model in it.\n"
    for arguments in (["--debug", "certify", "./nowhere"], ["certify", "./nowhere", "--debug"]):
        with pytest.raises(CheckpointError):
            cli.main(arguments)
    monkeypatch.setenv("SIMA_HF_DEBUG", "0")
    assert run("certify", "./nowhere").code == 1
    monkeypatch.setenv("SIMA_HF_DEBUG", "1")
    with pytest.raises(CheckpointError):
        cli.main(["certify", "./nowhere"])


def test_not_on_the_hub_while_offline(run):
    found = run("certify", "org/none-of-this-name")
    assert found.code == 1
    assert re.search(r"no folder org/none-of-this-name, and no model .* HF_HUB_OFFLINE is set\.\n$", found.err)
    assert found.err.count("\n") == 1


def safetensor_error():
    from safetensors import SafetensorError

    return SafetensorError("incomplete metadata")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "lower the batch size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "lower the batch"),
        (safetensor_error(), "sima cannot be read, perhaps half-written: incomplete metadata"),
        (ImportError("TimmWrapperModel requires the timm library"), "requires the timm library"),
        (PermissionError(13, "Permission denied", "/secret"), "sima cannot be loaded: [Errno 13] Permission denied"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_of_others_are_told_in_a_line(error, words, saved, run, monkeypatch):
    def fail(name, **_):
        raise error

    monkeypatch.setattr(named_models, "load_with_report", fail)
    found = run("certify", saved / "sima")
    assert found.code == 1
    assert words in found.err
    assert found.err.startswith("sima-hf: ")
    assert "Traceback" not in found.err


def test_a_file_that_the_system_refuses(tmp_path, run):
    (tmp_path / "file").write_text("")
    found = run("convert", tmp_path, tmp_path / "file" / "out")
    assert found.code == 1
    assert re.search(r"^sima-hf: .*\n$", found.err)
    assert "Errno" not in found.err


def test_an_error_of_ours_is_not_hidden(saved, monkeypatch):
    def fail(name, **_):
        raise KeyError("ours")

    monkeypatch.setattr(named_models, "load_with_report", fail)
    with pytest.raises(KeyError, match="ours"):
        cli.main(["certify", str(saved / "sima")])


def test_an_empty_argument_is_no_folder():
    """`sima-hf certify $MODEL` without the variable would be about the current folder."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["certify", ""])
    assert ended.value.code == 2


def test_what_the_output_cannot_write_is_escaped():
    """A card in Japanese, piped where the output has a code page."""
    code = "from sima_hf.cli import root; root.app = lambda **_: print('日本'); root.main([])"
    found = start(sys.executable, "-c", code, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (found.stdout, found.stderr) == ("\\u65e5\\u672c\n", "")


@pytest.mark.slow
def test_the_installed_command():
    found = start(COMMAND, "convert", "nope.pth", "out")
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == "sima-hf: There is no file nope.pth.\n"


@pytest.mark.slow
def test_nobody_reads_on():
    found = start("bash", "-c", f"{COMMAND} models | true; echo ${{PIPESTATUS[0]}}")
    assert (found.stdout, found.stderr) == ("141\n", "")


@pytest.mark.slow
def test_interrupted(tmp_path):
    arguments = ["bench", "attention", "--seconds", "60", "--tokens", "64", "--no-compile", "--output-dir", tmp_path]
    process = subprocess.Popen([COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.set_blocking(process.stderr.fileno(), False)
    said, deadline = b"", time.monotonic() + 100
    while b"%|" not in said and time.monotonic() < deadline:  # it measures now
        said += process.stderr.read() or b""
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=60)
    said += rest
    assert process.returncode == 130, said.decode()
    assert out == b""
    assert said.decode().rstrip().endswith("sima-hf: interrupted.")
    assert b"Traceback" not in said
    assert list(tmp_path.iterdir()) == []
