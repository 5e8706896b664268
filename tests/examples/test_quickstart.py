"""The demo script end to end: digits, a folder, interruption and resumption, and what it says about bad input."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image


pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TINY = "hidden_size=32,num_hidden_layers=1,num_attention_heads=2,num_class_attention_layers=1"


def quickstart(*arguments: object, **kwargs) -> subprocess.CompletedProcess:
    command = [sys.executable, str(EXAMPLES / "quickstart.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **kwargs)


@pytest.fixture
def complaint(monkeypatch):
    """Call the script's main in this process, which is quicker, and return the sentence it exits with."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import quickstart

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["quickstart.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            quickstart.main()
        assert str(stopped.value).startswith("quickstart: ")
        return str(stopped.value)

    return call


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder of colored images in three classes, of several sizes and file types."""
    folder = tmp_path_factory.mktemp("photos")
    for name, color in {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (30, 40, 220)}.items():
        (folder / name).mkdir()
        for index in range(14):
            shade = tuple(min(255, channel + 2 * index) for channel in color)
            suffix = ("png", "jpg")[index % 2]
            Image.new("RGB", (30 + index, 40), shade).save(folder / name / f"{index}.{suffix}")
    return folder


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("quickstart") / "digits"
    return folder, quickstart("--output_dir", folder, "--num_train_epochs", 6)


def test_digits_reach_a_good_accuracy_and_leave_a_complete_folder(digits_run):
    folder, run = digits_run
    assert run.returncode == 0, run.stderr[-2000:]
    results = json.loads((folder / "results.json").read_text())
    assert results["accuracy"] > 0.85  # six epochs; the demo runs forty
    assert results["test_images"] == 360
    assert results["train_images"] + results["validation_images"] + results["test_images"] == 1797
    assert f"{results['accuracy']:.2%} of 360" in run.stdout
    for name in ("model.safetensors", "config.json", "preprocessor_config.json", "README.md", "all_results.json"):
        assert (folder / name).stat().st_size > 0, name
    with Image.open(folder / "report.png") as picture:
        assert picture.width > 1000


def test_model_card_says_what_was_measured(digits_run):
    from huggingface_hub import ModelCard

    folder, _ = digits_run
    results = json.loads((folder / "results.json").read_text())
    card = ModelCard.load(folder / "README.md")
    assert card.data.eval_results[0].metric_value == results["accuracy"]
    assert card.data.pipeline_tag == "image-classification"
    assert f"{results['accuracy']:.2%}" in card.text


def test_the_evaluated_accuracy_comes_back_from_the_folder_alone(digits_run):
    """Independent of the script's own check: a fresh pipeline on the same held-out images."""
    import numpy as np
    from datasets.utils.logging import disable_progress_bar
    from transformers import pipeline

    import sima_hf  # noqa: F401
    from sima_hf.data.sources import load_images

    disable_progress_bar()
    folder, _ = digits_run
    results = json.loads((folder / "results.json").read_text())
    test = load_images()["test"]
    classifier = pipeline("image-classification", model=str(folder))
    answers = classifier([image.convert("RGB") for image in test["image"]], top_k=1)
    predicted = np.array([int(answer[0]["label"]) for answer in answers])
    assert (predicted == np.array(test["label"])).mean() == pytest.approx(results["accuracy"], abs=1e-9)


def test_a_second_run_refuses_stale_files_or_starts_over(digits_run, photos, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(digits_run[0], folder)
    refused = quickstart("--output_dir", folder, "--train_dir", photos)
    assert refused.returncode == 1
    assert "is not empty" in refused.stderr
    assert "Traceback" not in refused.stderr
    arguments = ("--train_dir", photos, "--image_size", 32, "--config_overrides", TINY, "--num_train_epochs", 2)
    again = quickstart("--output_dir", folder, "--overwrite_output_dir", *arguments)
    assert again.returncode == 0, again.stderr[-2000:]
    results = json.loads((folder / "results.json").read_text())
    assert results["labels"] == ["blue", "green", "red"]
    assert {path.name for path in folder.glob("checkpoint-*")} <= {"checkpoint-1", "checkpoint-2"}


def test_overwriting_leaves_other_peoples_files_alone(photos, tmp_path, complaint):
    (tmp_path / "thesis.txt").write_text("precious")
    assert "thesis.txt" in complaint("--output_dir", tmp_path, "--overwrite_output_dir", "--train_dir", photos)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_an_interrupted_run_says_how_to_go_on_and_does(photos, tmp_path):
    folder = tmp_path / "run"
    arguments = ["--output_dir", folder, "--train_dir", photos, "--image_size", 32, "--config_overrides", TINY]
    command = [sys.executable, str(EXAMPLES / "quickstart.py"), *map(str, arguments), "--num_train_epochs", "400"]
    # Shells start what they put into the background with SIGINT ignored, and children inherit that; the script must not.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()[-2000:]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "--resume_from_checkpoint last" in errors
    steps = max(int(path.parent.name.rpartition("-")[2]) for path in folder.glob("checkpoint-*/trainer_state.json"))
    assert steps < 400

    run = quickstart(*arguments, "--num_train_epochs", steps + 3, "--resume_from_checkpoint", "last")
    assert run.returncode == 0, run.stderr[-2000:]
    history = json.loads((folder / "results.json").read_text())["history"]
    epochs = [entry["epoch"] for entry in history if "loss" in entry]
    assert epochs == sorted(epochs)
    assert epochs[0] == 1.0
    assert epochs[-1] == steps + 3


def test_half_written_checkpoint_is_passed_over(photos, tmp_path, complaint):
    (tmp_path / "checkpoint-7").mkdir()
    (tmp_path / "checkpoint-7" / "model.safetensors").write_bytes(b"half")
    said = complaint("--output_dir", tmp_path, "--train_dir", photos, "--resume_from_checkpoint", "last")
    assert "no complete checkpoint" in said


def _empty(folder: Path) -> None:
    (folder / "cats").mkdir()


def _one_class(folder: Path) -> None:
    (folder / "cats").mkdir()
    for index in range(5):
        Image.new("RGB", (8, 8)).save(folder / "cats" / f"{index}.png")


def _unreadable(folder: Path) -> None:
    for name in ("cats", "dogs"):
        (folder / name).mkdir()
        for index in range(5):
            Image.new("RGB", (8, 8)).save(folder / name / f"{index}.png")
    (folder / "dogs" / "broken.jpg").write_bytes(b"not an image")
    whole = (folder / "cats" / "1.png").read_bytes()
    (folder / "cats" / "cut.png").write_bytes(whole[: len(whole) // 2])


def _too_few(folder: Path) -> None:
    for name in ("cats", "dogs"):
        (folder / name).mkdir()
        Image.new("RGB", (8, 8)).save(folder / name / "only.png")


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (shutil.rmtree, "There is no folder"),
        (_empty, "no images"),
        (_one_class, r"one class only \(cats\)"),
        (_unreadable, r"2 of 12 files cannot be read: .*cut\.png.*broken\.jpg"),
        (_too_few, "fewer than two images of: cats, dogs"),
    ],
    ids=["missing", "empty", "one-class", "unreadable", "too-few"],
)
def test_bad_folders_are_named(prepare, words, tmp_path, complaint):
    folder = tmp_path / "data"
    folder.mkdir()
    prepare(folder)
    assert re.search(words, complaint("--output_dir", tmp_path / "out", "--train_dir", folder))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--variant", "sima_huge"), "There is no variant 'sima_huge'; there are sima_nano_12_p16"),
        (("--config_overrides", "width=3"), "The fields are .*hidden_size"),
        (("--config_overrides", "num_attention_heads=5"), "must divide `hidden_size`"),
        (("--image_size", "0"), "`image_size` must be at least 1"),
    ],
    ids=["variant", "unknown-field", "heads", "size"],
)
def test_bad_models_are_explained(arguments, words, tmp_path, complaint):
    assert re.search(words, complaint("--output_dir", tmp_path / "out", *arguments))
    assert not (tmp_path / "out").exists()


def test_an_image_of_too_many_pixels_is_named(photos, tmp_path, complaint, monkeypatch):
    """PIL takes a picture of 179 million pixels for an attack."""
    shutil.copytree(photos, tmp_path / "photos")
    Image.new("RGB", (90, 100)).save(tmp_path / "photos" / "red" / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    said = complaint("--output_dir", tmp_path / "out", "--train_dir", tmp_path / "photos")
    assert re.search(r"1 of 43 files cannot be read: \S+red/huge\.png \(DecompressionBombError\)", said)


def test_transparent_images_are_trained_on_as_pipeline_serves_them(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import quickstart
    from transformers.image_utils import load_image

    from sima_hf import SimAImageProcessor

    image = Image.new("RGBA", (8, 8), (200, 30, 30, 0))
    image.save(tmp_path / "clear.png")
    processor = SimAImageProcessor.for_image_size(8, crop_pct=1.0)
    data = quickstart.Dataset.from_dict({"image": [image], "label": [0]})
    found = quickstart.ProcessedImages(data, processor)[0]["pixel_values"]
    served = processor(load_image(str(tmp_path / "clear.png")), return_tensors="pt").pixel_values[0]
    assert found.equal(served)


def test_a_fault_keeps_its_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import quickstart

    def broken(*_):
        _train, _test = [1]

    monkeypatch.setattr(quickstart, "load_images", broken)
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--output_dir", str(tmp_path / "out")])
    with pytest.raises(ValueError, match="not enough values to unpack") as fault:
        quickstart.main()
    assert "sima-hf env" in "".join(getattr(fault.value, "__notes__", [capsys.readouterr().err]))


def test_without_kornia_it_says_what_to_install(tmp_path):
    (tmp_path / "kornia").mkdir()
    (tmp_path / "kornia" / "__init__.py").write_text("raise ImportError('hidden by the test')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = quickstart("--output_dir", tmp_path / "out", env=environment)
    assert run.returncode == 1
    assert "pip install 'sima-hf[train]'" in run.stderr
