"""Tokenizers, image processors and processors of swapped models, found by the model's type as those of their hosts are."""

import json

import pytest
import torch
from transformers import AutoProcessor, AutoTokenizer, CLIPImageProcessor, CLIPProcessor, CLIPTokenizer
from transformers.models.auto import (
    feature_extraction_auto,
    image_processing_auto,
    processing_auto,
    tokenization_auto,
    video_processing_auto,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor

import sima_hf
from sima_hf.hub import prepare_for_hub
from sima_hf.patching.classes import register_host
from sima_hf.patching.hosts import HOSTS, host_config_class
from tests.helpers.fresh_process import fresh
from tests.helpers.hosts.at_hand import UNKNOWN, make


TABLES = (
    tokenization_auto.TOKENIZER_MAPPING,
    processing_auto.PROCESSOR_MAPPING,
    video_processing_auto.VIDEO_PROCESSOR_MAPPING,
    feature_extraction_auto.FEATURE_EXTRACTOR_MAPPING,
)
WORDS = ["<|startoftext|>", "<|endoftext|>", *(letter + end for letter in "abcdefgh" for end in ("", "</w>"))]


def swapped_clip(tmp_path, kind):
    """The folder of a swapped CLIP; "without any type" is how CLIP's first repositories are."""
    folder = tmp_path / "clip"
    sima_hf.patch_model(make("clip", "CLIPModel")).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"model_max_length": 20}
    CLIPImageProcessor().save_pretrained(folder)
    if kind == "without any type":
        path = folder / "preprocessor_config.json"
        images = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in images.items() if not key.endswith("_type")}))
    else:
        settings["tokenizer_class"] = "CLIPTokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if kind == "prepared":
        prepare_for_hub(folder, repo_id="org/sima-clip")
    return folder


@pytest.mark.parametrize("kind", ["with its types", "without any type", "prepared"])
def test_a_swapped_clip_has_clips_processor(tmp_path, kind):
    clip_folder = swapped_clip(tmp_path, kind)
    tokenizer, processor = AutoTokenizer.from_pretrained(clip_folder), AutoProcessor.from_pretrained(clip_folder)
    assert type(tokenizer) is CLIPTokenizer
    assert isinstance(AutoImageProcessor.from_pretrained(clip_folder), type(CLIPImageProcessor()))
    assert type(processor) is CLIPProcessor
    again = processor(text=["a b"], images=torch.zeros(3, 40, 40), return_tensors="pt")
    assert set(again) == {"input_ids", "attention_mask", "pixel_values"}
    assert again["input_ids"].tolist() == [[0, 3, 5, 1]]


def same_entries(made, base):
    """Whether the tables of processors have for a swapped config class what they have for its host's."""
    for table in TABLES:
        if (made in table) != (base in table):
            return False
        # By their looks: for what is not installed Transformers makes a class each time.
        if base in table and repr(table[made]) != repr(table[base]):
            return False
    table, load = image_processing_auto.IMAGE_PROCESSOR_MAPPING, image_processing_auto._load_class_with_fallback
    if base not in table or made not in table:
        return base not in table and made not in table
    return load(table[made], "pil") is load(table[base], "pil")


def test_every_swapped_type_has_what_its_host_has():
    hosts = [host for host in HOSTS.values() if host.model_type not in UNKNOWN]
    assert not [host.model_type for host in hosts if not same_entries(register_host(host), host_config_class(host))]


@pytest.mark.parametrize(
    ("case", "name", "images"),
    [
        ("vit", "ViTModel", "ViT"),
        ("siglip", "SiglipModel", "Siglip"),
        ("segformer", "SegformerForSemanticSegmentation", "Segformer"),
        ("videomae", "VideoMAEModel", "VideoMAE"),
    ],
)
def test_settings_of_images_without_a_type(case, name, images, tmp_path):
    sima_hf.patch_model(make(case, name)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.25, 0.5, 0.75]}))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor).__name__.removesuffix("Pil") == f"{images}ImageProcessor"
    assert list(processor.image_mean) == [0.25, 0.5, 0.75]


def test_a_swapped_model_alone_says_nothing_of_torchvision(tmp_path):
    """Image processors are entered by name: whoever only loads a model is not told what is missing for images."""
    sima_hf.patch_model(make("clip", "CLIPModel")).save_pretrained(tmp_path)
    code = """import sys
from transformers import AutoModel
import sima_hf
print(type(AutoModel.from_pretrained(sys.argv[1])).__name__)
print([name for name in sys.modules if "clip.image_processing" in name])"""
    done = fresh(code, tmp_path)
    assert done.stdout.split("\n")[:2] == ["SimACLIPModel", "[]"]
    assert "torchvision" not in done.stderr
