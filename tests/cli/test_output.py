"""Tables, JSON, folders for results; what belongs to several commands."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sima_hf.errors import DataError


def on_a_terminal(*arguments, columns=70):
    """What a command prints on a terminal so wide."""
    command = [sys.executable, "-m", "sima_hf.cli", *arguments]
    main, terminal = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=terminal, stderr=subprocess.DEVNULL, env=environment)
    os.close(terminal)
    said = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        said += part
    os.close(main)
    assert process.wait(timeout=60) == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", said.decode())


def test_a_table_on_a_terminal_and_plain_text_in_a_pipe(run):
    shown = on_a_terminal("models", "deit", "swinv2")
    assert "model type" in shown
    assert "─" in shown
    assert max(map(len, shown.splitlines())) <= 70
    piped = run("models", "deit", "swinv2").out
    assert "model type" not in piped
    assert piped.isascii()
    assert max(map(len, piped.splitlines())) > 70


def test_help_on_a_terminal_has_the_same_examples(run):
    shown, piped = on_a_terminal("patch", "--help", columns=100), run("patch", "--help").out
    assert "╭" in shown
    assert "╭" not in piped
    examples = piped.split("Examples:")[1].split()
    assert shown.split("Examples:")[1].split() == examples


def test_json_has_no_numbers_that_json_lacks(capsys):
    from sima_hf.cli.output import emit

    emit({"a": float("nan"), "b": [float("inf"), 1.5], "c": Path("x")}, "", True)
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": "x"}


@pytest.mark.parametrize("kind", ["evaluate", "attention", "model", "memory"])
def test_a_folder_for_results_is_tried_before_anything_is_measured_and_made_after(
    kind, saved, tmp_path, run, monkeypatch
):
    seen = []

    def measure(*_):
        seen.append([one.name for one in tmp_path.iterdir()])
        raise DataError("enough")

    def refuse(prefix, dir):
        raise OSError(1, "Operation not permitted", str(dir))

    for place in (
        "sima_hf.evaluation.run.run_evaluation",
        "sima_hf.bench.attention.measure",
        "sima_hf.bench.model.measure_model",
        "sima_hf.bench.model.measure_memory",
    ):
        monkeypatch.setattr(place, measure)
    (tmp_path / "file").write_text("")
    arguments = ("evaluate", saved / "sima") if kind == "evaluate" else ("bench", kind)
    for place, words in ((tmp_path / "file", "got the file"), (tmp_path / "file" / "in", "file/in")):
        found = run(*arguments, "--output-dir", place)
        assert (found.code, found.out) == (1, "")
        assert words in found.err
    with monkeypatch.context() as sealed:
        sealed.setattr("tempfile.mkdtemp", refuse)
        found = run(*arguments, "--output-dir", tmp_path / "new" / "folder")
    assert f"Nothing can be written into {tmp_path} (Operation not permitted); name another" in found.err
    assert seen == []
    assert "enough" in run(*arguments, "--output-dir", tmp_path / "new" / "folder").err
    assert seen == [["file"]], "nothing is left where nothing came out"
    assert not (tmp_path / "new").exists()


def test_a_device_that_is_not_there_is_said_before_the_work(photos, tmp_path, run):
    for arguments in (
        ("evaluate", tmp_path / "none"),
        ("patch", tmp_path / "none", tmp_path / "out", "--calibrate-with", photos),
        ("calibrate", tmp_path / "none", "--teacher", "a", "--with", photos, "--output", tmp_path / "out"),
        ("bench", "attention", "--output-dir", tmp_path / "out"),
        ("bench", "model", tmp_path / "none", "--output-dir", tmp_path / "out"),
    ):
        found = run(*arguments, "--device", "foo")
        assert (found.code, found.out) == (1, ""), arguments
        assert "foo is not the name of a device" in found.err
    assert not (tmp_path / "out").exists()
