"""Models made of several: the tower alone is swapped, said, saved, and cannot come back as softmax."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForObjectDetection
from transformers.utils import logging

import sima_hf
from sima_hf.errors import UnsupportedModelError
from sima_hf.patching import describe
from tests.helpers.fresh_process import fresh
from tests.helpers.hosts.at_hand import given, make, tensors


LLAVA = "llava", "LlavaForConditionalGeneration"
CLIP = "clip", "CLIPModel"


@torch.no_grad()
def run(model, case):
    return tensors(model(**given(*case)))


def test_clip_keeps_its_text_side(tmp_path):
    model = make(*CLIP)
    text = {key: value.clone() for key, value in model.text_model.state_dict().items()}
    expected = model.text_model(input_ids=given(*CLIP)["input_ids"]).last_hidden_state
    text_class, text_config = type(model.text_model), model.config.text_config.to_dict()
    sima_hf.patch_model(model)
    assert type(model).__name__ == "SimACLIPModel"
    assert type(model.vision_model).__name__ == "SimACLIPVisionModel"
    assert type(model.text_model) is text_class
    assert model.config.text_config.to_dict() == text_config
    assert model.text_model.config is model.config.text_config
    assert torch.equal(model.text_model(input_ids=given(*CLIP)["input_ids"]).last_hidden_state, expected)
    assert all(torch.equal(model.text_model.state_dict()[key], value) for key, value in text.items())
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "sima_clip"
    assert saved["vision_config"]["model_type"] == "sima_clip_vision_model"
    assert saved["text_config"]["model_type"] == "clip_text_model"
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "SimACLIPModel"
    assert loaded.config.text_config._attn_implementation == "sdpa"
    assert loaded.config.vision_config._attn_implementation == "sima"


def test_llava_keeps_its_class_and_its_tower_has_its_type(tmp_path):
    model = make(*LLAVA)
    cls = type(model)
    sima_hf.patch_model(model)
    assert type(model) is cls
    assert model.config.model_type == "llava"
    assert model.config.vision_config is model.model.vision_tower.config
    expected = run(model, LLAVA)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["model_type"], saved["vision_config"]["model_type"]) == ("llava", "sima_clip_vision_model")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert type(loaded) is cls
    assert type(loaded.model.vision_tower).__name__ == "SimACLIPVisionModel"
    assert loaded.config.text_config._attn_implementation == "sdpa"
    assert all(torch.equal(one, two) for one, two in zip(expected, run(loaded, LLAVA), strict=True))


@pytest.mark.parametrize("case", [LLAVA, CLIP], ids=["llava", "clip"])
def test_the_rest_of_a_larger_model_can_choose_its_attention(case, tmp_path):
    model = sima_hf.patch_model(make(*case))
    model.set_attn_implementation({"text_config": "eager"})
    assert model.config.text_config._attn_implementation == "eager"
    assert {part.backend for part in describe(model).swapped} == {"auto"}
    assert sima_hf.certify(model, given(*case)).in_swapped == ()
    with pytest.raises(ValueError, match="turn it back to softmax"):
        model.set_attn_implementation({"vision_config": "eager"})
    model.set_attn_implementation({"vision_config": "sima_reference"})
    assert {part.backend for part in describe(model).swapped} == {"reference"}
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, attn_implementation={"text_config": "eager"})
    assert again.config.text_config._attn_implementation == "eager"
    with pytest.raises(ValueError, match=r"turn it back to softmax.*'text_config': 'sdpa'"):
        type(model).from_pretrained(tmp_path, attn_implementation="eager")


def test_what_is_left_is_said(caplog):
    logger = logging.get_logger("sima_hf")
    logger.propagate = True
    logging.enable_propagation()
    try:
        with caplog.at_level("WARNING"):
            model = sima_hf.patch_model(make(*LLAVA))
    finally:
        logging.disable_propagation()
    assert "left as it is: model.language_model (LlamaModel)" in caplog.text
    text = str(describe(model))
    assert "SimA in model.vision_tower: clip_vision_model, 2 attentions, backend auto, gain 'tokens'" in text


def test_a_description_without_anything():
    assert str(describe(make("vit", "ViTModel"))) == "ViTModel: no SimA attention"
    text = str(describe(sima_hf.patch_model(make("swin", "SwinModel"))))
    assert "position bias added to the product of query and key" in text


FOLDERS = [
    LLAVA,
    CLIP,
    ("upernet", "UperNetForSemanticSegmentation"),
    ("detr", "DetrForObjectDetection"),
    ("vit", "ViTForImageClassification"),
    ("cvt", "CvtForImageClassification"),
    ("sam", "SamModel"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A saved folder of each, and what a process without sima_hf, and one with it, says to the host's own classes."""
    root = tmp_path_factory.mktemp("saved")
    for case in FOLDERS:
        sima_hf.patch_model(make(*case)).save_pretrained(root / case[0])
    code = f"""
import json, sys, transformers
said = {{}}
for kind, name in {FOLDERS!r}:
    for cls in ("AutoModel", name):
        try:
            getattr(transformers, cls).from_pretrained({str(root)!r} + "/" + kind)
            said[kind + " " + cls] = "loaded"
        except Exception as error:
            said[kind + " " + cls] = str(error)
print(json.dumps(said))
"""
    answers = {}
    for before in ("", "import sima_hf"):
        found = fresh(f"{before}\n{code}")
        answers[before] = json.loads(found.stdout.splitlines()[-1]) if found.returncode == 0 else found.stderr
    return answers


@pytest.mark.parametrize("case", FOLDERS, ids=[case[0] for case in FOLDERS])
def test_without_sima_hf_it_fails_by_name(case, folders):
    said = folders[""]
    assert "sima_" in said[f"{case[0]} AutoModel"]
    assert "sima_" in said[f"{case[0]} {case[1]}"]


@pytest.mark.parametrize("case", FOLDERS, ids=[case[0] for case in FOLDERS])
def test_the_hosts_own_class_does_not_load_it_as_softmax(case, folders):
    said = folders["import sima_hf"]
    if case[0] != "upernet":  # AutoModel has no UperNet
        assert said[f"{case[0]} AutoModel"] == "loaded"
    if case[0] in ("llava", "upernet"):  # these keep their class, and their towers their type
        assert said[f"{case[0]} {case[1]}"] == "loaded"
    else:
        assert "needs_sima_hf" in said[f"{case[0]} {case[1]}"]


def test_detr_swaps_the_encoder_alone(tmp_path):
    case = ("detr", "DetrForObjectDetection")
    model = make(*case)
    model.set_attn_implementation("eager")
    decoder = [type(module) for module in model.model.decoder.modules()]
    sima_hf.patch_model(model)
    assert [type(module).__name__.removeprefix("SimA") for module in model.model.decoder.modules()] == [
        one.__name__ for one in decoder
    ]
    assert model.config._attn_implementation == "eager"
    assert model.model.encoder.layers[0].self_attn.config._attn_implementation == "sima"
    assert model.model.decoder.layers[0].self_attn.config._attn_implementation == "eager"
    model.set_attn_implementation("sima_reference")
    assert model.model.encoder.layers[0].self_attn.config._attn_implementation == "sima_reference"
    assert model.model.decoder.layers[0].self_attn.config._attn_implementation == "eager"
    model.save_pretrained(tmp_path)
    assert "_sima_implementation" not in json.loads((tmp_path / "config.json").read_text())
    loaded = AutoModelForObjectDetection.from_pretrained(tmp_path, attn_implementation="sima_eager")
    assert loaded.model.encoder.layers[0].self_attn.config._attn_implementation == "sima_eager"
    assert loaded.model.decoder.layers[0].self_attn.config._attn_implementation == "sdpa"


def test_a_parent_that_would_build_softmax_again_is_refused():
    """A model outside the table whose config makes its tower from a fixed class."""
    from transformers import Idefics2Config, Idefics2Model

    config = Idefics2Config(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 8,
        },
        text_config={
            "model_type": "mistral",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": 30,
            "pad_token_id": 0,
        },
        perceiver_config={
            "hidden_size": 16,
            "resampler_n_latents": 2,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 8,
            "num_key_value_heads": 2,
        },
        image_token_id=3,
    )
    model = Idefics2Model(config)
    classes = [type(module) for module in model.modules()]
    with pytest.raises(
        UnsupportedModelError, match=r"holds a 'idefics2_vision' model.*Patch the inner model and save"
    ):
        sima_hf.patch_model(model)
    assert [type(module) for module in model.modules()] == classes


def test_two_models_that_share_a_config_side_by_side():
    one = make(*LLAVA)
    two = type(one)(one.config).eval()
    expected = run(two, LLAVA)
    sima_hf.patch_model(one)
    assert all(torch.equal(a, b) for a, b in zip(expected, run(two, LLAVA), strict=True))
    assert two.config.vision_config.model_type == "clip_vision_model"
    assert AutoConfig.for_model("clip_vision_model").model_type == "clip_vision_model"
