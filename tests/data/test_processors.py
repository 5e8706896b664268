"""Image processors at another resolution and crop: the pixels that were asked for, by PIL alone, and again after loading."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil
from transformers.models.levit.image_processing_pil_levit import LevitImageProcessorPil
from transformers.models.mobilevit.image_processing_pil_mobilevit import MobileViTImageProcessorPil
from transformers.models.perceiver.image_processing_pil_perceiver import PerceiverImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from sima_hf import SimAConfig, SimAForImageClassification, SimAImageProcessor
from sima_hf.data.pixels import normalize
from sima_hf.data.processors import measure_processor, normalization, processor_for, side_of
from sima_hf.errors import CheckpointError, DataError


HOSTS = [
    SimAImageProcessor,
    ViTImageProcessorPil,
    DeiTImageProcessorPil,
    BeitImageProcessorPil,
    BitImageProcessorPil,
    SegformerImageProcessorPil,
    ConvNextImageProcessorPil,
    LevitImageProcessorPil,
    MobileViTImageProcessorPil,
]


@pytest.fixture(scope="module")
def photo():
    """Wide, of odd sides."""
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (93, 141, 3), dtype=np.uint8))


def by_pil(photo, image_size, crop_pct, resample):
    """Shorter side to `image_size / crop_pct`, center crop: float64 `(3, S, S)` in 0..255."""
    shorter = int(image_size / crop_pct)
    wide, tall = photo.size
    new = (shorter, int(shorter * tall / wide)) if wide < tall else (int(shorter * wide / tall), shorter)
    resized = np.asarray(photo.resize(new, resample), dtype=np.float64)
    top, left = (resized.shape[0] - image_size) // 2, (resized.shape[1] - image_size) // 2
    return resized[top : top + image_size, left : left + image_size].transpose(2, 0, 1)


@pytest.mark.parametrize(("image_size", "crop_pct"), [(64, 0.875), (97, 1.0), (400, 0.9)])
@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.__name__)
def test_every_host_gives_the_pixels_asked_for_and_gives_them_again(host, image_size, crop_pct, photo, tmp_path):
    original = host()
    before = original.to_dict()
    processor = processor_for(original, image_size, crop_pct)
    assert original.to_dict() == before
    found = processor(photo, return_tensors="pt")["pixel_values"]
    pixels = by_pil(photo, image_size, crop_pct, original.resample)
    if host is MobileViTImageProcessorPil:  # its models were trained on blue, green, red
        pixels = pixels[::-1].copy()
    expected = pixels / 255
    if original.do_normalize:
        mean, std = (np.array(numbers)[:, None, None] for numbers in (original.image_mean, original.image_std))
        expected = (expected - mean) / std
    assert found.shape == (1, 3, image_size, image_size)
    assert np.abs(found[0].double().numpy() - expected).max() < 1e-5
    processor.save_pretrained(tmp_path)
    again = AutoImageProcessor.from_pretrained(tmp_path)
    assert torch.equal(again(photo, return_tensors="pt")["pixel_values"], found)
    assert side_of(again) == image_size


@pytest.mark.parametrize("host", [*HOSTS, EfficientNetImageProcessorPil], ids=lambda host: host.__name__)
def test_size_alone_keeps_the_hosts_own_way(host, photo):
    """DeiT's stretches to 256 x 256 and cuts 224 x 224; at 96 that is 109 and 96."""
    original = host()
    processor = processor_for(original, 96)
    assert type(processor) is host
    shape = processor(photo, return_tensors="pt")["pixel_values"].shape[-2:]
    assert max(shape) == 96
    assert processor.do_center_crop == original.do_center_crop
    if host is DeiTImageProcessorPil:
        assert dict(processor.size) == {"height": 109, "width": 109}
        stretched = np.asarray(photo.resize((109, 109), original.resample), dtype=np.float64)
        made = processor(photo, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
        assert np.array_equal(made[0].numpy(), stretched[6:102, 6:102].transpose(2, 0, 1))


@pytest.mark.parametrize("host", [ViTImageProcessorPil, DeiTImageProcessorPil, SimAImageProcessor])
def test_without_a_wish_nothing_changes_and_the_crop_alone_keeps_the_size(host, photo):
    processor = host()
    assert processor_for(processor).to_dict() == processor.to_dict()
    cropped = processor_for(processor, None, 1.0)
    assert side_of(cropped) == 224
    assert dict(cropped.size) == {"shortest_edge": 224}


def test_none_and_folders_without_one_get_the_originals(tmp_path, photo):
    assert processor_for(None, 96, 1.0).to_dict() == SimAImageProcessor.for_image_size(96, 1.0).to_dict()
    assert processor_for(None).to_dict() == SimAImageProcessor().to_dict()
    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_class_attention_layers": 1}
    model = SimAForImageClassification(SimAConfig(**tiny, patch_size=8, image_size=40))
    model.save_pretrained(tmp_path)
    assert processor_for(str(tmp_path)).to_dict() == SimAImageProcessor.for_image_size(40).to_dict()
    own = SimAImageProcessor.for_image_size(40, image_mean=[0.1, 0.2, 0.3])
    own.save_pretrained(tmp_path)
    changed = processor_for(tmp_path, 56, 1.0)
    assert list(changed.image_mean) == [0.1, 0.2, 0.3]
    assert changed(photo, return_tensors="pt")["pixel_values"].shape[-2:] == (56, 56)


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.__name__)
def test_normalization_on_the_device_is_the_processors(host, photo):
    processor = processor_for(host(), 32, 1.0)
    mean, std = normalization(processor)
    seen = processor(photo, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
    made = processor(photo, return_tensors="pt")["pixel_values"]
    assert torch.allclose(normalize(seen.to(torch.uint8), mean, std), made, atol=1e-5)


@pytest.mark.parametrize(
    "settings", [{"do_normalize": False}, {"do_rescale": False}, {"rescale_factor": 1 / 127.5}, {"image_mean": 0.25}]
)
def test_unusual_settings_are_in_the_two_numbers(settings, photo):
    processor = ViTImageProcessorPil(**settings)
    mean, std = normalization(processor)
    made = processor(photo, return_tensors="pt")["pixel_values"]
    seen = processor(photo, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
    assert torch.allclose(normalize(seen.to(torch.uint8), mean, std), made.float(), rtol=1e-4, atol=1e-4)


def test_sizes_are_those_that_processors_make():
    assert measure_processor(DeiTImageProcessorPil()).size == (224, 224)
    assert measure_processor(ViTImageProcessorPil(size={"height": 20, "width": 28})).size == (20, 28)
    assert measure_processor(ViTImageProcessorPil(do_resize=False)).size is None
    large = ConvNextImageProcessorPil(size={"shortest_edge": 384})
    assert measure_processor(large).size == (384, 384)


class Crooked:
    """An image processor that squares what it sees."""

    def __call__(self, image, return_tensors):
        return {"pixel_values": torch.tensor(np.asarray(image) / 255.0).permute(2, 0, 1)[None] ** 2}


class Gray:
    """One that mixes the channels."""

    def __call__(self, image, return_tensors):
        pixels = torch.tensor(np.asarray(image) / 255.0).permute(2, 0, 1)[None]
        return {"pixel_values": pixels.mean(1, keepdim=True).expand(-1, 3, -1, -1)}


@pytest.mark.parametrize("processor", [Crooked, Gray])
def test_processors_that_do_more_are_refused(processor):
    with pytest.raises(DataError, match=f"{processor.__name__} does more to colors"):
        measure_processor(processor())


def test_what_cannot_be_is_said(tmp_path):
    for arguments, words in (
        ((None, 0, 0.875), "must be 1 pixel or more, got 0"),
        ((None, -5, None), "got -5"),
        ((None, 224, 0.0), r"in \(0, 1\].*got 0\.0"),
        ((None, 224, 87.5), r"got 87\.5"),
        ((PerceiverImageProcessorPil(), 96, None), "does not make images of 96 pixels"),
    ):
        with pytest.raises(DataError, match=words):
            processor_for(*arguments)
    for refused in (normalization, lambda processor: processor_for(processor, 96, 1.0)):
        with pytest.raises(DataError, match="more to an image's bytes"):
            refused(EfficientNetImageProcessorPil())
    with pytest.raises(CheckpointError, match="without an image processor"):
        processor_for(tmp_path)
    processor = ViTImageProcessorPil()
    processor.size = None
    with pytest.raises(DataError, match="no fixed size"):
        processor_for(processor, 96)
