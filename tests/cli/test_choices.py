"""Completion without torch, and words that are the package's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sima_hf.cli import choices
from sima_hf.cli.commands import ORDER


COMMAND = str(Path(sys.executable).with_name("sima-hf"))


def start(*arguments, **kwargs):
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False, **kwargs)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sima-hf ", set(ORDER)),
        ("sima-hf ca", {"calibrate"}),
        ("sima-hf bench ", {"attention", "export", "model", "memory"}),
        ("sima-hf patch a b --cal", {"--calibrate-with"}),
        ("sima-hf patch a b --gain ", {"tokens", "none"}),
        ("sima-hf convert a b --variant sima_small_12", {"sima_small_12_p16", "sima_small_12_p8"}),
        ("sima-hf evaluate a --dtype b", {"bfloat16"}),
        ("sima-hf evaluate a --backend e", {"eager"}),
        ("sima-hf models dinov", {"dinov2", "dinov2_with_registers", "dinov3_vit"}),
        ("sima-hf bench model sima_nano", {"sima_nano_12_p16", "sima_nano_12_p8"}),
        ("sima-hf bench memory ", {"deit-tiny", "deit-small", "deit-base"}),
    ],
)
def test_completion(words, expected):
    environment = {
        **os.environ,
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
        "_SIMA_HF_COMPLETE": "complete_bash",
        "PYTHONPROFILEIMPORTTIME": "1",  # what is imported goes to stderr
    }
    found = start(COMMAND, env=environment)
    assert set(found.stdout.split()) == expected
    assert len(found.stdout.split()) == len(expected)
    imported = {line.rpartition("|")[2].strip() for line in found.stderr.splitlines()}
    assert "typer" in imported
    assert not {"torch", "transformers", "rich.console"} & imported


def test_completion_in_bash():
    script = (
        'eval "$(sima-hf --show-completion)"; COMP_WORDS=(sima-hf patch a b --gain t); COMP_CWORD=5; '
        '_sima_hf_completion sima-hf; echo "${COMPREPLY[@]}"'
    )
    path = f"{Path(COMMAND).parent}{os.pathsep}{os.environ['PATH']}"
    found = start("bash", "-c", script, env={**os.environ, "PATH": path})
    assert found.stdout == "tokens\n", found.stderr


def test_the_words_are_those_of_the_package():
    from sima_hf import SIMA_VARIANTS
    from sima_hf.bench.model import MODELS
    from sima_hf.exporting.formats import DYNAMIC, FORMATS
    from sima_hf.exporting.quantize import SCHEMES
    from sima_hf.loading.weights_place import WEIGHTS
    from sima_hf.machine.devices import DTYPES
    from sima_hf.ops import backend_names
    from sima_hf.ops.order import GAINS
    from sima_hf.peers import PEERS

    assert list(choices.VARIANTS) == list(SIMA_VARIANTS)
    assert set(MODELS) == set(choices.RANDOM_MODELS) | {name for name in MODELS if name == "tiny"}
    assert [one.value for one in choices.Backend] == ["auto", *backend_names()]
    assert [one.value for one in choices.Attention] == ["sima", *(one.name for one in PEERS.values() if one.drop_in)]
    assert {one.value for one in choices.Gain} == set(GAINS)
    assert {one.value for one in choices.Weights} == set(WEIGHTS)
    assert [one.value for one in choices.Format] == list(FORMATS)
    assert [one.value for one in choices.Dynamic] == list(DYNAMIC)
    assert [one.value for one in choices.Quantize] == list(SCHEMES)
    assert [one.value for one in choices.DType] == list(DTYPES)
