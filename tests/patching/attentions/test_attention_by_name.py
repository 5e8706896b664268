"""`attn_implementation="sima"` on a softmax model of Transformers: SimA or an error where sima_hf has a say."""

import copy

import pytest

import sima_hf
from sima_hf.errors import UnsupportedModelError
from sima_hf.patching.hosts import HOSTS
from tests.helpers.hosts.at_hand import MODELS, given, make


# These look their attention class up by the name of the implementation, in tables where SimA's names are entered.
TABLES = {case: name for case, name in reversed(MODELS) if case in HOSTS and HOSTS[case].class_table}


def by_name(case, name, implementation):
    config = copy.deepcopy(make(case, name).config)
    return type(make(case, name))._from_config(config, attn_implementation=implementation).eval()


@pytest.mark.parametrize("implementation", ["sima", "sima_eager"])
@pytest.mark.parametrize("host", TABLES)
def test_a_table_of_classes_never_gives_softmax_for_simas_names(host, implementation, tmp_path):
    """The names are entered in the table with the first swap; a softmax config that asks for them is refused."""
    swapped = sima_hf.patch_model(make(host, TABLES[host]), verify=given(host, ""))
    with pytest.raises(UnsupportedModelError, match=r"does not reach .*sima_hf.patch_model"):
        by_name(host, TABLES[host], implementation)
    softmax = make(host, TABLES[host])
    softmax.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="does not reach"):
        type(softmax).from_pretrained(tmp_path, attn_implementation=implementation)
    swapped.save_pretrained(tmp_path / "sima")
    again = type(swapped).from_pretrained(tmp_path / "sima", attn_implementation=implementation)
    assert not sima_hf.certify(again, given(host, "")).in_swapped


def test_a_parent_of_a_tower_with_a_table_is_refused_as_well():
    sima_hf.patch_model(make("sam", "SamModel"))
    with pytest.raises(UnsupportedModelError, match="does not reach SamVisionAttention"):
        by_name("sam", "SamModel", "sima")


def test_where_transformers_ignores_the_name_the_certificate_says_so():
    """All others never look at it: no hook of Transformers is asked, and softmax runs. `describe` claims no SimA there."""
    sima_hf.patch_model(make("vit", "ViTModel"))  # enters the names
    model, inputs = by_name("pvt", "PvtModel", "sima"), given("pvt", "PvtModel")
    assert not sima_hf.certify(model, inputs).softmax_free
    assert not sima_hf.patching.describe(model).swapped
    sima_hf.patch_model(model, verify=inputs)
