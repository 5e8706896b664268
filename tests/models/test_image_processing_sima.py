"""The image processor against the same steps taken by hand with PIL, and how it is saved."""

import json

import numpy as np
import pytest
from PIL import Image
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from sima_hf import SimAImageProcessor


MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def picture(width, height, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.BICUBIC).convert(mode)


def by_hand(image, shorter=256, crop=224):
    """Shorter side to `shorter` by bicubic interpolation, central `crop`, ImageNet statistics: the original's evaluation."""
    image = image.convert("RGB")
    width, height = image.size
    scale = shorter / min(width, height)
    size = (shorter, int(shorter * height / width)) if width <= height else (int(shorter * width / height), shorter)
    assert abs(size[0] - width * scale) <= 1
    image = image.resize(size, Image.BICUBIC)
    left, top = (size[0] - crop) // 2, (size[1] - crop) // 2
    pixels = np.asarray(image.crop((left, top, left + crop, top + crop)), dtype=np.float64) / 255
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("size", [(256, 256), (400, 300), (123, 457), (64, 48)], ids=str)
def test_against_pil(size, mode):
    image = picture(*size, mode)
    pixels = SimAImageProcessor()(image, return_tensors="np").pixel_values
    assert pixels.shape == (1, 3, 224, 224)
    np.testing.assert_allclose(pixels[0], by_hand(image), atol=1e-5)


@pytest.mark.parametrize(("image_size", "crop_pct", "shorter"), [(384, 0.875, 438), (64, 1.0, 64), (96, 0.875, 109)])
def test_other_resolutions(image_size, crop_pct, shorter):
    processor = SimAImageProcessor.for_image_size(image_size, crop_pct)
    image = picture(300, 200)
    pixels = processor(image, return_tensors="np").pixel_values[0]
    np.testing.assert_allclose(pixels, by_hand(image, shorter, image_size), atol=1e-5)


@pytest.mark.parametrize(("image_size", "crop_pct"), [(0, 0.875), (224, 0.0), (224, 1.1)])
def test_impossible_resolutions(image_size, crop_pct):
    with pytest.raises(ValueError, match=r"at least 1 and `crop_pct` in \(0, 1\]"):
        SimAImageProcessor.for_image_size(image_size, crop_pct)


def test_saved_as_transformers_own_class(tmp_path):
    processor = SimAImageProcessor.for_image_size(96)
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["image_processor_type"] == "BitImageProcessor"
    again = AutoImageProcessor.from_pretrained(tmp_path)
    assert "sima" not in type(again).__module__
    image = picture(200, 150)
    np.testing.assert_array_equal(
        np.asarray(again(image, return_tensors="np").pixel_values), processor(image, return_tensors="np").pixel_values
    )
