"""Devices are checked by name, with what there is in their place."""

import pytest
import torch

from sima_hf.machine.devices import best_device, check_device


DEVICES = [
    ("foo", "is not the name of a device"),
    ("meta", "computes nothing"),
    ("cuda:99", "needs a torch that was built for CUDA|names a device that is not there|cannot be used here"),
    *([] if torch.cuda.is_available() else [("cuda", "--device cuda (needs|cannot be used here)")]),
    *([] if torch.backends.mps.is_available() else [("mps", r"--device mps cannot be used here \(")]),
]


@pytest.mark.parametrize(("device", "words"), DEVICES, ids=[name for name, _ in DEVICES])
def test_a_device_that_is_not_there_is_refused(device, words):
    with pytest.raises(ValueError, match=words) as error:
        check_device(device)
    assert "Here there is cpu" in str(error.value)


def test_the_best_device_can_be_used():
    for device in (best_device(), "cpu", None):
        check_device(device)
    assert best_device() == "cpu" or torch.accelerator.is_available()
