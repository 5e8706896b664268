"""`sima-hf certify`: an answer, an exit code, and what is said of models that do not run."""

import json

import pytest


def test_certify(saved, run):
    found = run("certify", saved / "sima")
    assert (found.code, found.out) == (0, "SimADeiTForImageClassification: no softmax ran\n")
    found = run("certify", saved / "native", "--height", "32", "--width", "16")
    assert (found.code, found.out) == (0, "SimAForImageClassification: no softmax ran\n")
    found = run("certify", saved / "softmax")
    assert found.code == 1
    assert "deit.layers.0.attention" in found.out
    found = run("certify", saved / "softmax", "--json")
    assert found.code == 1
    facts = json.loads(found.out)
    assert facts["softmax_free"] is False
    assert facts["count"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bert",), "takes no `pixel_values`"),
        (("sima", "--width", "16"), "--width needs --height"),
        (("sima", "--height", "3"), "did not run on a random image"),
        (("nowhere",), "nowhere"),
        (("sima/config.json",), "is a file; give the folder"),
    ],
    ids=["text", "width-alone", "too-small", "no-folder", "file"],
)
def test_certify_says_what_is_wrong(saved, arguments, words, run):
    name, *options = arguments
    found = run("certify", saved / name, *options)
    assert (found.code, found.out) == (1, "")
    assert words in found.err
