"""Which model folders may be published: whole ones that are SimA by count; each way of being something else is refused."""

import dataclasses
import json
import shutil

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from safetensors.torch import load_file, save_file
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

import sima_hf
from sima_hf import SimAConfig, SimAForImageClassification
from sima_hf.errors import PublishError
from sima_hf.hub import check_folder
from sima_hf.loading.saved_class import load_saved_class
from sima_hf.patching.certificate import Certificate, Operation, weights_mark
from sima_hf.training.checkpoints import folders as checkpoints
from tests.helpers.hosts.at_hand import make, vit


KEY = "vit.layers.0.attention.o_proj.weight"
NATIVE = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A patched ViT in one file and in shards, and a softmax ViT, as `save_pretrained` writes them."""
    root = tmp_path_factory.mktemp("saved")
    model = sima_hf.patch_model(vit())
    model.save_pretrained(root / "whole")
    model.save_pretrained(root / "shards", max_shard_size="20KB")
    vit().save_pretrained(root / "softmax")
    return root


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved / "whole", tmp_path / "model")


@pytest.fixture
def shards(saved, tmp_path):
    return shutil.copytree(saved / "shards", tmp_path / "model")


def change_weights(folder, change, name="model.safetensors"):
    """Read a file of weights, let `change` do something to it, and write it again as whole a file as before."""
    state = load_file(folder / name)
    change(state)
    save_file(state, folder / name, metadata={"format": "pt"})


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def assert_refused(folder, *words, **more):
    """Its refusal has all of these words in it, and names the folder."""
    with pytest.raises(PublishError) as error:
        check_folder(folder, **more)
    text = str(error.value)
    assert str(folder) in text
    assert all(word in text for word in words), text
    assert text.rstrip().endswith((".", ")"))
    return text


def test_a_patched_model(folder):
    checked = check_folder(str(folder))
    assert checked.path == folder
    assert type(checked.model).__name__ == "SimAViTForImageClassification"
    assert checked.config.model_type == "sima_vit"
    assert not checked.model.training
    assert checked.certificate.softmax_free
    assert [(part.host, part.attentions) for part in checked.description.swapped] == [("vit", 2)]
    assert checked.weights == (folder / "model.safetensors",)
    state = load_file(folder / "model.safetensors")
    assert torch.equal(checked.model.state_dict()[KEY], state[KEY])


def test_shards(shards):
    checked = check_folder(shards)
    assert checked.weights == tuple(sorted(shards.glob("*.safetensors")))
    assert len(checked.weights) > 2


def test_a_native_model(tmp_path):
    SimAForImageClassification(SimAConfig(**NATIVE)).save_pretrained(tmp_path)
    checked = check_folder(tmp_path)
    assert checked.certificate.softmax_free
    assert checked.description.swapped == ()


@pytest.mark.parametrize(
    ("case", "name"), [("deit", "DeiTModel"), ("swinv2", "Swinv2ForImageClassification"), ("cvt", "CvtModel")]
)
def test_other_hosts(tmp_path, case, name):
    sima_hf.patch_model(make(case, name)).save_pretrained(tmp_path)
    assert type(check_folder(tmp_path).model).__name__ == f"SimA{name}"


def test_names_in_the_files_may_be_those_of_the_first_releases(tmp_path):
    """Transformers writes many ViTs under old names; what counts is what its reader makes of them."""
    model = sima_hf.patch_model(vit())
    model.save_pretrained(tmp_path, save_original_format=True)
    assert KEY not in load_file(tmp_path / "model.safetensors")
    assert torch.equal(check_folder(tmp_path).model.state_dict()[KEY], model.state_dict()[KEY])


def test_a_text_side_keeps_its_softmax(tmp_path):
    """CLIP's text runs softmax, which is nothing that was swapped."""
    sima_hf.patch_model(make("clip", "CLIPModel")).save_pretrained(tmp_path)
    checked = check_folder(tmp_path)
    assert not checked.certificate.softmax_free
    assert checked.certificate.in_swapped == ()
    assert checked.certificate.count > 0


# What is no model's folder


def test_no_folder(tmp_path):
    assert_refused(tmp_path / "nowhere", "does not exist")
    (tmp_path / "file").write_text("")
    assert_refused(tmp_path / "file", "is a file")


def test_no_config(folder):
    assert_refused(folder.parent, "has no config.json")
    (folder / "config.json").unlink()
    assert_refused(folder, "has no config.json")


@pytest.mark.parametrize("text", ['{"model_type": "sima_', "", "\x00\xff"])
def test_a_broken_config(folder, text):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    assert_refused(folder, "cannot be read as JSON")


def test_a_config_that_is_no_mapping(folder):
    (folder / "config.json").write_text("[]")
    assert_refused(folder, "got a list")


def test_a_type_that_nobody_knows(folder):
    change_config(folder, model_type="sima_unheard_of")
    assert_refused(folder, "'sima_unheard_of'", "neither sima_hf nor Transformers")
    change_config(folder, model_type="sima_vit", hidden_size="wide")
    assert_refused(folder, "does not describe a 'sima_vit' model", "hidden_size")


def test_a_config_without_its_class(folder):
    change_config(folder, architectures=None)
    assert_refused(folder, "`architectures`")
    change_config(folder, architectures=["SimAViTForPoetry"])
    assert_refused(folder, "SimAViTForPoetry")


def test_a_softmax_type_with_a_sima_class(folder):
    """AutoModel would load it as softmax, whatever class it names."""
    change_config(folder, model_type="vit")
    assert_refused(folder, "contradicts itself", "'vit'", "SimAViTForImageClassification")
    change_config(folder, model_type="sima_vit", architectures=["ViTForImageClassification"])
    assert_refused(folder, "contradicts itself", "'sima_vit'", "ViTForImageClassification")


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("architectures", [5], "a list of class names"),
        ("architectures", "SimAViTForImageClassification", "a list of class names"),
        ("architectures", {"a": 1}, "a list of class names"),
        ("transformers_weights", 5, "text"),
        ("model_type", ["x"], "text"),
        ("transformers_weights", "../model.safetensors", "a file beside it"),
    ],
)
def test_entries_of_another_kind(folder, name, value, wanted):
    change_config(folder, **{name: value})
    assert_refused(folder, f"{folder / 'config.json'} ", repr(value), wanted)


def test_weights_under_a_name_of_their_own(folder):
    (folder / "model.safetensors").rename(folder / "vit.safetensors")
    change_config(folder, transformers_weights="vit.safetensors")
    assert check_folder(folder).weights == (folder / "vit.safetensors",)


@pytest.mark.parametrize(
    "entries",
    [{"architectures": [5]}, {"transformers_weights": 5}, {"model_type": "vit"}, {"model_type": ["x"]}],
)
def test_other_readers_refuse_such_a_config_as_well(folder, entries):
    """A ViT that names a SimA class was loaded as the first with softmax, for a certificate or a benchmark."""
    change_config(folder, **entries)
    with pytest.raises((ValueError, StrictDataclassFieldValidationError)):
        load_saved_class(str(folder))


def test_a_class_of_somebody_else(folder):
    """Loaded as its owner has entered it, but not published: nobody else has its code."""

    class OwnConfig(ViTConfig):
        model_type = "own_vit"

    class OwnViT(ViTForImageClassification):
        config_class = OwnConfig

    AutoConfig.register("own_vit", OwnConfig)
    AutoModelForImageClassification.register(OwnConfig, OwnViT)
    try:
        OwnViT(OwnConfig(**vit().config.to_diff_dict() | {"model_type": "own_vit"})).save_pretrained(folder)
        assert type(load_saved_class(str(folder))) is OwnViT
        assert_refused(folder, "OwnViT")
    finally:
        AutoModelForImageClassification._model_mapping._extra_content.pop(OwnConfig)
        CONFIG_MAPPING._extra_content.pop("own_vit")


# Softmax


def test_a_softmax_model(saved):
    assert_refused(saved / "softmax", "ViTForImageClassification", "sima_hf.patch_model", "sima-hf patch")


def test_softmax_in_what_was_swapped(folder):
    """As if a new Transformers ran it there again; nothing in this one does."""
    softmax = Operation("vit.layers.0.attention", "SimAViTAttention", "aten::_softmax", 3, swapped=True)
    mark = weights_mark(check_folder(folder).model)
    certificate = Certificate("SimAViTForImageClassification", (softmax,), ("",), mark)
    assert_refused(folder, "3 x aten::_softmax in vit.layers.0.attention", certificate=certificate)


def test_softmax_in_a_native_model(tmp_path):
    model = SimAForImageClassification(SimAConfig(**NATIVE))
    model.save_pretrained(tmp_path)
    softmax = Operation("sima.layers.0.attention", "SimAAttention", "aten::_softmax", 1)
    certificate = Certificate("SimAForImageClassification", (softmax,), (), weights_mark(model))
    assert_refused(tmp_path, "1 operations", "sima.layers.0.attention", certificate=certificate)


@pytest.mark.parametrize(
    "certificate", [Certificate("SimADeiTModel", (), ("",)), Certificate("SimAViTForImageClassification", (), ())]
)
def test_a_certificate_of_another_model(folder, certificate):
    assert_refused(folder, "`certificate` must be", "SimAViTForImageClassification", certificate=certificate)


def test_a_certificate_of_another_checkpoint(folder):
    """The same class with the same parts, whose weights never ran."""
    model = check_folder(folder).model
    certificate = sima_hf.certify(model, torch.zeros(1, 3, 32, 32))
    assert check_folder(folder, certificate).certificate is certificate
    change_weights(folder, lambda state: state[KEY].view(-1)[5:6].add_(0.25))
    assert_refused(folder, "other weights", "certify that", certificate=certificate)
    assert_refused(folder, "other weights", certificate=dataclasses.replace(certificate, weights=None))
    again = sima_hf.certify(check_folder(folder).model, torch.zeros(1, 3, 32, 32))
    assert check_folder(folder, again).certificate is again
    assert sima_hf.certify(model.half().float(), torch.zeros(1, 3, 32, 32)).weights != certificate.weights


def test_inputs_that_cannot_be_made_up(tmp_path):
    """LLaVA wants a token for each patch in its text; its user can certify it."""
    model = sima_hf.patch_model(make("llava", "LlavaForConditionalGeneration"))
    model.save_pretrained(tmp_path)
    assert_refused(tmp_path, "did not run on a made-up image", "certificate=sima_hf.certify(model, inputs)")
    inputs = {"pixel_values": torch.randn(1, 3, 32, 32), "input_ids": torch.tensor([[1, *[40] * 16, 2]])}
    certificate = sima_hf.certify(model, inputs)
    assert check_folder(tmp_path, certificate=certificate).certificate is certificate


# Pickles


def test_pickled_weights(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    assert_refused(folder, "pytorch_model.bin", "beside its safetensors", "runs code")
    (folder / "model.safetensors").unlink()
    assert_refused(folder, "as a pickle (pytorch_model.bin)", "save_pretrained")


@pytest.mark.parametrize("name", ["pytorch_model-00001-of-00002.bin", "checkpoint.pth", "a.pt", "a.CKPT", "a.pkl"])
def test_other_pickles(folder, name):
    (folder / name).write_bytes(b"")
    assert_refused(folder, name)


def test_what_a_training_keeps_is_no_weights(folder):
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "random_states_0.pkl"):
        (folder / name).write_bytes(b"")
    assert check_folder(folder).weights == (folder / "model.safetensors",)


# Weights that are not all there, or not this model's


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert_refused(folder, "has no model.safetensors", "save_pretrained")


@pytest.mark.parametrize("gone", [(), ("model.safetensors",), ("model.safetensors", "config.json")])
def test_an_adapter(folder, gone):
    """Transformers adds it to the weights beside it, which alone are another model, or none."""
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(check_folder(folder).model, peft.LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(folder)
    for name in gone:
        (folder / name).unlink()
    assert_refused(folder, "adapter_config.json", "`model = model.merge_and_unload()`")


@pytest.mark.parametrize("kept", [0, 5, 200, -1, -1000])
def test_cut_short(folder, kept):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert_refused(folder, "not a whole safetensors file", f"{path.stat().st_size:,} bytes")


def test_something_else_under_the_name(folder):
    (folder / "model.safetensors").write_text("<!doctype html><title>Not found</title>")
    assert_refused(folder, "not a whole safetensors file")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert_refused(folder, "git lfs pull")


def test_a_missing_shard(shards):
    gone = sorted(shards.glob("*.safetensors"))[1]
    gone.unlink()
    assert_refused(shards, "lacks 1 of the", gone.name)


def test_a_shard_of_another_save(shards):
    name = sorted(path.name for path in shards.glob("*.safetensors"))[0]
    change_weights(shards, lambda state: state.popitem(), name)
    assert_refused(shards, name, "does not fit model.safetensors.index.json")


@pytest.mark.parametrize("index", ["{", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_a_broken_index(shards, index):
    (shards / "model.safetensors.index.json").write_text(index)
    assert_refused(shards, "model.safetensors.index.json")


@pytest.mark.parametrize("name", ["../model.safetensors", "pytorch_model.bin.txt"])
def test_an_index_that_names_other_files(shards, name):
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {KEY: name}}))
    assert_refused(shards, "must be safetensors beside it", name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop(KEY), f"1 missing ({KEY})"),
        (lambda state: state.update(foreign=torch.zeros(2)), "1 unexpected (foreign)"),
        (lambda state: state.update({KEY: torch.zeros(32, 8)}), f"{KEY}: got (32, 8), expected (32, 32)"),
        (lambda state: state[KEY].view(-1)[5:6].fill_(float("nan")), f"infinities or NaN ({KEY})"),
        (lambda state: state[KEY].view(-1)[5:6].fill_(float("inf")), f"infinities or NaN ({KEY})"),
    ],
    ids=["missing", "unexpected", "shape", "nan", "inf"],
)
def test_weights_that_are_not_the_models(folder, change, words):
    change_weights(folder, change)
    assert_refused(folder, words)


def test_an_encoder_without_its_pooler(tmp_path):
    """As self-supervised ones are saved, whose pooler nothing reads."""
    model = sima_hf.patch_model(ViTModel(vit().config))
    model.pooler = None
    model.save_pretrained(tmp_path)
    assert check_folder(tmp_path).path == tmp_path
    change_weights(tmp_path, lambda state: state.pop("layernorm.weight"))
    assert_refused(tmp_path, "1 missing (layernorm.weight)")


@pytest.mark.parametrize(
    ("values", "words"), [({"num_hidden_layers": 3}, "vit.layers.2"), ({"intermediate_size": 50}, "of another shape")]
)
def test_another_models_config(folder, values, words):
    """A deeper one and a wider one; both would load, with random weights."""
    change_config(folder, **values)
    assert_refused(folder, "do not match", words)


# Training checkpoints


def checkpoint(run, step):
    with checkpoints.writing(run, step) as folder:
        sima_hf.patch_model(vit()).save_pretrained(folder)
        torch.save({}, folder / "optimizer.pt")
    return run / f"checkpoint-{step}"


def test_a_training_checkpoint(tmp_path):
    path = checkpoint(tmp_path, 3)
    assert check_folder(path).path == path


def test_a_damaged_checkpoint(tmp_path):
    """Even where the damage is to no weights: it shows that the folder was not copied whole."""
    good, path = checkpoint(tmp_path, 3), checkpoint(tmp_path, 4)
    (path / "optimizer.pt").unlink()
    assert_refused(path, "lacks the file optimizer.pt", f"The last good checkpoint beside it is {good}")


@pytest.mark.parametrize("name", [".incomplete-checkpoint-4", ".sima-vit.incomplete-4711", ".model.before-4711"])
def test_what_a_killed_process_left(folder, tmp_path, name):
    assert_refused(folder.rename(tmp_path / name), "left by a killed process")
