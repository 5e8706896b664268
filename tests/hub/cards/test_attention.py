"""What a card says is SimA is so by count."""

import dataclasses

import pytest

import sima_hf
from sima_hf.hub.cards.attention import attention_values, softmax_in_sima
from sima_hf.patching.certificate import Certificate, Operation
from tests.helpers.hosts.at_hand import make
from tests.helpers.hub.card_models import checked, clip, vit


def ran(one, *operations):
    return dataclasses.replace(one, certificate=Certificate("SimAViT", operations, ("vit",)))


SOFTMAX = Operation("decoder.x", "Attention", "aten::_softmax", 3)


def test_all_of_a_native_and_of_a_swapped_model(one, swapped):
    values = attention_values(one)
    assert (values["native"], values["swapped"], values["whole"]) == ({"": "tokens"}, (), True)
    values = attention_values(swapped)
    assert (values["native"], len(values["swapped"]), values["whole"]) == ({}, 1, True)
    assert not values["outside"]


def test_a_model_is_whole_only_by_the_count(swapped):
    values = attention_values(ran(swapped, SOFTMAX, dataclasses.replace(SOFTMAX, path="decoder.y")))
    assert not values["whole"]
    assert [[operation.path for operation in group] for group in values["outside"]] == [["decoder.x", "decoder.y"]]
    within = tuple(dataclasses.replace(part, within="encoder") for part in swapped.description.swapped)
    description = dataclasses.replace(swapped.description, swapped=within)
    assert not attention_values(dataclasses.replace(swapped, description=description))["whole"]


@pytest.mark.slow
def test_a_decoder_that_keeps_softmax(tmp_path):
    """DETR's swap is within its encoder, and its decoder is plain modules, of which no list of parts tells."""
    one = checked(tmp_path, sima_hf.patch_model(make("detr", "DetrForObjectDetection")))
    assert not attention_values(one)["whole"]
    assert not softmax_in_sima(one)


def test_softmax_where_sima_should_be(tmp_path, swapped):
    assert sum(operation.count for operation in softmax_in_sima(checked(tmp_path, vit()))) == 2
    inside = dataclasses.replace(SOFTMAX, path="vit.x", swapped=True)
    assert softmax_in_sima(ran(swapped, SOFTMAX, inside)) == [inside]
    assert not softmax_in_sima(ran(swapped, dataclasses.replace(inside, allowed="in a norm")))
    assert not softmax_in_sima(clip(tmp_path))
