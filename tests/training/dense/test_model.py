"""The model of a dense run: from a config, from a trained backbone, loaded, swapped; and what is refused."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForObjectDetection,
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    UperNetConfig,
    YolosConfig,
    YolosForObjectDetection,
)
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

from sima_hf import SimABackbone, SimAConfig, SimAForImageClassification, certify
from sima_hf.errors import CalibrationError, DataError
from sima_hf.training.dense.model import DenseModelArguments, build_dense_model, calibrate_dense, fresh_image_processor


LABELS = ["background", "cat", "dog"]
TINY = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A config of UperNet on SimA, a SimA classifier of the backbone's shape, a softmax segmenter and detector."""
    root = tmp_path_factory.mktemp("dense")
    torch.manual_seed(0)
    backbone = SimAConfig(**TINY, pyramid_strides=[4, 8, 16, 32])
    config = UperNetConfig(backbone_config=backbone, hidden_size=16, use_auxiliary_head=False)
    config.to_json_file(root / "upernet.json")
    SimAForImageClassification(SimAConfig(**TINY, num_labels=7)).save_pretrained(root / "classifier")
    SimAForImageClassification(SimAConfig(**{**TINY, "hidden_size": 64})).save_pretrained(root / "wider")
    segformer = SegformerConfig(
        depths=[1] * 4,
        hidden_sizes=[16, 16, 32, 32],
        decoder_hidden_size=16,
        num_labels=5,
        num_attention_heads=[1, 1, 2, 2],
    )
    SegformerForSemanticSegmentation(segformer).save_pretrained(root / "segformer")
    SegformerImageProcessorPil(size={"height": 48, "width": 48}).save_pretrained(root / "segformer")
    yolos = YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[32, 48],
        num_detection_tokens=5,
    )
    YolosForObjectDetection(yolos).save_pretrained(root / "yolos")
    YolosImageProcessorPil(size={"height": 32, "width": 48}).save_pretrained(root / "yolos")
    return root


def build(task=AutoModelForSemanticSegmentation, **arguments):
    return build_dense_model(DenseModelArguments(**arguments), task, LABELS)


def test_fresh(folder):
    dense = build(config_name=str(folder / "upernet.json"), image_size=40)
    assert type(dense.model.backbone) is SimABackbone
    assert dense.model.config.id2label == dict(enumerate(LABELS))
    assert type(dense.image_processor).__name__.startswith("SegformerImageProcessor")
    assert dict(dense.image_processor.size) == {"height": 40, "width": 40}
    assert dense.original is None


def test_backbone_begins_with_a_classifiers_weights(folder):
    dense = build(config_name=str(folder / "upernet.json"), backbone_name_or_path=str(folder / "classifier"))
    trained = SimAForImageClassification.from_pretrained(folder / "classifier").sima.state_dict()
    found = dense.model.backbone.state_dict()
    shared = [name for name in found if "feature_pyramid" not in name]
    assert len(shared) > 50
    assert all(torch.equal(found[name], trained[name]) for name in shared)


def test_a_fresh_swapped_type_has_its_hosts_image_processor(folder):
    """And D-FINE, which Transformers' table leaves out, that of RT-DETR."""
    for kind, name in (("sima_segformer", "SegformerImageProcessor"), ("d_fine", "RTDetrImageProcessor")):
        processor = fresh_image_processor(AutoConfig.for_model(kind), 48)
        assert type(processor).__name__.removesuffix("Pil") == name
    with pytest.raises(DataError, match="Transformers has no image processor for a sima; begin with a trained model"):
        fresh_image_processor(SimAConfig(**TINY))


def test_trained_with_the_datas_classes(folder):
    dense = build(model_name_or_path=str(folder / "segformer"))
    assert dense.model.decode_head.classifier.out_channels == 3
    assert dict(dense.image_processor.size) == {"height": 48, "width": 48}


@pytest.mark.parametrize(
    ("name", "task"),
    [("segformer", AutoModelForSemanticSegmentation), ("yolos", AutoModelForObjectDetection)],
)
def test_swapped_and_calibrated(folder, name, task):
    """A calibrated model is nearer to its original than a swapped one, on other images."""
    torch.manual_seed(0)
    dense = build(task, patch=str(folder / name))
    images = torch.randn(2, 3, 32, 48)
    assert certify(dense.model, images).softmax_free
    assert not certify(dense.original, images).softmax_free

    def distance():
        with torch.no_grad():
            return (dense.model.eval()(images).logits - dense.original(images).logits).pow(2).mean().sqrt().item()

    before = distance()
    calibrate_dense(dense, [torch.randn(16, 3, 32, 48) for _ in range(8)], progress=False)
    assert distance() < before
    assert dense.calibration is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "exactly one of --config_name, --model_name_or_path and --patch, got none"),
        ({"config_name": "a", "patch": "b"}, "got --config_name and --patch"),
        ({"model_name_or_path": "a", "calibrate": 8}, "--calibrate needs --patch, got --model_name_or_path"),
        ({"patch": "a", "backbone_name_or_path": "b"}, "--backbone_name_or_path needs --config_name, got --patch"),
    ],
    ids=["none", "two", "calibrate", "backbone"],
)
def test_what_does_not_go_together(arguments, words):
    with pytest.raises(DataError, match=words):
        build(**arguments)


def test_another_attention(folder):
    dense = build(patch=str(folder / "segformer"), attention="inline", calibrate=8)
    assert dense.model.config.attention_mechanism == "inline"
    calibrate_dense(dense, [torch.randn(16, 3, 32, 48)], progress=False)
    with pytest.raises(CalibrationError, match="not linear in the values"):
        build(patch="nowhere", attention="rela", calibrate=8)
    with pytest.raises(ValueError, match="got 'inline' without --patch"):
        build(model_name_or_path="nowhere", attention="inline")


def test_what_does_not_fit(folder):
    config = str(folder / "upernet.json")
    with pytest.raises(DataError, match="names a upernet, for which there is no AutoModelForObjectDetection"):
        build(AutoModelForObjectDetection, config_name=config)
    with pytest.raises(
        DataError, match=r"--backbone_name_or_path must be a sima, as the backbone is, got a segformer"
    ):
        build(config_name=config, backbone_name_or_path=str(folder / "segformer"))
    with pytest.raises(DataError, match=r"must have the backbone's shape, got .*wider.* have another size"):
        build(config_name=config, backbone_name_or_path=str(folder / "wider"))
    with pytest.raises(OSError, match=r"nowhere"):
        build(config_name=str(folder / "nowhere.json"))
