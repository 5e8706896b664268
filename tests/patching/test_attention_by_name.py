"""`attn_implementation="sima"` on a softmax model of Transformers: SimA or an error where sima_hf has a say."""

import copy

import pytest

import sima_hf
from sima_hf.errors import UnsupportedModelError
from sima_hf.patching.hosts import HOSTS
from tests.helpers.hosts.at_hand import MODELS, given, make, type_of


OWN_CODE = {
    type_of(case): name
    for case, name in reversed(MODELS)
    if case == type_of(case) and getattr(HOSTS.get(case), "reached", "") == "own code"
}
# These look their attention class up by the name of the implementation, in tables where SimA's names are entered.
TABLES = {host: name for host, name in OWN_CODE.items() if HOSTS[host].class_table}
# All others never look at the name: Transformers accepts whatever is registered, and nothing of sima_hf runs.
DEAF = {host: name for host, name in OWN_CODE.items() if host not in TABLES}


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


@pytest.mark.slow
@pytest.mark.parametrize("host", DEAF)
def test_where_transformers_ignores_the_name_the_certificate_says_so(host):
    """Why the documentation says to call patch_model: no hook of Transformers is asked. `describe` claims no SimA there.

    A failure here is good news: the host listens to the name, or Transformers refuses it.
    """
    sima_hf.patch_model(make("vit", "ViTModel"))  # enters the names
    model = by_name(host, DEAF[host], "sima")
    assert not sima_hf.certify(model, given(host, DEAF[host])).softmax_free
    assert not sima_hf.patching.describe(model).swapped
    sima_hf.patch_model(model, verify=given(host, DEAF[host]))
