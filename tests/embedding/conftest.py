"""Small encoders, and images in folders and shards."""

import datasets
import pytest
import torch

from sima_hf import SimAConfig, SimAForImageClassification, SimAImageProcessor
from tests.helpers.digit_files import few_digits, write_digits


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Sixty digits in every form that data comes in: fifty to train with, ten to validate on."""
    root = tmp_path_factory.mktemp("digits")
    write_digits(few_digits(), root)
    return root


@pytest.fixture(scope="session")
def sima_folder(tmp_path_factory):
    """A small native classifier for 24 pixels, with its image processor."""
    folder = tmp_path_factory.mktemp("model") / "sima"
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_class_attention_layers": 1}
    model = SimAForImageClassification(
        SimAConfig(**sizes, patch_size=8, image_size=24, attention_gain="tokens", num_labels=10)
    )
    model.save_pretrained(folder)
    SimAImageProcessor.for_image_size(24, 1.0).save_pretrained(folder)
    return folder
