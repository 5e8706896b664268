"""Which images are held out: the same ones in whatever order they come, as often as they come."""

import pytest
import torch
from torch.utils.data import DataLoader

import sima_hf
from sima_hf.errors import CalibrationError
from tests.helpers.calibrated_models import bytes_of, calibrated, digits, same_bytes, swapped


class OnceOnly:
    """What a generator behind a class gives: the same one each time it is gone through."""

    def __init__(self, batches):
        self.batches = iter(batches)

    def __iter__(self):
        return self.batches


def test_batches_that_a_generator_gives_once(trained):
    """They are enough where all is stored, none is lost to a first look, and else there is a sentence."""
    images = digits()[0][:128].split(64)
    expected, _ = calibrated(trained, images)
    stored, report = calibrated(trained, OnceOnly(images))
    assert report.images == 128
    assert same_bytes(bytes_of(stored), bytes_of(expected))
    for options in ({"memory_budget": 0}, {"memory_budget": 0, "basis": False}):
        model = swapped(trained)
        before = bytes_of(model)
        with pytest.raises(CalibrationError, match="as if a generator were behind it: give a list or a DataLoader"):
            sima_hf.calibrate(model, trained, OnceOnly(images), progress=False, **options)
        assert same_bytes(bytes_of(model), before)


def test_a_data_loader_that_shuffles(trained):
    images, labels, *_ = digits()
    rows = [{"pixel_values": image, "labels": label} for image, label in zip(images[:128], labels[:128], strict=True)]
    for budget in (0, 10**9):
        loader = DataLoader(rows, batch_size=50, shuffle=True)
        _, report = calibrated(trained, loader, memory_budget=budget)
        assert report.images == 128
        assert all(fit.after < fit.before for fit in report.fits)


def test_the_order_of_images_does_not_matter(trained):
    """Those held out are drawn by content."""
    images = digits()[0][:128]
    first, _ = calibrated(trained, [images])
    second, _ = calibrated(trained, [images.flip(0)])
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_too_few_images(trained):
    model = swapped(trained)
    before = bytes_of(model)
    for batches in ([digits()[0][:1]], [digits()[0][:1]] * 3):
        with pytest.raises(CalibrationError, match=r"at least 2 different images.* got 1"):
            sima_hf.calibrate(model, trained, batches, progress=False)
    assert same_bytes(bytes_of(model), before)
