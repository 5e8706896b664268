"""Which errors are a user's, told in a sentence, and which are faults that keep their traceback."""

import errno
import os
from pathlib import Path

import pytest
from transformers import AutoConfig, TrainingArguments

import sima_hf
from sima_hf.data.columns import Classes, is_number
from sima_hf.data.images import collate
from sima_hf.errors import DataError, MissingDependencyError
from sima_hf.errors.sentences import HINT, sentence_of
from sima_hf.training.command_line import failures_as_sentences
from tests.helpers.fresh_process import fresh


def caught(call):
    with pytest.raises(Exception) as found:
        call()
    return found.value


def unpack():
    _one, _two = [1]


def with_number(kind, number, *names):
    raise kind(number, os.strerror(number), *names)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Classes(["cat"], "photos"), "photos has one class only"),
        (lambda: sima_hf.SimAConfig.from_variant("sima_huge"), "There is no variant 'sima_huge'"),
        (lambda: Path("/nowhere/file").read_bytes(), "No such file or directory: /nowhere/file"),
        (lambda: with_number(OSError, errno.ENOSPC), "No space left on device."),
        (lambda: __import__("no_such_package_anywhere"), "No module named 'no_such_package_anywhere'"),
        (lambda: sima_hf.SimAConfig(hidden_size="wide"), "'hidden_size': TypeError: Field 'hidden_size' expected int"),
        (lambda: AutoConfig.for_model("fhqwhgads"), "fhqwhgads"),
        (lambda: AutoConfig.from_pretrained("/nowhere/model"), "/nowhere/model"),
        (
            lambda: TrainingArguments("out", load_best_model_at_end=True, save_strategy="steps"),
            "load_best_model_at_end",
        ),
    ],
    ids=["ours", "check", "file", "full", "package", "field", "type", "folder", "arguments"],
)
def test_what_a_user_can_mend_is_a_sentence(call, words):
    assert words in sentence_of(caught(call))


@pytest.mark.parametrize(
    "call",
    [
        unpack,
        lambda: collate(None),
        lambda: Classes(None, "photos"),
        lambda: int("three"),
        lambda: is_number(3),
        lambda: exec("from sima_hf.errors import NoSuchError"),
        lambda: __import__("sima_hf.no_such_module"),
        lambda: with_number(OSError, errno.EBADF),
        lambda: {}["key"],
    ],
    ids=["unpack", "ours", "none", "int", "attribute", "name", "module", "descriptor", "key"],
)
def test_a_fault_is_not_a_sentence(call):
    assert sentence_of(caught(call)) is None


def test_a_value_error_that_merely_happens_in_the_package_is_a_fault():
    """The same type as a check's, from a line of the package that raises nothing by itself."""
    source = "def broken(pair):\n    one, two = pair\n"
    space = {"__name__": "sima_hf.made_up"}
    exec(source, space)
    error = caught(lambda: space["broken"]([1]))
    assert type(error) is ValueError
    assert sentence_of(error) is None


def test_a_scripts_own_checks_count_where_it_says_so():
    space = {"__name__": "somebodys_script"}
    exec("def check():\n    raise ValueError('Give a name.')\n", space)
    error = caught(space["check"])
    assert sentence_of(error) is None
    assert sentence_of(error, "somebodys_script") == "Give a name."


def test_a_script_tells_mistakes_and_lets_faults_through(capsys, monkeypatch):
    for error in (DataError("No images."), MissingDependencyError("pip install it")):
        with pytest.raises(SystemExit) as ended, failures_as_sentences("train"):
            raise error
        assert ended.value.code == 1
        assert capsys.readouterr().err == f"train: {error}\n"
    with monkeypatch.context() as debugging:
        debugging.setenv("SIMA_HF_DEBUG", "1")
        with pytest.raises(DataError), failures_as_sentences("train"):
            raise DataError("No images.")
    with pytest.raises(ValueError, match="not enough values") as fault, failures_as_sentences("train"):
        unpack()
    said = capsys.readouterr().err + "".join(getattr(fault.value, "__notes__", ()))
    assert said.strip() == HINT


BROKEN = """
from sima_hf.loading import by_name
from sima_hf.cli import main

def broken(name, **kwargs):
    one, two = [name]

by_name.load_with_report = broken
main(["certify", {folder!r}])
"""


def test_a_fault_in_a_command_ends_in_how_to_report_it(tmp_path):
    sima_hf.SimAConfig().save_pretrained(tmp_path)
    done = fresh(BROKEN.format(folder=str(tmp_path)))
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback (most recent call last)" in done.stderr
    assert "ValueError: not enough values to unpack (expected 2, got 1)" in done.stderr
    assert done.stderr.count("sima-hf env") == 1
