"""Images for calibration are what the model's own image processor makes of the files, drawn by the seed, broken ones named."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from sima_hf import SimAImageProcessor
from sima_hf.data.calibration_images import CalibrationImages, image_files
from sima_hf.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """25 images of noise, all of different sizes, in three depths of folders, with extensions in both cases."""
    root = tmp_path_factory.mktemp("noise")
    generator = np.random.default_rng(0)
    for index in range(25):
        place = root / ["", "a", "a/b"][index % 3]
        place.mkdir(exist_ok=True, parents=True)
        pixels = generator.integers(0, 256, (30 + index, 41, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{index}.{'png' if index % 2 else 'BMP'}")
    return root


PROCESSOR = SimAImageProcessor.for_image_size(24, 0.875)


def all_of(images):
    return torch.cat([batch["pixel_values"] for batch in images])


def test_pixels_are_the_processors(folder):
    images = CalibrationImages(folder, PROCESSOR, batch_size=10, progress=False)
    assert [len(batch["pixel_values"]) for batch in images] == [10, 10, 5]
    assert (len(images), images.num_images) == (3, 25)
    found = all_of(images)
    assert found.dtype == torch.float32
    files = image_files(folder)
    expected = torch.cat([PROCESSOR(Image.open(file), return_tensors="pt").pixel_values for file in files])
    places = (found[:, None] - expected[None]).abs().amax(dim=(2, 3, 4)).argmin(dim=1)
    assert sorted(places.tolist()) == list(range(25)), "each image once"
    torch.testing.assert_close(found, expected[places], rtol=0, atol=1e-5)
    assert torch.equal(all_of(images), found), "the same when it is gone through again"


def test_the_seed_draws(folder):
    def drawn(seed):
        return all_of(CalibrationImages(folder, PROCESSOR, count=8, seed=seed, progress=False))

    assert drawn(0).shape == (8, 3, 24, 24)
    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


def test_a_processor_that_does_more_to_the_bytes(folder):
    class Gamma:
        """Not a change of scale."""

        def __call__(self, image, **_):
            made = PROCESSOR(image, return_tensors="pt").pixel_values
            return {"pixel_values": made.sign() * made.abs() ** 0.5}

    found = all_of(CalibrationImages(folder, Gamma(), count=4, progress=False))
    plain = all_of(CalibrationImages(folder, PROCESSOR, count=4, progress=False))
    torch.testing.assert_close(found, plain.sign() * plain.abs() ** 0.5, rtol=1e-4, atol=3e-3)


def test_images_that_come_out_in_different_sizes(folder):
    class Keep:
        def __call__(self, image, **_):
            return {"pixel_values": torch.zeros(1, 3, image.height, image.width)}

    with pytest.raises(DataError, match=r"must make images of one size, got \(3, \d+, 41\)"):
        CalibrationImages(folder, Keep(), progress=False)


def test_broken_images_are_passed_over_by_name(folder, tmp_path, caplog):
    for file in image_files(folder)[:5]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "broken.bmp").write_bytes(image_files(folder)[0].read_bytes()[:400])
    images = CalibrationImages(tmp_path, PROCESSOR, count=5, max_unreadable=1, progress=False)
    assert images.num_images == 5
    images = CalibrationImages(tmp_path, PROCESSOR, count=6, max_unreadable=1, progress=False)
    assert images.num_images == 5
    assert len(images.unreadable) == 1
    assert "broken.bmp (" in images.unreadable[0]
    assert re.search(r"Skipped, cannot be read: \S*broken\.bmp \(.*\)\.\n", caplog.text)
    assert "5 images that can be used, fewer than 6" in caplog.text
    with pytest.raises(DataError, match=r"More than 0 images cannot be read: .*broken\.bmp"):
        CalibrationImages(tmp_path, PROCESSOR, count=6, max_unreadable=0, progress=False)


def test_nothing_to_use(folder, tmp_path):
    for place, words in ((tmp_path / "none", "There is no folder"), (tmp_path, "holds no images")):
        with pytest.raises(DataError, match=words):
            CalibrationImages(place, PROCESSOR, progress=False)
    with pytest.raises(DataError, match="`count`"):
        CalibrationImages(folder, PROCESSOR, count=0, progress=False)
    (tmp_path / "one.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"None of the images .*one\.png"):
        CalibrationImages(tmp_path, PROCESSOR, progress=False)
