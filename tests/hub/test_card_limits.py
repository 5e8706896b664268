"""The section on intended use and limits: what the files say, and what they do not."""

import dataclasses

import pytest

import sima_hf
from sima_hf.hub.cards.card import model_card
from sima_hf.hub.cards.facts import CardFacts
from tests.helpers.hub.card_models import checked, clip, vit, write


def limits(one, **facts):
    return (
        model_card(one, "org/x", CardFacts(**facts))
        .partition("## Intended use and limits\n\n")[2]
        .partition("\n\n")[0]
    )


@pytest.fixture(scope="module")
def swapped(tmp_path_factory):
    return checked(tmp_path_factory.mktemp("swapped"), sima_hf.patch_model(vit()))


def test_what_is_not_known(swapped, tmp_path):
    text = limits(swapped, base_model="org/base", results=write(tmp_path / "all_results.json", {"train_loss": 1.0}))
    assert "- The training data is not recorded here; see the model that it was made from.\n" in text
    assert "- How good its answers are is not recorded.\n" in text
    assert "the cost of the swap is unknown" in text
    assert "[" not in text


def test_names_of_classes(swapped, tmp_path):
    text = limits(clip(tmp_path))
    assert "classes" not in text
    assert "- Takes images of 32 x 32 px (config.json)." in text
    config = swapped.model.config
    before = config.id2label
    try:
        config.id2label = {0: "a | b", 1: "<c>"}
        assert "into 2 classes: a \\| b, &lt;c>; there" in limits(dataclasses.replace(swapped))
        config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
        assert "into 2 classes without names; there" in limits(swapped)
    finally:
        config.id2label = before
