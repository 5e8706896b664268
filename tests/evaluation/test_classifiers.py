"""Classifiers from folders: which weights, whether all of them are there, and which class each label is."""

import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from transformers import ViTConfig, ViTForImageClassification, ViTModel

import sima_hf
from sima_hf import SimAConfig, SimAForImageClassification
from sima_hf.errors import CheckpointError, DataError
from sima_hf.evaluation.classifiers import load_classifier, match_labels
from sima_hf.folders.manifest import seal


TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


@pytest.fixture(scope="module")
def native():
    return SimAForImageClassification(SimAConfig(**TINY, num_class_attention_layers=1, num_labels=3))


@pytest.fixture
def run(native, tmp_path):
    """A run folder with two sealed checkpoints: weights of step 1 and 2, and averages that are 10 and 20."""
    for step in (1, 2):
        folder = tmp_path / f"checkpoint-{step}"
        for place, value in ((folder, step), (folder / "ema", 10 * step)):
            native.classifier.bias.data.fill_(value)
            native.save_pretrained(place)
        seal(folder, step)
    return tmp_path


def biases(model):
    return model.classifier.bias.tolist()


def test_a_checkpoint_has_raw_and_averaged_weights(run):
    folder = run / "checkpoint-2"
    for weights, value, place in ((None, 2, folder), ("raw", 2, folder), ("ema", 20, folder / "ema")):
        model, found = load_classifier(str(folder), weights)
        assert biases(model) == [value] * 3
        assert found == str(place)
        assert not model.training
        assert type(model) is SimAForImageClassification
    with pytest.raises(ValueError, match="must be 'ema' or 'raw', got 'best'"):
        load_classifier(str(folder), "best")


def test_swapped_and_softmax_models_come_as_what_they_are(tmp_path):
    model = ViTForImageClassification(ViTConfig(**TINY, intermediate_size=48, num_labels=3))
    model.save_pretrained(tmp_path / "vit")
    sima_hf.patch_model(model).half().save_pretrained(tmp_path / "sima")
    assert type(load_classifier(str(tmp_path / "vit"))[0]) is ViTForImageClassification
    swapped, _ = load_classifier(str(tmp_path / "sima"))
    assert type(swapped).__name__ == "SimAViTForImageClassification"
    assert swapped.dtype == torch.float32
    assert load_classifier(str(tmp_path / "sima"), dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def _no_weights(run):
    (run / "checkpoint-2" / "model.safetensors").unlink()


def _no_manifest_no_weights(run):
    _no_weights(run)
    (run / "checkpoint-2" / "checkpoint_manifest.json").unlink()


def _no_config(run):
    shutil.rmtree(run / "checkpoint-2")
    (run / "checkpoint-2").mkdir()


def _cut(run):
    path = run / "checkpoint-2" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-500])


def _cut_without_manifest(run):
    _cut(run)
    (run / "checkpoint-2" / "checkpoint_manifest.json").unlink()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (_no_weights, r"lacks the file model\.safetensors\. The one before it is good: .*checkpoint-1"),
        (_no_manifest_no_weights, r"not a complete model: it has no model\.safetensors.*was not finished"),
        (_no_config, r"it has no config\.json and no model\.safetensors"),
        (_cut, "is damaged: .*The one before it is good: .*checkpoint-1"),
        (_cut_without_manifest, "cannot be read, perhaps half-written"),
    ],
    ids=["lacking", "unsealed", "empty", "cut", "cut-unsealed"],
)
def test_half_written_checkpoints_are_recognized(harm, words, run):
    harm(run)
    with pytest.raises(CheckpointError, match=words):
        load_classifier(str(run / "checkpoint-2"))


def test_what_is_not_there_is_said(run, native, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"There is no folder \./nowhere"):
        load_classifier("./nowhere")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        CheckpointError, match=r"no folder nowhere, and no model of that name in .*HF_HUB_OFFLINE is set\.$"
    ):
        load_classifier("nowhere")
    with pytest.raises(CheckpointError, match="There is no folder org/name; averaged weights"):
        load_classifier("org/name", "ema")
    with pytest.raises(CheckpointError, match=r"It holds checkpoints: name one of them, such as .*checkpoint-2"):
        load_classifier(str(run))
    native.save_pretrained(tmp_path / "final")
    with pytest.raises(CheckpointError, match=r"final has no folder ema .*leave the weights out"):
        load_classifier(str(tmp_path / "final"), "ema")


def test_a_model_without_a_trained_head_is_no_classifier(tmp_path):
    ViTModel(ViTConfig(**TINY, intermediate_size=48)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"no weights for classifier\.bias, classifier\.weight"):
        load_classifier(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "clip_text_model"}))
    with pytest.raises(CheckpointError, match="of type 'clip_text_model', which has no image classifier"):
        load_classifier(str(tmp_path))


def test_weights_of_other_shapes_are_said(native, tmp_path):
    native.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    labels = {str(index): f"LABEL_{index}" for index in range(4)}
    (tmp_path / "config.json").write_text(json.dumps({**config, "id2label": labels}))
    with pytest.raises(CheckpointError, match=r"classifier\.bias: got \(3,\), expected \(4,\)"):
        load_classifier(str(tmp_path))


NAMES = {0: "ant", 1: "great_white_shark", 2: "Cat", 3: "dog"}


@pytest.mark.parametrize(
    ("model", "data", "expected"),
    [
        (NAMES, list(NAMES.values()), [0, 1, 2, 3]),
        (NAMES, ["dog", "ant"], [3, 0]),
        (NAMES, ["cat", "Great white  shark"], [2, 1]),
        (["a", "A"], ["A", "a"], [1, 0]),
        (["crane", "crane"], ["crane", "crane"], [0, 1]),
        (["LABEL_0", "LABEL_1"], ["cats", "dogs"], [0, 1]),
        (["1", "0"], ["0", "1"], [1, 0]),
        (["Caf\u00e9", "Zoo"], ["Zoo", "Cafe\u0301"], [1, 0]),  # as Linux and macOS write one folder's name
        (["CAFE\u0301_Noir", "Zoo"], ["caf\u00e9 noir", "Zoo"], [0, 1]),
    ],
)
def test_labels_are_matched_by_name_or_else_by_index(model, data, expected):
    assert match_labels(model, data) == expected


def test_labels_that_do_not_agree_are_said():
    for model, data, words in (
        (
            NAMES,
            ["a", "b", "c", "d"],
            r"4 classes and the data's 4 have no name in common: the model has 'ant', .*--labels-by-index",
        ),
        (NAMES, ["dog", "wolf", "fox"], r"2 of the data's 3 classes are not among the model's 4: 'wolf', 'fox'\."),
        (["LABEL_0", "LABEL_1"], ["a", "b", "c"], "2 classes without names, but the data has 3"),
        (["crane", "x", "crane"], ["crane"], "Several classes have the same name.*'crane'"),
        (["cat", "x"], ["cat", "Cat"], "Several classes have the same name.*'cat', 'Cat'"),
    ):
        with pytest.raises(DataError, match=words):
            match_labels(model, data)
    assert match_labels(NAMES, ["a", "b", "c", "d"], by_index=True) == [0, 1, 2, 3]
    with pytest.raises(DataError, match="4 classes, but the data has 3"):
        match_labels(NAMES, ["a", "b", "c"], by_index=True)
