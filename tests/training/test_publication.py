"""What a finished run leaves in its folder for the Hub, and when it pushes."""

import json
from types import SimpleNamespace

import pytest
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import sima_hf
from sima_hf.errors import PublishError
from sima_hf.training.publication import finish_folder


SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def vit():
    return ViTForImageClassification(ViTConfig(**SIZES, image_size=16, patch_size=8, num_labels=3))


def finished(folder, model, base_model=None, **arguments):
    """A run's folder, its arguments and its task."""
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    args = SimpleNamespace(
        output_dir=str(folder), push_to_hub=False, learning_rate=0.1, num_train_epochs=3, **arguments
    )
    built = SimpleNamespace(base_model=base_model, calibration=None)
    return args, SimpleNamespace(built=built, data=SimpleNamespace(source="photos"), hub_dataset=None)


def test_a_sima_model_gets_its_card_and_its_code(tmp_path):
    model = sima_hf.patch_model(vit())
    args, task = finished(tmp_path, model, base_model="google/vit-base-patch16-224")
    assert finish_folder(args, model, task, 64)
    facts = json.loads((tmp_path / "sima_provenance.json").read_text())
    assert facts["base_model"] == "google/vit-base-patch16-224"
    assert facts["dataset"] == "photos"
    assert facts["training"] == {"num_train_epochs": 3, "learning_rate": 0.1, "images_per_step": 64}
    assert "google/vit-base-patch16-224" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "modeling_sima_vit.py").is_file()


def test_a_softmax_model_gets_neither(tmp_path):
    model = vit()
    args, task = finished(tmp_path, model)
    assert not finish_folder(args, model, task, 64)
    assert (tmp_path / "sima_provenance.json").is_file()
    assert not list(tmp_path.glob("*.py"))
    assert not (tmp_path / "README.md").exists()


def test_what_stands_in_the_way_is_a_warning_until_a_push_is_asked_for(tmp_path, monkeypatch):
    model = sima_hf.patch_model(vit())
    args, task = finished(tmp_path, model)
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    said = []
    monkeypatch.setattr("sima_hf.training.publication.logger.warning", said.append)
    assert finish_folder(args, model, task, 64)
    assert "has no card for the Hub yet" in said[0]
    assert "pytorch_model.bin" in said[0]
    args.push_to_hub = True
    with pytest.raises(PublishError, match=r"pytorch_model\.bin"):
        finish_folder(args, model, task, 64)
