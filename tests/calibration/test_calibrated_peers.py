"""Calibration of what is not SimA: the operator is asked, whatever it is, as long as it is linear in the values."""

import copy

import pytest
import torch

import sima_hf
from sima_hf.errors import CalibrationError
from sima_hf.peers import PEERS
from tests.helpers.calibrated_models import bytes_of, digits, same_bytes


LINEAR = [name for name, peer in PEERS.items() if peer.drop_in and peer.linear_in_value]


def brought(model, teacher):
    """How far the logits are from the teacher's, on images that no fit has seen."""
    images = digits()[2]
    with torch.no_grad():
        return (model(images).logits - teacher(images).logits).square().mean().item()


@pytest.mark.parametrize("attention", LINEAR)
def test_every_linear_one_comes_nearer_to_its_teacher(trained, attention):
    model = sima_hf.patch_model(copy.deepcopy(trained), attention=attention)
    raw, queries = brought(model, trained), model.vit.layers[0].attention.q_proj.weight.clone()
    report = sima_hf.calibrate(model, trained, digits()[0][:512].split(64), progress=False)
    assert all(fit.after <= fit.before for fit in report.fits)
    assert brought(model, trained) < 0.7 * raw
    assert report.bases == 0, "the basis of queries and keys is SimA's matter"
    assert torch.equal(model.vit.layers[0].attention.q_proj.weight, queries)
    assert sima_hf.certify(model, digits()[0][:2]).in_swapped == ()


def test_value_and_output_are_fitted_together(trained):
    """The joint fit asks the operator what it makes of the value layer's inputs: it explains no less than the output layer's alone."""
    after = {}
    for value in (True, False):
        model = sima_hf.patch_model(copy.deepcopy(trained), attention="inline")
        report = sima_hf.calibrate(model, trained, digits()[0][:512].split(64), value=value, progress=False)
        after[value] = report.fits[0].after
        assert report.fits[0].with_value is value
    assert after[True] < 0.95 * after[False]


def test_one_that_is_not_linear_is_refused(trained):
    model = sima_hf.patch_model(copy.deepcopy(trained), attention="rela")
    before = bytes_of(model)
    batches = digits()[0][:256].split(64)
    with pytest.raises(CalibrationError, match=r"`value` must be False for ReLA attention.*value=False"):
        sima_hf.calibrate(model, trained, batches, progress=False)
    assert same_bytes(before, bytes_of(model))
    raw = brought(model, trained)
    sima_hf.calibrate(model, trained, batches, value=False, progress=False)
    assert brought(model, trained) < raw


@pytest.mark.slow
def test_position_biases_stay_what_they_were():
    """They are added to logits, as under softmax."""
    from tests.helpers.hosts.at_hand import given, make

    teacher = make("swin", "SwinModel")
    model = sima_hf.patch_model(copy.deepcopy(teacher), attention="relu_over_tokens")
    tables = {name: value.clone() for name, value in model.state_dict().items() if "bias_table" in name}
    pixels = given("swin", "SwinModel")["pixel_values"]
    batches = [pixels + 0.3 * torch.randn_like(pixels) for _ in range(20)]
    sima_hf.calibrate(model, teacher, batches, progress=False)
    assert tables
    assert all(torch.equal(model.state_dict()[name], value) for name, value in tables.items())
