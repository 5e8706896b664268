"""What readers need beside the weights: half of a file, settings that make nothing, and classes whose code stays here are refused."""

import ast
import importlib.util
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import CONFIG_MAPPING, AutoTokenizer, CLIPTokenizer, PhobertTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES, AutoImageProcessor
from transformers.utils import logging

import sima_hf
from sima_hf import SimAConfig, SimAForImageClassification, SimAImageProcessor
from sima_hf.errors import PublishError
from sima_hf.folders import file_names as model_records
from sima_hf.folders.file_names import model_settings
from sima_hf.hub import check_folder, plan_push
from sima_hf.hub.processors import check_processors, image_processor_file
from sima_hf.hub.stage import Stage
from sima_hf.patching.hosts import HOSTS
from tests.helpers.hosts.at_hand import make
from tests.helpers.hub.pushes import published
from tests.helpers.hub.saved_folder import PROCESSOR


CLIP = {"image_processor": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}}}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A model with a text side, a tokenizer and a processor of both."""
    folder = tmp_path_factory.mktemp("clip")
    sima_hf.patch_model(make("clip", "CLIPModel")).save_pretrained(folder)
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "a</w>": 3}
    CLIPTokenizer(words, []).save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps(CLIP))
    return folder


def refused(folder, *words):
    with pytest.raises(PublishError) as error:
        check_folder(folder)
    text = str(error.value)
    assert all(word in text for word in words), text
    assert text.endswith("."), text


@pytest.fixture
def put(clip):
    """Writes a file into CLIP's folder for one test."""
    before = {path: path.read_bytes() for path in clip.iterdir()}

    def write(name, text):
        (clip / name).write_text(text if isinstance(text, str) else json.dumps(text))
        return clip

    yield write
    for path in clip.iterdir():
        path.write_bytes(before[path]) if path in before else path.unlink()


def test_a_whole_folder(clip):
    verbosity = logging.get_verbosity()
    check_folder(clip)
    names = {file.name for file in plan_push(clip, "org/sima-clip").files}
    assert {"tokenizer.json", "tokenizer_config.json", "processor_config.json"} <= names
    assert logging.get_verbosity() == verbosity


@pytest.mark.parametrize("name", ["processor_config.json", "generation_config.json", "tokenizer.json", "vocab.json"])
def test_half_a_file(put, name):
    refused(put(name, '{"half'), name, "cannot be read as JSON")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("processor_config.json", {"image_processor": {}}, ("an image processor", "Unrecognized")),
        ("processor_config.json", {"image_processor": 5}, ("an image processor",)),
        ("processor_config.json", {"image_processor": {**CLIP["image_processor"], "size": "wide"}}, ("wide",)),
        ("processor_config.json", {"image_processor": {"image_processor_type": "NoSuch"}}, ("Unrecognized",)),
        ("processor_config.json", ["a"], ("got a list",)),
        ("tokenizer.json", {"version": "1.0"}, ("a tokenizer", "tokenizer_config.json and ")),
    ],
)
def test_settings_that_make_nothing(put, name, content, words):
    refused(put(name, content), name, *words)


def test_an_image_processor_of_no_class(folder):
    (folder / "preprocessor_config.json").write_text("{}")
    refused(folder, "preprocessor_config.json", "Unrecognized image processor")


def test_an_image_processor_of_a_native_model(tmp_path):
    """Without sima_hf, its config says nothing of processors."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    SimAForImageClassification(SimAConfig(image_size=32, patch_size=8, **sizes)).save_pretrained(tmp_path)
    SimAImageProcessor.for_image_size(32).save_pretrained(tmp_path)
    check_folder(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "NoSuch"}')
    refused(tmp_path, "preprocessor_config.json", "Unrecognized image processor")


def test_none_at_all_is_no_fault(folder):
    (folder / "preprocessor_config.json").unlink()
    check_folder(folder)
    (folder / "processor_config.json").write_text('{"processor_class": "CLIPProcessor"}')
    check_folder(folder)


def test_words_of_a_model_are_no_tokenizer(folder):
    (folder / "vocab.json").write_text('{"a": 1}')
    (folder / "vocab.txt").write_text("a")
    check_folder(folder)


def test_another_tokenizer(put, clip):
    one = Tokenizer(models.WordLevel({"[UNK]": 0, "auto_map": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=one, unk_token="[UNK]").save_pretrained(clip)
    put("vocab.json", {"auto_map": 1})  # a word, and no place of code
    check_folder(clip)


def test_every_hosts_own_processor_is_one(tmp_path):
    """By the name that is in files on the Hub, and on a machine without torchvision as well."""
    path = tmp_path / "preprocessor_config.json"
    stage = Stage(tmp_path, tmp_path, {path.name: path})
    for model_type in HOSTS.keys() & IMAGE_PROCESSOR_MAPPING_NAMES.keys():
        names = IMAGE_PROCESSOR_MAPPING_NAMES[model_type]
        path.write_text(json.dumps({"image_processor_type": names.get("torchvision") or names["pil"]}))
        check_processors(stage, CONFIG_MAPPING[model_type]())


@pytest.mark.parametrize(
    "error",
    [ImportError("Pillow"), ValueError("needs torchvision"), ValueError("None of these classes could be imported.")],
)
def test_a_machine_that_lacks_a_package_cannot_tell(folder, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    find = importlib.util.find_spec
    monkeypatch.setattr(AutoImageProcessor, "from_pretrained", fail)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "torchvision" else find(name, *more)
    )
    check_folder(folder)


# What is checked is what is published


def vocabularies():
    """Names of the files that the tokenizers of Transformers are made from, as their sources give them."""
    (place,) = importlib.util.find_spec("transformers").submodule_search_locations
    for path in Path(place).glob("models/*/tokenization_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            named = [getattr(target, "id", "") for target in getattr(node, "targets", ())]
            if "VOCAB_FILES_NAMES" in named and isinstance(node.value, ast.Dict):
                yield from (one.value for one in node.value.values if isinstance(one, ast.Constant))


def test_no_tokenizers_file_stays_behind(folder):
    """Whatever Transformers looks for by name, Marian's and Mistral's included, which need packages that may not be here."""
    found = {*vocabularies(), "tekken.json", "qwen.tiktoken", "tokenizer.model.v3"}
    assert found > {"source.spm", "target.spm", "vocab.json", "bpe.codes"}
    for name in found:
        (folder / name).write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "MarianTokenizer"}')
    assert {path.name for path in model_settings(folder)} >= found


@pytest.fixture
def phobert(folder):
    """A tokenizer whose files are called as few others are."""
    (folder / "vocab.txt").write_text("a 1\nb 1\nc 1\n")
    (folder / "bpe.codes").write_text("a b 1\n")
    PhobertTokenizer(str(folder / "vocab.txt"), str(folder / "bpe.codes")).save_pretrained(folder)
    return folder


def test_a_tokenizer_of_rare_names_loads_for_readers(phobert, tmp_path):
    templates = phobert / "additional_chat_templates"
    templates.mkdir()
    (templates / "rag.jinja").write_text("{{ messages }}")
    plan = published(phobert, tmp_path / "readers")
    assert {"additional_chat_templates/rag.jinja", "bpe.codes"} <= {file.name for file in plan.files}
    again = AutoTokenizer.from_pretrained(tmp_path / "readers")
    here = AutoTokenizer.from_pretrained(phobert)
    assert again("a c b").input_ids == here("a c b").input_ids
    assert again.chat_template == here.chat_template == {"rag": "{{ messages }}"}


def test_a_tokenizer_that_loads_only_here_is_refused_by_name(phobert, monkeypatch):
    """As one of a later Transformers, with a file of a name that is not known here."""
    monkeypatch.setattr(model_records, "_VOCABULARIES", ())
    refused(phobert, "did not load from the files that are published", "Not published", "bpe.codes", "save_pretrained")


def test_a_tokenizer_that_needs_a_place_on_this_disk(put, tmp_path):
    """Its settings name it; what is published does not, so a reader has neither."""
    folder = put(
        "tokenizer_config.json", {"tokenizer_class": "PhobertTokenizer", "vocab_file": str(tmp_path / "vocab")}
    )
    (tmp_path / "vocab").write_text("a 1\n")
    refused(folder, "tokenizer_config.json", "a tokenizer")


# Code


@pytest.mark.parametrize("auto_map", [{"AutoImageProcessor": "my.Proc"}, {"AutoImageProcessor": [None, "my.Proc"]}])
@pytest.mark.parametrize("nested", [False, True])
def test_code_of_a_processor_is_not_published(folder, auto_map, nested):
    content = {**PROCESSOR, "auto_map": auto_map}
    name = "processor_config.json" if nested else "preprocessor_config.json"
    (folder / name).write_text(json.dumps({"image_processor": content} if nested else content))
    (folder / "my.py").write_text("raise SystemExit")
    refused(folder, name, "code beside it, my.Proc", "organization/name--my.Proc")


def test_code_of_a_tokenizer_is_not_published(put):
    folder = put("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["my_tok.Slow", "org/x--my_tok.Fast"]}})
    refused(folder, "tokenizer_config.json", "my_tok.Slow")


def test_code_that_is_on_the_hub(folder):
    content = {"auto_map": {"AutoImageProcessor": "org/x--my_proc.MyProc"}, "image_processor_type": "MyProc"}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": ["org/x--my_tok.Slow", None]}))
    check_folder(folder)


# Which of two files


def test_the_file_that_transformers_reads(folder):
    """As for the card, which names it."""
    assert image_processor_file(folder).name == "preprocessor_config.json"
    nested = {**PROCESSOR, "size": {"height": 24, "width": 24}}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": nested}))
    assert image_processor_file(folder).name == "processor_config.json"
    assert AutoImageProcessor.from_pretrained(folder).size["height"] == 24
    assert "resized to 24 x 24 px" in plan_push(folder, "org/sima-vit").card
    (folder / "processor_config.json").write_text("{}")
    assert image_processor_file(folder).name == "preprocessor_config.json"
    (folder / "preprocessor_config.json").unlink()
    assert image_processor_file(folder) is None
