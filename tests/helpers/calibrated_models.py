"""What the tests of calibration share: real digits, tiny hosts, and whether two models are the same to the bit."""

import copy

import torch
from sklearn.datasets import load_digits

import sima_hf
from sima_hf.calibration.held_out import HeldOut
from tests.helpers.hosts.at_hand import MODELS, make


def digits():
    """Images `(B, 1, 8, 8)` in -1..1 and labels: 1,297 to learn from, 500 to be asked about."""
    bunch = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    images = torch.tensor(bunch.images, dtype=torch.float32)[order, None] / 8 - 1
    labels = torch.tensor(bunch.target)[order]
    return images[:1297], labels[:1297], images[1297:], labels[1297:]


def vit(**changes):
    return make("vit", "ViTForImageClassification", **changes)


IMAGES = [torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))]


def swapped(model):
    return sima_hf.patch_model(copy.deepcopy(model))


def calibrated(teacher, batches=None, **options):
    model = swapped(teacher)
    batches = digits()[0][:512].split(64) if batches is None else batches
    return model, sima_hf.calibrate(model, teacher, batches, progress=False, **options)


def held_out(images, share=0.1):
    """Which of images `(B, ...)` calibration keeps from its fits, `(B,)`."""
    drawn = HeldOut(share)
    drawn.note({"pixel_values": images})
    drawn.choose()
    return drawn.mask({"pixel_values": images})


def bytes_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_bytes(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# One case of each host, as tests/helpers/hosts/at_hand.py has them.
HOSTS = dict(reversed(MODELS))


def share_off(model, teacher, name, inputs):
    """Share of the variance of what the module `name` returns in the teacher that it does not return in the model, in float64."""
    seen = []
    for net in (model, teacher):
        net = copy.deepcopy(net).double().eval()
        net.get_submodule(name).register_forward_hook(lambda _, args, output: seen.append(output))
        with torch.no_grad():
            net(**{key: value.double() for key, value in inputs.items()})
    own, wanted = ((one[0] if isinstance(one, tuple) else one).flatten(0, -2) for one in seen)
    return ((wanted - own).square().sum() / (wanted - wanted.mean(dim=0)).square().sum()).item()
