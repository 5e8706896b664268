"""What the report says: figures against both models run anew, and when it advises."""

import pytest
import torch
from torch import nn

from sima_hf.calibration.report import CalibrationReport, EndResult, LayerFit
from tests.helpers.calibrated_models import (
    calibrated,
    digits,
    held_out,
)


def test_the_report_is_a_table(trained):
    _, report = calibrated(trained)
    lines = str(report).splitlines()
    assert lines[0].startswith("Calibrated from 512 images, 51 of them held out, ")
    assert report.held_out == 51
    for line, fit in zip(lines[3:], report.fits, strict=False):
        layer, *numbers = line.split()[:4]
        assert (layer, *map(float, numbers)) == (
            fit.layer,
            *(round(share, 4) for share in (fit.before, fit.after, fit.in_sample)),
        )
    assert len(lines) >= 4 + len(report.fits)


def test_the_end_is_measured_on_held_out_images(trained):
    """Cosine and agreement against both models run anew."""
    images = digits()[0][:512]
    model, report = calibrated(trained)
    held = images[held_out(images)]
    with torch.no_grad():
        own, goal = (net(held, output_hidden_states=True) for net in (model, trained))
    agreement = (own.logits.argmax(-1) == goal.logits.argmax(-1)).double().mean().item()
    assert report.end.agreement == pytest.approx(agreement, rel=1e-6)
    streams = [nn.functional.layer_norm(net.hidden_states[-1], (32,)) for net in (own, goal)]
    for found, tokens in ((report.end.class_cosine, slice(1)), (report.end.cosine, slice(1, None))):
        one, two = (stream[:, tokens] - streams[1][:, tokens].mean(dim=(0, 1)) for stream in streams)
        assert found == pytest.approx(nn.functional.cosine_similarity(one, two, dim=-1).mean().item(), abs=1e-4)


def test_it_says_when_the_result_does_not_hold(trained):
    """Fitted to eight images it cannot; a good one has nothing to say."""
    _, report = calibrated(trained, digits()[0][:16].split(8))
    assert report.held_out == 8
    assert "images" in report.advice
    assert report.advice in str(report)
    fits = (LayerFit("a", 0.9, 0.30, 0.10),)
    assert "distil" in CalibrationReport(fits, {}, 512, 0, 0, 51, EndResult(0.99)).advice
    fits = (LayerFit("a", 0.9, 0.04, 0.03),)
    assert "80.0%" in CalibrationReport(fits, {}, 512, 0, 0, 51, EndResult(0.99, None, 0.8)).advice
    assert "0.70" in CalibrationReport(fits, {}, 512, 0, 0, 51, EndResult(0.95, 0.7)).advice
    assert CalibrationReport(fits, {}, 512, 0, 0, 51, EndResult(0.99, 0.99, 0.99)).advice is None
