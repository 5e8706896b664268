"""What a push takes out of a repository, and all that stays: readers get the model that was pushed and no part of an earlier one."""

import json

import pytest
from transformers import AutoModelForImageClassification

from sima_hf import SimAConfig, SimAForImageClassification
from sima_hf.hub.stale_files import stale_files
from tests.helpers.hub.pushes import WEIGHTS, pushed, put
from tests.helpers.hub.saved_folder import PROCESSOR


pytestmark = pytest.mark.usefixtures("clean_hub")
CODE = {"modeling_sima_vit.py", "sima_attention.py", "sima_base.py"}
NATIVE = {"configuration_sima.py", "embeddings_sima.py", "modeling_sima.py"}
INDEX = "model.safetensors.index.json"


# The rule


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (WEIGHTS, "weights"),
        ("model.fp16.safetensors", "weights"),
        ("model-00001-of-00002.safetensors", "weights"),
        ("model.fp16-00001-of-00002.safetensors", "weights"),
        (INDEX, "weights"),
        ("model.safetensors.index.fp16.json", "weights"),
        ("pytorch_model.bin", "weights"),
        ("pytorch_model-00001-of-00002.bin", "weights"),
        ("pytorch_model.bin.index.json", "weights"),
        ("tf_model.h5", "weights"),
        ("flax_model.msgpack", "weights"),
        ("adapter_config.json", "adapter"),
        ("adapter_model.safetensors", "adapter"),
        ("adapter_model.bin", "adapter"),
        ("preprocessor_config.json", "processor"),
        ("processor_config.json", "processor"),
    ],
)
def test_what_readers_would_find_by_its_name(name, reason):
    names = {name, "config.json"}
    assert list(stale_files(names, {"config.json"})) == [name]
    assert reason in stale_files(names, {"config.json"})[name]
    assert stale_files(names, names) == {}


@pytest.mark.parametrize(
    "name",
    [
        ".gitattributes",
        "README.md",
        "LICENSE",
        "plot.png",
        "notes.txt",
        "evaluation.json",
        "tokenizer.json",
        "generation_config.json",
        "model_ema.safetensors",
        "ema.safetensors",
        "ema.safetensors.index.json",
        "my_model.safetensors",
        "model.onnx",
        "onnx/model.safetensors",
        "v1/adapter_config.json",
        "v1/modeling_sima_vit.py",
        "modeling_mine.py",
        "modeling_sima_vit.py",
        "sima_attention.py",
        "training_args.bin",
    ],
)
def test_what_is_its_owners(name):
    """Code included, that the earlier config.json does not name or that is not called as sima_hf's is."""
    assert stale_files({name, WEIGHTS}, {WEIGHTS, "config.json"}, {"AutoModel": "modeling_mine.Mine"}) == {}


def test_code_that_the_earlier_config_names():
    names = frozenset({*CODE, *NATIVE, "modeling_mine.py", "modeling_sima_other.py"})
    named = {"AutoModel": "modeling_sima_vit.SimAViTModel", "AutoTokenizer": ["modeling_mine.Mine", None]}
    assert set(stale_files(names, NATIVE, named)) == CODE
    assert stale_files(names, NATIVE, {"AutoModel": "org/sima-vit--modeling_sima_vit.SimAViTModel"}) == {}


# On the Hub


def loaded(client, repo_id, folder, **more):
    """Whether readers get the weights of a folder."""
    code = (
        "from transformers import AutoModelForImageClassification as Auto\nimport torch\n"
        f"got, wanted = (Auto.from_pretrained(one).state_dict() for one in ({repo_id!r}, {str(folder)!r}))\n"
        "got.keys() == wanted.keys() and all(torch.equal(got[key], wanted[key]) for key in wanted)"
    )
    return client.apart(code, **more)


def test_shards_over_a_single_file_and_back(hub, client, folder, shards):
    pushed(client, folder, "org/stale")
    done = pushed(client, shards, "org/stale")
    names = {path.name for path in shards.glob("model-*")}
    assert len(names) > 2
    files = hub.files("org/stale")
    assert WEIGHTS not in files
    assert {INDEX, *names} <= set(files)
    assert f"Removed from the repository:\n  {WEIGHTS}" in done["plan"]
    assert loaded(client, "org/stale", shards)
    assert len(hub.commits("org/stale")) == 3
    again = pushed(client, shards, "org/stale")
    assert (again["commit"], again["changed"]) == (done["commit"], False)
    assert "Removed" not in again["plan"]
    assert "not looked at" not in again["plan"]
    pushed(client, folder, "org/stale")
    assert {name for name in hub.files("org/stale") if name.startswith("model.") or "-of-" in name} == {WEIGHTS}
    assert loaded(client, "org/stale", folder)


def test_an_adapter_of_somebodys(hub, client, folder, tmp_path):
    """As `PeftModel.push_to_hub` leaves it in the very repository that the merged model is pushed to."""
    peft = pytest.importorskip("peft")
    pushed(client, folder, "org/base")
    base = AutoModelForImageClassification.from_pretrained(folder)
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    model.peft_config["default"].base_model_name_or_path = "org/base"
    model.save_pretrained(tmp_path / "adapter")
    adapter = {path.name: path.read_bytes() for path in (tmp_path / "adapter").glob("adapter_*")}
    assert set(adapter) == {"adapter_config.json", "adapter_model.safetensors"}
    put(client, "org/mine", adapter)
    done = pushed(client, folder, "org/mine")
    assert not set(adapter) & set(hub.files("org/mine"))
    assert all(f"  {name} " in done["plan"] for name in adapter)
    assert loaded(client, "org/mine", folder)


def test_a_processor_that_the_new_model_has_not(hub, client, folder):
    nested = json.dumps({"image_processor": {**PROCESSOR, "size": {"height": 8, "width": 8}}})
    put(client, "org/processors", {"processor_config.json": nested.encode()})
    pushed(client, folder, "org/processors")  # Transformers would take the size of the other
    assert "processor_config.json" not in hub.files("org/processors")
    (folder / "preprocessor_config.json").unlink()
    done = pushed(client, folder, "org/processors")
    assert "preprocessor_config.json" not in hub.files("org/processors")
    assert "a processor of an earlier model" in done["plan"]
    assert "There is no image processor here" in hub.files("org/processors")["README.md"].decode()


def test_code_of_the_model_before(hub, client, folder, tmp_path):
    config = SimAConfig(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    SimAForImageClassification(config).save_pretrained(tmp_path / "native")
    pushed(client, tmp_path / "native", "org/code")
    mine = {"modeling_mine.py": b"x = 1", "modeling_sima_mine.py": b"y = 1", "LICENSE": b"mine", "plot.svg": b"x"}
    put(client, "org/code", mine)
    assert {*NATIVE, "modeling_mine.py"} <= set(hub.files("org/code"))
    pushed(client, folder, "org/code")
    files = set(hub.files("org/code"))
    assert files >= {*CODE, *mine}
    assert not files & NATIVE
    pushed(client, tmp_path / "native", "org/code")
    assert not set(hub.files("org/code")) & CODE
    put(client, "org/code", {"config.json": b'{"auto_map": ['})  # nobody loads by it, and it is replaced
    pushed(client, folder, "org/code")
    assert set(hub.files("org/code")) >= {*CODE, *NATIVE}


def test_a_branch_takes_out_its_own(hub, client, folder, shards):
    pushed(client, folder, "org/branch")
    before = hub.files("org/branch")
    pushed(client, shards, "org/branch", revision="shards")
    assert WEIGHTS not in hub.files("org/branch", "shards")
    assert hub.files("org/branch") == before
