"""A saved folder comes back as the model ran, or is not saved: parts that were patched alone, towers put in by hand, gains."""

import copy
import json

import pytest
import torch
from transformers import AutoModelForImageTextToText, CLIPVisionModel, Trainer, TrainingArguments
from transformers.utils import logging

import sima_hf
from sima_hf.patching import saving
from tests.helpers.hosts.at_hand import given, logits, make, tensors, vit


LLAVA = "llava", "LlavaForConditionalGeneration"


@torch.no_grad()
def run(model, case):
    return tensors(model(**given(*case)))


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.fixture
def said(caplog):
    """What is logged; a sentence is said once a process, so that the memory of it is cleared."""
    logging.warning_once.cache_clear()
    logging.get_logger("sima_hf").propagate = True
    logging.enable_propagation()
    yield caplog
    logging.disable_propagation()


PARTS = [
    ("vit", "ViTForImageClassification", "vit"),
    ("vit_mae", "ViTMAEForPreTraining", "vit"),
    ("clip", "CLIPModel", "vision_model"),
    ("llava", "LlavaForConditionalGeneration", "model.vision_tower"),
    ("upernet", "UperNetForSemanticSegmentation", "backbone"),
    ("detr", "DetrForObjectDetection", "model"),
    ("swin", "SwinForImageClassification", "swin"),
]


@pytest.mark.parametrize(("case", "name", "path"), PARTS, ids=[f"{name}-{path}" for _, name, path in PARTS])
def test_a_part_patched_and_the_whole_saved(case, name, path, tmp_path):
    model = make(case, name)
    part = sima_hf.patch_model(model.get_submodule(path))
    with pytest.raises(
        ValueError, match=rf"^'{path}\S*' in this {name} computes SimA.*Swap the whole with sima_hf.patch"
    ):
        model.save_pretrained(tmp_path / "whole")
    assert not list((tmp_path / "whole").glob("*.safetensors"))
    part.save_pretrained(tmp_path / "part")
    assert json.loads((tmp_path / "part" / "config.json").read_text())["model_type"].startswith("sima_")
    sima_hf.patch_model(model, gain="none")
    model.save_pretrained(tmp_path / "whole")
    again = type(model).from_pretrained(tmp_path / "whole").eval()
    torch.manual_seed(2)  # for the tokens that MAE drops
    expected = run(model, (case, name))
    torch.manual_seed(2)
    assert same(run(again, (case, name)), expected)


def test_a_part_loaded_as_sima_and_put_into_a_softmax_model(tmp_path):
    sima_hf.patch_model(make("vit", "ViTModel")).save_pretrained(tmp_path / "part")
    model = vit()
    model.vit = sima_hf.patching.classes.SimAViTModel.from_pretrained(tmp_path / "part")
    with pytest.raises(ValueError, match="a saved folder would load as softmax"):
        model.save_pretrained(tmp_path / "whole")


def test_a_trainer_saves_no_softmax_checkpoint(tmp_path):
    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return {"pixel_values": torch.randn(3, 32, 32), "labels": index % 3}

    model = vit()
    sima_hf.patch_model(model.vit)
    arguments = TrainingArguments(output_dir=tmp_path, max_steps=1, save_steps=1, disable_tqdm=True)
    with pytest.raises(ValueError, match="Swap the whole with sima_hf"):
        Trainer(model, arguments, train_dataset=Images()).train()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_state_dict_alone_is_taken_with_a_warning(said):
    """It may go back into the same model, which runs on."""
    model = vit()
    sima_hf.patch_model(model.vit)
    expected, state = logits(model), copy.deepcopy(model.state_dict())
    model.state_dict()
    assert said.text.count("of which the config of the whole, 'vit', does not know") == 1
    assert list(state) == list(vit().state_dict())
    torch.nn.init.zeros_(model.classifier.weight)
    model.load_state_dict(state)
    assert torch.equal(logits(model), expected)


def test_modules_of_ones_own_around_a_part_say_nothing(said):
    net = torch.nn.Sequential(sima_hf.patch_model(make("vit", "ViTModel")))
    torch.nn.parallel.DataParallel(net).state_dict()
    sima_hf.patch_model(make(*LLAVA)).state_dict()
    assert "does not know" not in said.text


def llava_with_a_tower_of_its_own():
    model = make(*LLAVA)
    torch.manual_seed(5)
    model.model.vision_tower = CLIPVisionModel(copy.deepcopy(model.config.vision_config)).eval()
    return model


def test_a_tower_put_in_by_hand_keeps_its_gain(tmp_path):
    model = sima_hf.patch_model(llava_with_a_tower_of_its_own(), gain="none")
    expected = run(model, LLAVA)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["vision_config"]["attention_gain"] == "none"
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert again.model.vision_tower.config.attention_gain == "none"
    assert same(run(again, LLAVA), expected)
    sima_hf.unpatch_model(model)
    assert same(run(model, LLAVA), run(llava_with_a_tower_of_its_own(), LLAVA))


def test_the_gain_of_a_tower_chosen_afterwards(tmp_path):
    model = sima_hf.patch_model(llava_with_a_tower_of_its_own())
    sima_hf.patch_model(model.model.vision_tower, gain="none")
    with pytest.raises(
        ValueError, match=r"'model.vision_tower' .* runs with attention_gain 'none', but config.json would"
    ):
        model.save_pretrained(tmp_path)
    sima_hf.patch_model(model, gain="none")
    expected = run(model, LLAVA)
    model.save_pretrained(tmp_path)
    assert same(run(type(model).from_pretrained(tmp_path).eval(), LLAVA), expected)


def test_the_backend_of_a_tower_chosen_afterwards(tmp_path):
    """Which backend computes is not saved, and nothing stands in the way."""
    model = sima_hf.patch_model(llava_with_a_tower_of_its_own(), gain="none")
    model.model.vision_tower.set_attn_implementation("sima_reference")
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).model.vision_tower.config._attn_implementation == "sima"


def test_a_gain_that_only_the_config_says_is_refused_before_anything_is_written(tmp_path):
    model = sima_hf.patch_model(make("detr", "DetrModel"))
    model.config.attention_gain = "none"  # the encoder's attention holds a config of its own
    with pytest.raises(ValueError, match=r"runs with attention_gain 'tokens'.*patch_model\(model, gain='tokens'\)"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_block_gives_a_tower_its_gain_back():
    model = sima_hf.patch_model(llava_with_a_tower_of_its_own())
    with sima_hf.patched(model, gain="none"):
        assert saving.why_lost(model) is None
    assert model.config.vision_config.attention_gain == model.model.vision_tower.config.attention_gain == "tokens"
