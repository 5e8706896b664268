"""What a swap may bring besides SimA: what is refused, before anything is changed, and how configs and folders keep it."""

import copy
import json
import shutil

import pytest
import torch
from transformers import AutoModelForImageClassification, CLIPVisionModel

import sima_hf
from sima_hf.errors import UnsupportedModelError
from sima_hf.patching import describe
from sima_hf.patching.attentions.mechanisms import check_attention, declared, linear_in_value, title_of
from sima_hf.peers import PEERS
from tests.helpers.hosts.at_hand import given, logits, make, vit


DROP_INS = [name for name, peer in PEERS.items() if peer.drop_in]


def same(one, two):
    return torch.equal(logits(one), logits(two))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"attention": "inlin"},
            r"`attention` must be 'sima' or one of 'inline'.*got 'inlin'\. Did you mean 'inline'",
        ),
        ({"attention": "softmax"}, "got 'softmax'"),
        ({"attention": "soft"}, "got 'soft': SOFT is a module of its own. There are 'sima', 'inline'"),
        ({"attention": "inline", "gain": "none"}, "`gain` is an option of SimA alone, got 'none'"),
        ({"attention": "inline", "gain": "all"}, "`gain` must be one of"),
        ({"attention": "inline", "backend": "eager"}, "`backend` is an option of SimA alone, got 'eager'"),
    ],
)
def test_wrong_options_leave_the_model_untouched(options, words):
    model = vit()
    cls, config = type(model), model.config
    with pytest.raises(ValueError, match=words):
        sima_hf.patch_model(model, **options)
    assert (type(model), model.config) == (cls, config)
    assert same(model, vit())


@pytest.mark.parametrize(
    ("attention", "case", "name", "words"),
    [
        ("inline", "swin", "SwinModel", "'swin' attention in this .*SwinModel: its position bias is added to logits"),
        ("hydra", "upernet", "UperNetForSemanticSegmentation", "'swin' attention"),
        ("sigmoid", "swinv2", "Swinv2Model", "its own scale"),
        ("rela", "swin2sr", "Swin2SRModel", "its own scale"),
        ("efficient", "pixtral", "PixtralVisionModel", "mask of queries and keys"),
    ],
)
def test_hosts_for_which_one_is_not_offered(attention, case, name, words):
    model = make(case, name)
    classes, config = {module: type(module) for module in model.modules()}, model.config
    with pytest.raises(UnsupportedModelError, match=words):
        sima_hf.patch_model(model, attention=attention)
    assert {module: type(module) for module in model.modules()} == classes
    assert model.config is config
    sima_hf.patch_model(model)
    before = dict(vars(model.config))
    with pytest.raises(UnsupportedModelError, match=words):
        sima_hf.patch_model(model, attention=attention)
    assert vars(model.config) == before


def test_the_sentence_names_what_is_offered():
    with pytest.raises(UnsupportedModelError, match="Offered there: 'sima', 'relu_over_tokens', 'power_softmax'"):
        sima_hf.patch_model(make("swin", "SwinModel"), attention="mala")
    with pytest.raises(UnsupportedModelError, match=r"Offered there: 'sima'\.$"):
        sima_hf.patch_model(make("swinv2", "Swinv2Model"), attention="mala")


def test_a_model_that_is_sima_takes_another_and_comes_back():
    softmax, model = vit(), sima_hf.patch_model(vit(), gain="none")
    sima, config, cls = logits(model), model.config, type(model)
    with sima_hf.patched(model, attention="inline"):
        assert describe(model).swapped[0].mechanism == "inline"
        assert not torch.equal(logits(model), sima)
    assert torch.equal(logits(model), sima)
    assert config.attention_gain == "none"
    sima_hf.patch_model(model, attention="mala")
    assert (type(model), model.config) == (cls, config)
    assert (config.attention_mechanism, config._attn_implementation) == ("mala", "mala")
    assert same(model, sima_hf.patch_model(vit(), attention="mala"))
    sima_hf.unpatch_model(model)
    assert same(model, softmax)
    assert "attention_mechanism" not in model.config.to_dict()


def test_what_a_config_says_is_what_runs():
    model = sima_hf.patch_model(vit(), attention="inline")
    for name, words in {
        "sima": "another attention",
        "sima_eager": "another attention",
        "elu": "another attention",
    }.items():
        with pytest.raises(ValueError, match=f"computes InLine core attention; .*{words}"):
            model.set_attn_implementation(name)
    for place in (model.set_attn_implementation, lambda name: setattr(model.config, "_attn_implementation", name)):
        with pytest.raises(ValueError, match=r"turn it back to softmax\. Leave it out"):
            place("sdpa")
    model.set_attn_implementation("inline")
    sima = sima_hf.patch_model(vit())
    with pytest.raises(ValueError, match=r"computes SimA attention.*another attention.*patch_model\(model, attention"):
        sima.set_attn_implementation("inline")
    sima.config.attention_mechanism = "inline"  # what runs is not what it would say
    with pytest.raises(ValueError, match="`attn_implementation='sima'` would make it another attention"):
        logits(sima)


def test_a_config_with_a_mechanism_that_there_is_not():
    config = type(sima_hf.patch_model(vit()).config)
    assert config(attention_mechanism="elu")._attn_implementation == "elu"
    for options, words in (
        ({"attention_mechanism": "elo"}, "got 'elo'"),
        ({"attention_mechanism": "soft"}, "SOFT is a"),
    ):
        with pytest.raises(ValueError, match=words):
            config(**options)
    with pytest.raises(ValueError, match="`gain` is an option of SimA alone"):
        config(attention_mechanism="elu", attention_gain="none")
    with pytest.raises(ValueError, match="got 3"):
        config(attention_mechanism=3)


def test_folders(tmp_path):
    """The mechanism is written always; a folder from before it was is SimA; another one cannot be asked for in loading."""
    for name in ("sima", "inline"):
        sima_hf.patch_model(vit(), attention=name).save_pretrained(tmp_path / name)
        content = json.loads((tmp_path / name / "config.json").read_text())
        assert (content["model_type"], content["attention_mechanism"]) == ("sima_vit", name)
        assert content["attn_implementation"] == "needs_sima_hf"
    load = AutoModelForImageClassification.from_pretrained
    assert same(load(tmp_path / "inline").eval(), sima_hf.patch_model(vit(), attention="inline"))
    assert same(load(tmp_path / "inline", attn_implementation="inline").eval(), load(tmp_path / "inline").eval())
    with pytest.raises(ValueError, match="would make it another attention"):
        load(tmp_path / "inline", attn_implementation="sima")
    shutil.copytree(tmp_path / "sima", tmp_path / "older")
    content = json.loads((tmp_path / "sima" / "config.json").read_text())
    del content["attention_mechanism"]
    (tmp_path / "older" / "config.json").write_text(json.dumps(content))
    older = load(tmp_path / "older").eval()
    assert (older.config.attention_mechanism, older.config._attn_implementation) == ("sima", "sima")
    assert same(older, load(tmp_path / "sima").eval())


def test_parts_that_compute_something_else_than_the_config_would_say(tmp_path):
    model = make("llava", "LlavaForConditionalGeneration")
    model.model.vision_tower = CLIPVisionModel(copy.deepcopy(model.config.vision_config)).eval()
    sima_hf.patch_model(model)
    sima_hf.patch_model(model.model.vision_tower, attention="elu")
    with pytest.raises(ValueError, match=r"attention_mechanism 'elu', .*patch_model\(model, attention='elu'\)"):
        model.save_pretrained(tmp_path)
    sima_hf.patch_model(model, attention="elu")
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["vision_config"]["attention_mechanism"] == "elu"


def test_the_encoder_alone_keeps_the_rest(tmp_path):
    """Of DETR a part is swapped, whose config is not the whole's; the decoder keeps the host's choice."""
    model = sima_hf.patch_model(make("detr", "DetrModel"), attention="inline")
    assert (model.config._attn_implementation, model.config._sima_implementation) == ("sdpa", "inline")
    assert model.encoder.layers[0].self_attn.config._attn_implementation == "inline"
    assert model.decoder.layers[0].self_attn.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("attention", DROP_INS)
def test_maps_or_a_sentence(attention):
    """Attending to the identity gives maps where the output is linear in the values and its weights are a matrix."""
    model, inputs = sima_hf.patch_model(vit(), attention=attention), given("vit", "")
    if not (PEERS[attention].linear_in_value and PEERS[attention].has_map):
        with pytest.raises(ValueError, match="`output_attentions` must be False with"):
            model(**inputs, output_attentions=True)
        return
    with torch.no_grad():
        found = model(**inputs, output_attentions=True)
    assert [tuple(one.shape) for one in found.attentions] == [(2, 4, 17, 17)] * 2
    assert torch.allclose(found.logits, logits(model), atol=1e-5)


def test_certificates_say_what_remains():
    inputs = given("vit", "")
    for name in DROP_INS:
        report = sima_hf.certify(sima_hf.patch_model(vit(), attention=name), inputs)
        assert report.remaining == PEERS[name].remaining == declared(name)
        assert report.in_swapped == ()
        assert report.softmax_free is ("softmax" not in report.remaining)
    report = sima_hf.certify(sima_hf.patch_model(vit(), attention="efficient"), inputs)
    assert report.count == 4
    assert {one.allowed for one in report.operations} == {"efficient attention computes with it"}
    assert "4 operations of softmax" in str(report)
    assert "softmax by design of the attention that was swapped in" in str(report)
    assert report.to_dict()["remaining"] == ["softmax"]
    assert report.to_dict()["softmax_free"] is False


def test_only_its_own_softmax_is_by_design():
    """Beside the attention, and in another mechanism's, softmax is softmax."""
    model = sima_hf.patch_model(vit(), attention="efficient")
    model.vit.layers[0].mlp.activation_fn = torch.nn.Softmax(dim=-1)
    assert sima_hf.certify(model, given("vit", "")).in_swapped
    model = sima_hf.patch_model(vit(), attention="sigmoid")
    model.vit.layers[0].attention.o_proj = torch.nn.Sequential(
        model.vit.layers[0].attention.o_proj, torch.nn.Softmax(-1)
    )
    (wrong,) = sima_hf.certify(model, given("vit", "")).in_swapped
    assert "softmax" in wrong.operation


def test_names_and_properties():
    assert (title_of("sima"), declared("sima"), linear_in_value("sima")) == ("SimA", (), True)
    assert (title_of("inline"), linear_in_value("rela")) == ("InLine core", False)
    check_attention("inline")
