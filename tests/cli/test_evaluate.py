"""`sima-hf evaluate` asks for what it was asked for; tests/evaluation hold the counting."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from sima_hf.evaluation.run import EvaluationOptions, run_evaluation


@pytest.mark.slow
def test_evaluate(saved, tmp_path, run):
    arguments = (saved / "sima", "--image-size", "20", "--eval-crop-pct", "1.0", "--batch-size", 50)
    found = run("evaluate", *arguments, "--json", "--backend", "eager", "--output-dir", tmp_path)
    assert found.code == 0, found.err
    facts = json.loads(found.out)
    options = EvaluationOptions(str(saved / "sima"), image_size=20, eval_crop_pct=1.0, batch_size=360)
    expected = run_evaluation(options).report
    assert facts["accuracy"] == expected["accuracy"]
    assert facts["per_class"] == expected["per_class"]
    assert facts["settings"]["backend"] == "eager"
    assert facts["settings"]["image_size"] == 20
    assert [Path(file).name for file in facts["files"]] == ["evaluation.json", "confusion.png"]
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert {**written, "files": facts["files"]} == facts
    shown = run("evaluate", *arguments).out
    assert f"top-1 accuracy  {facts['accuracy']:.2%}" in shown
    assert "%|" not in shown, "progress is on stderr"


def test_evaluate_says_what_is_wrong(saved, tmp_path, run):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (9, 9)).save(photos / "a.png")
    for arguments, words in (
        (("./nowhere",), "There is no folder ./nowhere"),
        ((saved / "bert",), "has no image classifier"),
        ((saved / "sima", "--validation-dir", tmp_path / "none"), "no folder"),
        ((saved / "sima", "--validation-dir", tmp_path, "--dataset", "digits"), "one source of images"),
        ((saved / "sima", "--validation-dir", photos), "holds images, but has no sub-folders of classes"),
        (("nowhere",), "There is no folder nowhere, and no model of that name in"),
        ((saved / "softmax", "--backend", "eager"), "has softmax; leave it out"),
    ):
        found = run("evaluate", *arguments)
        assert (found.code, found.out) == (1, ""), arguments
        assert words in found.err, (arguments, found.err)


def test_evaluate_without_what_reads_data(saved, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    found = run("evaluate", saved / "sima")
    assert (found.code, found.out) == (1, "")
    assert found.err.endswith("needs datasets: pip install 'sima-hf[train]'\n")
