"""prepare_for_hub: a folder gets its code, its card and auto_map, or stays as it was; a model brings its code when it is saved."""

import json
import os
import shutil

import pytest
import torch

import sima_hf
from sima_hf import SimAConfig, SimAForImageClassification, SimAModel
from sima_hf.errors import PublishError
from sima_hf.folders import manifest
from sima_hf.hub import auto_map, find_facts, prepare_for_hub, remote_code
from sima_hf.training.checkpoints import folders as checkpoints
from tests.helpers.fresh_process import fresh
from tests.helpers.hosts.at_hand import make, vit


NATIVE = ("configuration_sima.py", "embeddings_sima.py", "modeling_sima.py")


def native():
    return SimAForImageClassification(
        SimAConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_labels=3)
    )


def swapped():
    return sima_hf.patch_model(vit())


CODE = {native: set(NATIVE), swapped: {"modeling_sima_vit.py", "sima_attention.py", "sima_base.py"}}


@pytest.mark.parametrize("build", CODE, ids=lambda build: build.__name__)
def test_a_folder(tmp_path, build):
    model = build()
    model.save_pretrained(tmp_path / "model")
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert prepare_for_hub(tmp_path / "model", repo_id="org/sima-small") == tmp_path / "model"
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"config.json", "model.safetensors", "README.md", *CODE[build]}
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == weights
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["auto_map"] == auto_map(model.config)
    assert "org/sima-small" in (tmp_path / "model" / "README.md").read_text()
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    prepare_for_hub(tmp_path / "model", repo_id="org/sima-small")
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before, "twice is once"


@pytest.mark.parametrize("build", CODE, ids=lambda build: build.__name__)
def test_a_model_brings_its_code_along(tmp_path, build):
    model = build()
    model.save_pretrained(tmp_path / "before")
    assert not list((tmp_path / "before").glob("*.py"))
    assert prepare_for_hub(model) is model
    model.save_pretrained(tmp_path / "after")
    assert {path.name for path in (tmp_path / "after").glob("*.py")} == CODE[build]
    again = type(model).from_pretrained(tmp_path / "after")
    again.save_pretrained(tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").glob("*.py")} == CODE[build], "loaded here, saved here"


@pytest.mark.parametrize("build", CODE, ids=lambda build: build.__name__)
def test_loaded_from_the_hub_it_names_its_own_code_when_saved(tmp_path, build):
    """Transformers puts the repository before each place of the code when it reads a config from the Hub."""
    model = prepare_for_hub(build())
    plain = dict(model.config.auto_map)
    model.config.auto_map = {name: f"org/sima--{place}" for name, place in plain.items()}
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == plain


def test_the_code_follows_the_class_that_is_saved(tmp_path):
    prepare_for_hub(native()).save_pretrained(tmp_path / "classifier")
    model = SimAModel.from_pretrained(tmp_path / "classifier")
    model.save_pretrained(tmp_path / "base")
    assert {path.name for path in (tmp_path / "base").glob("*.py")} == set(NATIVE)
    deit = sima_hf.patch_model(make("deit", "DeiTForImageClassificationWithTeacher"))
    prepare_for_hub(deit).save_pretrained(tmp_path / "deit")
    named = json.loads((tmp_path / "deit" / "config.json").read_text())["auto_map"]
    assert named["AutoModelForImageClassification"].endswith(".SimADeiTForImageClassificationWithTeacher")


def test_a_refused_folder_stays_as_it_was(tmp_path):
    softmax = vit()
    softmax.save_pretrained(tmp_path / "sima-vit")
    swapped().save_pretrained(tmp_path / "torn")
    path = tmp_path / "torn" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    for name, reason in (("sima-vit", "without any SimA attention"), ("torn", "model.safetensors")):
        before = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        with pytest.raises(PublishError, match=reason):
            prepare_for_hub(tmp_path / name)
        assert {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} == before
    with pytest.raises(PublishError, match=r"without SimA attention.*patch_model"):
        prepare_for_hub(softmax)
    assert not hasattr(softmax.config, "auto_map")


def test_a_parent_of_its_own_class_is_prepared_as_a_folder():
    llava = sima_hf.patch_model(make("llava", "LlavaForConditionalGeneration"))
    with pytest.raises(PublishError, match=r"keeps Transformers' own class.*prepare_for_hub\(folder\)"):
        prepare_for_hub(llava)
    assert "class LlavaForConditionalGeneration" in remote_code(llava.config)["modeling_sima_llava.py"]


def test_a_folder_made_elsewhere_is_read_by_our_classes(tmp_path):
    """With sima_hf the local classes serve, the fused kernels with them, without trust."""
    model = native()
    model.save_pretrained(tmp_path / "model")
    prepare_for_hub(tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "elsewhere")
    from transformers import AutoModelForImageClassification

    for trust in (None, True):
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "elsewhere", trust_remote_code=trust)
        assert type(loaded) is SimAForImageClassification
        assert loaded.config._attn_implementation == "sima"
        images = torch.randn(2, 3, 32, 48)
        assert torch.equal(loaded.eval()(images).logits, model.eval()(images).logits)


def test_a_prepared_folder_names_no_place_on_this_disk(tmp_path, caplog):
    """It may be uploaded by any tool, so what a push would change on the way is changed in it."""
    model, folder = swapped(), tmp_path / "model"
    model.save_pretrained(folder)
    written = {
        "evaluation.json": {"accuracy": 0.5, "num_images": 9, "settings": {"data": "/home/alice/secret/birds"}},
        "sima_provenance.json": {"dataset": "/home/alice/secret/birds"},
        "tokenizer_config.json": {"name_or_path": "/home/alice/secret/clip", "tokenizer_class": "CLIPTokenizer"},
    }
    for name, content in written.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "training_args.bin").write_bytes(b"/home/alice/secret")
    elsewhere = tmp_path / "all_results.json"
    elsewhere.write_text(json.dumps({"eval_accuracy": 0.5, "run": "/home/alice/secret/run"}))
    before = elsewhere.read_bytes()
    prepare_for_hub(folder, facts=find_facts(folder, results=(folder / "evaluation.json", elsewhere)))
    texts = contents(folder)
    assert not [name for name, text in texts.items() if b"alice" in text and name != "training_args.bin"]
    assert json.loads(texts["evaluation.json"])["settings"] == {"data": "birds"}
    assert json.loads(texts["tokenizer_config.json"]) == {"tokenizer_class": "CLIPTokenizer"}
    assert elsewhere.read_bytes() == before
    assert "all_results.json" not in texts
    assert "training_args.bin. Leave them out where you upload" in caplog.text


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_training_checkpoint_stays_as_it_was_sealed(tmp_path):
    """A process killed between the change of its config and a new seal would leave a run without its last checkpoint."""
    with checkpoints.writing(tmp_path, 3) as folder:
        swapped().save_pretrained(folder)
    folder = tmp_path / "checkpoint-3"
    before = contents(folder)
    with pytest.raises(
        PublishError, match=rf"`sima-hf push {folder} .*`from_pretrained\(\.\.\.\)\.save_pretrained\(new\)`"
    ):
        prepare_for_hub(folder)
    assert contents(folder) == before
    assert manifest.damage(folder) is None
    type(swapped()).from_pretrained(folder).save_pretrained(tmp_path / "new")
    assert prepare_for_hub(tmp_path / "new") == tmp_path / "new"


def test_twice_at_the_same_time(tmp_path, monkeypatch):
    """A second call comes while the first is about to move a file into its place."""
    swapped().save_pretrained(tmp_path / "model")
    replace, calls = os.replace, []

    def second_comes_first(*args, **more):
        calls.append(args)
        if len(calls) == 1:
            prepare_for_hub(tmp_path / "model")
        replace(*args, **more)

    monkeypatch.setattr(os, "replace", second_comes_first)
    prepare_for_hub(tmp_path / "model")
    assert len(calls) > 4
    names = {"config.json", "model.safetensors", "README.md", *CODE[swapped]}
    assert {path.name for path in (tmp_path / "model").iterdir()} == names


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    swapped().save_pretrained(tmp_path / "model")
    before = contents(tmp_path / "model")

    def fail(*args, **more):
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="No space left"):
                prepare_for_hub(tmp_path / "model")
        assert contents(tmp_path / "model") == before


@pytest.mark.parametrize("repo_id", ["a/b/c", "", "org/sima.git", 5])
def test_a_name_that_the_hub_does_not_allow(tmp_path, repo_id):
    swapped().save_pretrained(tmp_path / "model")
    before = contents(tmp_path / "model")
    with pytest.raises(PublishError, match=f"`repo_id` must be .* got {repo_id!r}"):
        prepare_for_hub(tmp_path / "model", repo_id=repo_id)
    assert contents(tmp_path / "model") == before


def test_a_folder_whose_name_the_hub_does_not_allow(tmp_path):
    swapped().save_pretrained(tmp_path / "my model (best)")
    prepare_for_hub(tmp_path / "my model (best)")
    assert 'from_pretrained("my-model-best"' in (tmp_path / "my model (best)" / "README.md").read_text()


LATE = """
import sys
from transformers import AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
import sima_hf
try:
    sima_hf.prepare_for_hub(model)
except sima_hf.errors.PublishError as error:
    print(error)
for change in (sima_hf.patch_model, sima_hf.unpatch_model):
    try:
        change(model)
    except sima_hf.errors.UnsupportedModelError as error:
        print(error)
model = AutoModelForImageClassification.from_pretrained(sys.argv[1])
print(sima_hf.prepare_for_hub(model) is model)
"""


def test_a_model_that_was_loaded_before_sima_hf(tmp_path):
    swapped().save_pretrained(tmp_path / "model")
    prepare_for_hub(tmp_path / "model")
    done = fresh(LATE, tmp_path / "model")
    assert done.returncode == 0, done.stderr
    reason, patching, unpatching, again = done.stdout.splitlines()
    assert patching == unpatching
    assert "was loaded by the code that came with it" in patching
    assert reason.startswith(
        "This SimAViTForImageClassification was loaded by the code that came with it (transformers_modules."
    )
    assert "Load it again now" in reason
    assert again == "True"


def test_softmax_has_no_code_to_publish():
    with pytest.raises(PublishError, match="is the config of a model without SimA attention"):
        remote_code(vit().config)


def test_another_attention_is_published_as_what_it_is(tmp_path):
    model = sima_hf.patch_model(vit(), attention="inline")
    model.save_pretrained(tmp_path / "model")
    prepare_for_hub(tmp_path / "model", repo_id="org/inline-vit")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "whose attention is InLine core (Han et al. 2024, arXiv 2412.06590) in place of softmax" in card
    assert "| InLine core in | attentions |" in card
    for words in ("2206.08898", "SimA: Simple", "L1-normalized", "kernels", "- sima\n"):
        assert words not in card
    assert "\n- inline\n- softmax-free\n" in card
    assert "def inline_attention" in (tmp_path / "model" / "sima_attention.py").read_text()
    assert prepare_for_hub(model).config.auto_map == auto_map(model.config)


def test_a_softmax_by_design_is_not_published(tmp_path):
    model = sima_hf.patch_model(vit(), attention="efficient")
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for one in (tmp_path, model):
        with pytest.raises(
            PublishError, match=r"computes efficient attention in the whole model, which has a softmax by design"
        ):
            prepare_for_hub(one)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert not getattr(model.config, "auto_map", None)


def test_exp_by_design_is_on_the_card(tmp_path):
    sima_hf.patch_model(vit(), attention="sigmoid").save_pretrained(tmp_path / "model")
    prepare_for_hub(tmp_path / "model")
    assert "By design sigmoid computes with exp." in (tmp_path / "model" / "README.md").read_text()


def test_two_attentions_in_one_model_have_no_code_in_common():
    clip = sima_hf.patch_model(make("clip", "CLIPModel"))
    config = sima_hf.patch_model(make("vit", "ViTModel"), attention="elu").config
    clip.config.another = config
    with pytest.raises(PublishError, match=r"compute different attention \(elu, sima\)"):
        remote_code(clip.config)
