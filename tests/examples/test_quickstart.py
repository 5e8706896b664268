"""The demo script end to end: digits, a folder of photos, a second run in its place, and what it says about bad input."""

import sys

import pytest
from huggingface_hub import ModelCard
from PIL import Image

import sima_hf  # noqa: F401
from sima_hf.data.images import decode
from sima_hf.data.sources import load_image_data
from tests.helpers.script_runs import EXAMPLES, run


pytestmark = pytest.mark.slow
QUIET = {"disable_tqdm": True, "report_to": "none"}
TINY = {
    "config_overrides": "hidden_size=32,num_hidden_layers=1,num_attention_heads=2,num_class_attention_layers=1",
    "image_size": 32,
    "warmup_epochs": 0,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of colored images in three classes, of several sizes and file types."""
    folder = tmp_path_factory.mktemp("photos")
    for name, color in {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (30, 40, 220)}.items():
        (folder / name).mkdir()
        for index in range(30):
            shade = tuple(min(255, channel + 2 * index) for channel in color)
            Image.new("RGB", (30 + index, 40), shade).save(folder / name / f"{index}.{('png', 'jpg')[index % 2]}")
    return folder


def test_digits_reach_a_good_accuracy_and_leave_a_complete_folder(tmp_path):
    from transformers import pipeline

    folder = tmp_path / "digits"
    results = run("quickstart.py", folder, num_train_epochs=5, warmup_epochs=1, **QUIET)
    assert results["eval_accuracy"] > 0.85  # five epochs; the demo runs forty
    for name in ("model.safetensors", "config.json", "preprocessor_config.json", "curves.png"):
        assert (folder / name).stat().st_size > 0, name
    with Image.open(folder / "report.png") as picture:
        assert picture.width > 1000
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "image-classification"
    assert f"{results['eval_accuracy']:.2%}" in card.text
    held_out = load_image_data().validation
    classifier = pipeline("image-classification", model=str(folder))
    answers = classifier([decode(row["image"]) for row in held_out], top_k=1, batch_size=60)
    right = sum(int(answer[0]["label"]) == label for answer, label in zip(answers, held_out["label"], strict=True))
    assert right / len(held_out) == pytest.approx(results["eval_accuracy"], abs=1e-9)
    assert (
        f"{results['eval_accuracy']:.2%} of {len(held_out)} held-out images" in folder.with_suffix(".log").read_text()
    )


def test_a_folder_is_learned_goes_on_and_is_started_over(photos, tmp_path, complaint):
    folder, settings = tmp_path / "mine", {**TINY, **QUIET, "train_dir": photos}
    run("quickstart.py", folder, **settings, num_train_epochs=1)
    (folder / "thesis.txt").write_text("precious")
    assert "holds a run already" in complaint("--output_dir", folder, "--train_dir", photos)
    run("quickstart.py", folder, **settings, num_train_epochs=2, resume_from_checkpoint="last")
    assert len(list(folder.glob("checkpoint-*"))) == 2
    run("quickstart.py", folder, **settings, num_train_epochs=1, overwrite_output_dir=True)
    assert len(list(folder.glob("checkpoint-*"))) == 1
    assert (folder / "thesis.txt").read_text() == "precious"


@pytest.fixture
def complaint(monkeypatch, capsys):
    """Call the script's main in this process, which is quicker, and return the sentence it exits with."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import quickstart

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["quickstart.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            quickstart.main()
        assert stopped.value.code == 1
        said = capsys.readouterr().err
        assert "quickstart: " in said
        assert "Traceback" not in said
        return said

    return call


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--variant", "sima_huge"), "sima_huge"),
        (("--config_overrides", "width=3"), "hidden_size"),
        (("--config_overrides", "num_attention_heads=5"), "must divide `hidden_size`"),
        (("--image_size", "0"), "got 0"),
        (("--train_dir", "/nowhere"), "/nowhere"),
        (("--resume_from_checkpoint", "last"), "no checkpoint to go on from"),
    ],
    ids=["variant", "unknown-field", "heads", "size", "folder", "resume"],
)
def test_mistakes_are_explained_before_anything_is_made(arguments, words, tmp_path, complaint):
    assert words in complaint("--output_dir", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()
