"""Identifiers of licences: a slip is refused with what may be meant, one of the Hub's list is taken, a new one is passed on."""

import pytest
from card_models import native
from hub_cards import LICENSES
from huggingface_hub import ModelCard

from sima_hf.errors import PublishError
from sima_hf.hub.cards.card import model_card
from sima_hf.hub.cards.facts import CardFacts
from sima_hf.hub.cards.licences import LICENCES, meant_licences


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return native(tmp_path_factory.mktemp("native") / "folder")


def test_what_the_hub_takes_is_taken(one):
    assert LICENCES >= LICENSES  # those of the loopback Hub
    assert not any(map(meant_licences, LICENCES))
    for name in ("other", "openrail++", "Apache-2.0"):
        assert ModelCard(model_card(one, None, CardFacts(license=name))).data.license == name.lower()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("apachee", "apache-2.0"),
        ("apache2", "apache-2.0"),
        ("gpl3", "gpl or lgpl or gpl-3.0"),
        ("mitt", "mit"),
        ("cc-by-4", "cc-by-4.0"),
    ],
)
def test_a_slip_is_refused_with_what_may_be_meant(name, meant, one):
    with pytest.raises(
        PublishError, match=f"has no licence '{name}'; {meant} (or .*)?may be meant.*`license: {name}`"
    ):
        model_card(one, None, CardFacts(license=name))
    assert f"license: {name}" in model_card(one, None, CardFacts(), f"---\nlicense: {name}\n---\n")


def test_one_that_is_like_none_is_passed_on(one):
    assert meant_licences("xyzzy-1.0") == []
    assert "license: xyzzy-1.0" in model_card(one, None, CardFacts(license="xyzzy-1.0"))
