"""`sima-hf embed` asks for what it was asked for; tests/embedding hold the rest."""

import json

import pytest
from datasets import load_dataset

from sima_hf.cli import choices
from sima_hf.embedding.pooling import POOLINGS
from sima_hf.evaluation.protocols.run import PROTOCOLS


def test_the_words_are_those_of_the_package():
    assert [one.value for one in choices.Pooling] == list(POOLINGS)
    assert [one.value for one in choices.Protocol] == ["classifier", *PROTOCOLS]


@pytest.mark.slow
def test_embed(saved, photos, tmp_path, run):
    arguments = (photos, tmp_path / "out", "--model", saved / "sima", "--pooling", "mean", "--images-per-file", 40)
    found = run("embed", *arguments, "--batch-size", 13, "--json", "--backend", "eager")
    assert found.code == 0, found.err
    facts = json.loads(found.out)
    assert (facts["num_images"], facts["files"], facts["size"]) == (90, 3, 16)
    assert facts["unreadable"] == ["broken.jpg (cannot identify image file)"]
    assert (facts["settings"]["pooling"], facts["settings"]["backend"]) == ("mean", "eager")
    assert facts["folder"] == str(tmp_path / "out")
    data = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert data.column_names == ["index", "path", "embedding"]
    assert "more/1.png" in data["path"][:]
    shown = run("embed", *arguments, "--batch-size", 13, "--backend", "eager").out
    assert "features  16 numbers each" in shown
    assert "left out  1, unreadable: broken.jpg" in shown
    assert "%|" not in shown, "progress is on stderr"


def test_embed_says_what_is_wrong(saved, photos, tmp_path, run):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for arguments, words in (
        ((photos, tmp_path / "out", "--model", "./nowhere"), "There is no folder ./nowhere"),
        ((photos, tmp_path / "out", "--model", saved / "bert"), "yields no features of images alone"),
        ((photos, tmp_path / "out", "--model", saved / "bare"), "comes without an image processor"),
        ((tmp_path / "none", tmp_path / "out", "--model", saved / "sima"), "There is no folder"),
        ((photos, tmp_path / "full", "--model", saved / "sima"), "is not empty and holds no embedding.json"),
        ((photos, photos / "out", "--model", saved / "sima"), "must be outside the folder of images"),
        ((photos, tmp_path / "out", "--model", saved / "softmax", "--backend", "eager"), "has softmax; leave it out"),
        ((photos, tmp_path / "o", "--model", saved / "sima", "--max-unreadable", 0), "broken.jpg (cannot identify"),
    ):
        found = run("embed", *arguments)
        assert (found.code, found.out) == (1, ""), (arguments, found.err)
        assert words in found.err, (arguments, found.err)
    assert run("embed", photos, tmp_path / "out").code == 2


@pytest.mark.slow
def test_evaluate_with_a_protocol(saved, tmp_path, run):
    arguments = (
        "evaluate",
        saved / "sima",
        "--protocol",
        "knn",
        "--neighbors",
        5,
        "--neighbors",
        3,
        "--pooling",
        "mean",
    )
    found = run(*arguments, "--json", "--output-dir", tmp_path)
    assert found.code == 0, found.err
    facts = json.loads(found.out)
    assert list(facts["accuracy_by_neighbors"]) == ["5", "3"]
    assert facts["settings"]["pooling"] == "mean"
    assert json.loads((tmp_path / "evaluation.json").read_text())["accuracy"] == facts["accuracy"]
    wrong = run("evaluate", saved / "sima", "--neighbors", 5)
    assert (wrong.code, wrong.out) == (1, "")
    assert "--neighbors is of --protocol knn or linear" in wrong.err
