"""The section on intended use and limits: what the files say, and what they do not."""

from pathlib import Path

import pytest
import torch
from card_models import clip, vit

import sima_hf
from sima_hf.hub.cards.limits import limits_section
from sima_hf.hub.cards.results import Measured


FILE = Path("evaluation.json")


@pytest.fixture(scope="module")
def model():
    return sima_hf.patch_model(vit())


def test_what_is_known(model):
    text = limits_section(
        model, ("photos, train", Path("sima_provenance.json")), "", False, [Measured(FILE, "evaluation", {"loss": 1})]
    )
    for words in (
        "It is for sorting images of 32 x 32 px into 10 classes: digit 0, digit 1, digit 2 and 7 more; every image gets one of "
        "them (config.json).",
        "It was trained on photos, train ([sima_provenance.json](sima_provenance.json)).",
        "on no others that a file here tells of: [evaluation.json](evaluation.json).",
        "maps of it are no probabilities.",
    ):
        assert f"{words}" in text
    assert "softmax model" not in text


def test_what_is_not_known(model):
    text = limits_section(model, ("", None), "org/base", True, [Measured(FILE, "training", {}, training={"step": 1})])
    assert "No file here says what it was trained on; see the model that it was made from." in text
    assert "No file here says how good its answers are." in text
    assert "what the swap cost is not known" in text
    assert "[" not in text


def test_names_of_classes(model, tmp_path):
    text = limits_section(clip(tmp_path).model, ("", None), "", True, [])
    assert "classes" not in text
    assert "It is for images of 32 x 32 px (config.json)." in text
    config = model.config.__class__(**{**model.config.to_dict(), "id2label": {0: "a | b", 1: "<c>"}})
    with torch.device("meta"):
        two = type(model)(config)
    assert "into 2 classes: a \\| b, &lt;c>; every" in limits_section(two, ("", None), "", True, [])
    config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    assert "into 2 classes without names; every" in limits_section(two, ("", None), "", True, [])
