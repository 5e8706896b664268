"""k-NN and linear probe from options to report: against plain code over a plain forward, over processes, bad input."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from sima_hf import SimAConfig, SimAForImageClassification, SimAImageProcessor
from sima_hf.data.images import decode
from sima_hf.data.sources import load_image_data
from sima_hf.errors import DataError, PublishError
from sima_hf.evaluation.protocols.run import ProtocolOptions, run_protocol
from sima_hf.evaluation.report import report_text, write_report
from sima_hf.hub.cards.results import read_measured
from tests.helpers.joined_processes import run_joined


pytestmark = pytest.mark.slow
SAME = ("accuracy", "top_5_accuracy", "loss", "num_images", "per_class", "most_confused", "accuracy_by_neighbors")


def found(model, **options):
    return run_protocol(ProtocolOptions(str(model), **options))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained encoder whose features tell digits apart."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "sima"
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_class_attention_layers": 1}
    config = SimAConfig(**sizes, patch_size=8, image_size=32, attention_gain="tokens", num_labels=10)
    SimAForImageClassification(config).save_pretrained(folder)
    SimAImageProcessor.for_image_size(32, 1.0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def features(model):
    """By a plain forward: embeddings and labels of both parts of scikit-learn's digits, float64."""
    data, processor = load_image_data(), SimAImageProcessor.for_image_size(32, 1.0)
    encoder = SimAForImageClassification.from_pretrained(model).eval().sima
    parts = []
    for split in (data.train, data.validation):
        pixels = processor([decode(row["image"]) for row in split], return_tensors="pt").pixel_values
        with torch.no_grad():
            parts += [encoder(pixels).pooler_output.double().numpy(), np.array(split["label"][:])]
    return parts


def test_knn_is_that_of_scikit_learn(model, features, tmp_path):
    train, labels, test, wanted = features
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test)]
    evaluation = found(model, neighbors=(20, 7), batch_size=50, output_dir=tmp_path)
    report = evaluation.report
    for k in (20, 7):
        reference = KNeighborsClassifier(k, weights=lambda far: np.exp((1 - far**2 / 2) / 0.07), algorithm="brute")
        share = (reference.fit(unit[0], labels).predict(unit[1]) == wanted).mean()
        assert report["accuracy_by_neighbors"][k] == pytest.approx(share, abs=1 / 360 + 1e-9)
    assert report["accuracy"] == report["accuracy_by_neighbors"][20] > 0.6
    assert report["loss"] is None
    assert report["num_images"] == 360
    assert report["settings"]["protocol"] == {
        "name": "knn",
        "train_images": 1437,
        "neighbors": 20,
        "temperature": 0.07,
    }
    assert (report["settings"]["pooling"], report["settings"]["data"]) == ("cls", "digits, 20% held out")
    text = report_text(report)
    assert f"by neighbors: {report['accuracy']:.2%} of 20, " in text
    assert "not a number" not in text
    write_report(evaluation, tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text())["accuracy"] == report["accuracy"]
    with pytest.raises(PublishError, match="measured on frozen features, by the protocol knn"):
        read_measured(tmp_path / "evaluation.json")


def test_the_linear_probe_is_that_of_scikit_learn(model, features):
    train, labels, test, wanted = features
    report = found(model, protocol="linear", regularization=0.01, batch_size=50).report
    scaler = StandardScaler().fit(train)
    reference = LogisticRegression(C=1 / (len(train) * 0.01), tol=1e-10, max_iter=10000)
    answers = reference.fit(scaler.transform(train), labels).predict_log_proba(scaler.transform(test))
    assert report["accuracy"] == (answers.argmax(1) == wanted).mean() > 0.6
    assert report["loss"] == pytest.approx(-answers[np.arange(len(wanted)), wanted].mean(), rel=1e-4)
    assert "linear probe, L2 0.01\n" in report_text(report)
    chosen = found(model, protocol="linear").report
    assert "chosen on a fifth" in report_text(chosen)
    assert len(chosen["settings"]["protocol"]["held_out_accuracy"]) == 6


def _report(model, options):
    evaluation = found(model, **options)
    return evaluation and evaluation.report


@pytest.mark.parametrize(
    "options", [{}, {"protocol": "linear", "regularization": 0.1, "pooling": "mean"}], ids=["knn", "linear"]
)
def test_one_two_and_three_processes_give_the_same_numbers(options, model, tmp_path):
    options = {**options, "batch_size": 32}
    alone = found(model, **options).report
    for processes in (2, 3):
        codes, (together, *others) = run_joined(_report, model, options, processes=processes, folder=tmp_path / "told")
        assert codes == [0] * processes
        assert others == [None] * (processes - 1)
        assert together["settings"]["processes"] == processes
        for name in SAME:
            assert together.get(name) == alone.get(name), name


def test_folders_files_and_images_that_cannot_be_read(model, tmp_path):
    data = load_image_data()
    for part, split in (("train", data.train), ("val", data.validation)):
        for index, row in enumerate(split):
            if row["label"] in (1, 4, 6) and index < 500:
                folder = tmp_path / "set" / part / str(row["label"])
                folder.mkdir(parents=True, exist_ok=True)
                decode(row["image"]).save(folder / f"{index}.png")
    whole = found(model, train_dir=str(tmp_path / "set")).report
    assert sorted(row["label"] for row in whole["per_class"]) == ["1", "4", "6"]
    assert whole["settings"]["data"] == "set, validation split"
    one = next((tmp_path / "set" / "val" / "4").iterdir())
    one.write_bytes(b"broken")
    two = next((tmp_path / "set" / "train" / "6").iterdir())
    two.write_bytes(b"broken")
    options = {"train_dir": str(tmp_path / "set" / "train"), "validation_dir": str(tmp_path / "set" / "val")}
    less = found(model, **options).report
    assert less["num_images"] == whole["num_images"] - 1
    assert less["settings"]["protocol"]["train_images"] == whole["settings"]["protocol"]["train_images"] - 1
    assert (less["left_out"], len(less["unreadable"])) == (1, 2)
    assert str(tmp_path) not in json.dumps(less)
    shutil.rmtree(tmp_path / "set")
    data.train.select(range(200)).to_parquet(tmp_path / "digits.parquet")
    report = found(model, data_files=[str(tmp_path / "digits.parquet")], held_out=0.25).report
    assert report["settings"]["data"] == "digits.parquet, 25% held out"
    assert report["num_images"] == 50


def test_bad_input_is_explained(model, tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "one.png")
    for options, error, words in (
        ({"protocol": "nearest"}, ValueError, "'knn' or 'linear', got 'nearest'"),
        ({"batch_size": 0}, ValueError, "got 0"),
        ({"neighbors": (5000,)}, DataError, "from 1 to the 1437 training images, got 5000"),
        ({"protocol": "linear", "regularization": 0.0}, DataError, "must be positive, got 0.0"),
        ({"validation_dir": str(tmp_path)}, DataError, "needs training images beside .*--train-dir"),
        ({"dataset": "digits", "train_dir": str(tmp_path)}, DataError, "one source of images"),
        ({"held_out": 0}, DataError, "nothing to evaluate on"),
        ({"pooling": "projection"}, ValueError, "allows the pooling"),
    ):
        with pytest.raises(error, match=words):
            found(model, **options)
