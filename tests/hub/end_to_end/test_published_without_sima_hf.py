"""Published with `sima-hf push`, and loaded over HTTP by people who have torch and transformers and not sima_hf.

In these processes importing sima_hf fails. The logits have to be those of the package's own plain backend to the last bit.
"""

import json

import pytest

from tests.helpers.hub.client import ClientError
from tests.helpers.hub.server import HubServer
from tests.helpers.hub.stories import MODELS, reading_process


pytestmark = pytest.mark.slow
WITHOUT = "import sys; sys.modules['sima_hf'] = None  # any import of it fails from here on\n"
REPOSITORIES = {
    # name: (what its classes are called, the files of its code)
    "sima-deit": ("SimADeiT", {"modeling_sima_deit.py", "sima_attention.py", "sima_base.py"}),
    "sima-cvt": ("SimACvt", {"modeling_sima_cvt.py", "sima_attention.py", "sima_base.py"}),
    "sima": ("SimA", {"configuration_sima.py", "embeddings_sima.py", "modeling_sima.py"}),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server
        assert server.failures == []
        assert [record for record in server.log if record.status == 501] == []


@pytest.fixture(scope="module")
def people(hub, tmp_path_factory):
    """The process that users are forked from, after one has pushed the models from their folders."""
    with reading_process(hub, tmp_path_factory.mktemp("people")) as process:
        process.apart(
            MODELS
            + """
from sima_hf.cli import main
for name, model in (("sima-deit", swapped()), ("sima-cvt", swapped_own_code()), ("sima", native())):
    model.save_pretrained(name)
    processor.save_pretrained(name)
    save_logits(plain(model), f"{name}.pt")
    try:
        main(["push", name, f"org/{name}", "--license", "apache-2.0"])
    except SystemExit as ended:
        if ended.code:
            raise
""",
            HF_TOKEN=hub.token,
        )
        yield process


@pytest.mark.parametrize("name", REPOSITORIES)
@pytest.mark.usefixtures("people")
def test_what_was_pushed(hub, name):
    """One commit, with the code that the config names and nothing that could run unasked."""
    files, code = hub.files(f"org/{name}"), REPOSITORIES[name][1]
    assert len(hub.commits(f"org/{name}")) == 2  # the Hub's own and this one
    expected = {".gitattributes", "README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert set(files) == expected | code
    places = {place.split(".")[0] + ".py" for place in json.loads(files["config.json"])["auto_map"].values()}
    assert places <= code
    assert all(b"sima_hf." not in line for one in code for line in files[one].splitlines() if b"import" in line)


@pytest.mark.parametrize("name", REPOSITORIES)
def test_it_loads_without_sima_hf(people, name):
    kind = REPOSITORIES[name][0]
    found = people.apart(f"""{WITHOUT}
trust = {{"trust_remote_code": True}}
model = AutoModelForImageClassification.from_pretrained("org/{name}", **trust)
classify = pipeline("image-classification", model="org/{name}", **trust)
pixels = AutoImageProcessor.from_pretrained("org/{name}", **trust)(Image.open("red.png"), return_tensors="pt").pixel_values
best = int(model.eval()(pixels).logits.argmax())
{{
    "config": type(AutoConfig.from_pretrained("org/{name}", **trust)).__name__,
    "base": type(AutoModel.from_pretrained("org/{name}", **trust)).__name__,
    "model": type(model).__name__,
    "place": type(model).__module__.split(".")[0],
    "same": same_logits(model, "{name}.pt"),
    "agree": classify("red.png")[0]["label"] == model.config.id2label[best],
    "classifier": type(classify.model).__name__,
}}
""")
    classifier = f"{kind}ForImageClassification"
    assert (found["config"], found["base"], found["model"]) == (f"{kind}Config", f"{kind}Model", classifier)
    assert found["classifier"] == classifier
    assert found["place"] == "transformers_modules"
    assert found["same"]
    assert found["agree"]


def test_fresh_weights_train_without_sima_hf(people):
    """Transformers starts DeiT's tokens and positions at zero, where SimA would keep them."""
    found = people.apart(f"""{WITHOUT}
trust = {{"trust_remote_code": True}}
config = AutoConfig.from_pretrained("org/sima-deit", **trust)
model = AutoModelForImageClassification.from_config(config, **trust)
embeddings = model.base_model.embeddings
with torch.enable_grad():
    model(torch.randn(2, 3, 32, 32), labels=torch.tensor([0, 1])).loss.backward()
{{
    "place": type(model).__module__.split(".")[0],
    "drawn": [bool(x.any()) for x in (embeddings.cls_token, embeddings.distillation_token, embeddings.position_embeddings)],
    "finite": all(bool(x.grad.isfinite().all()) for x in model.parameters() if x.grad is not None),
}}
""")
    assert found == {"place": "transformers_modules", "drawn": [True, True, True], "finite": True}


@pytest.mark.parametrize("name", REPOSITORIES)
def test_without_trust_it_says_what_to_pass(hub, people, name):
    hub.log.clear()
    for load in (
        f"AutoModelForImageClassification.from_pretrained('org/{name}')",
        f"AutoModel.from_pretrained('org/{name}', trust_remote_code=False)",
        f"pipeline('image-classification', model='org/{name}')",
    ):
        with pytest.raises(ClientError, match="Please pass the argument `trust_remote_code=True`"):
            people.apart(WITHOUT + load)
    assert [path for _, path, _ in hub.requests if path.endswith((".py", ".safetensors"))] == []


@pytest.mark.parametrize("name", REPOSITORIES)
def test_with_sima_hf_its_own_classes_serve(hub, people, name):
    """With or without trust, none of the published code is fetched, and the package's kernels are what runs."""
    hub.log.clear()
    for trust in ("", ", trust_remote_code=True"):
        found = people.apart(f"""{MODELS}
model = AutoModelForImageClassification.from_pretrained("org/{name}"{trust})
runs = model.config._attn_implementation
[type(model).__name__, type(model).__module__.split(".")[0], runs, same_logits(plain(model), "{name}.pt")]
""")
        assert found == [f"{REPOSITORIES[name][0]}ForImageClassification", "sima_hf", "sima", True]
    assert [path for _, path, _ in hub.requests if path.endswith(".py")] == []


PREPARED = {
    "a model": """
sima_hf.prepare_for_hub(model)
model.push_to_hub("org/FOLDER")
""",
    "a folder": """
model.save_pretrained("FOLDER")
sima_hf.prepare_for_hub("FOLDER")
AutoModelForImageClassification.from_pretrained("FOLDER").push_to_hub("org/FOLDER")
""",
    "a folder, uploaded": """
from huggingface_hub import HfApi
model.save_pretrained("FOLDER")
sima_hf.prepare_for_hub("FOLDER")
_ = HfApi().create_repo("org/FOLDER")
_ = HfApi().upload_folder(folder_path="FOLDER", repo_id="org/FOLDER")
""",
}


@pytest.mark.parametrize(("model", "what"), [*(("swapped", what) for what in PREPARED), ("native", "a model")])
def test_prepared_and_pushed_by_other_means_it_stays_sima(hub, people, model, what):
    """Transformers' own push, and once more by a reader who has no sima_hf: the code comes along, and loads with both."""
    name = f"{model}-{list(PREPARED).index(what)}"
    first, second = f"org/{name}", f"org/{name}-again"
    pushes = PREPARED[what].replace("FOLDER", name)
    people.apart(f"{MODELS}model = {model}()\n{pushes}\nsave_logits(plain(model), 'prepared.pt')", HF_TOKEN=hub.token)
    load = "model = AutoModelForImageClassification.from_pretrained('{}', trust_remote_code=True); "
    same = "same_logits({}, 'prepared.pt')"
    again = f"_ = model.push_to_hub('{second}'); "
    assert people.apart(WITHOUT + load.format(first) + again + same.format("model"), HF_TOKEN=hub.token)
    assert people.apart(WITHOUT + load.format(second) + same.format("model"))
    assert people.apart(
        MODELS + load.replace(", trust_remote_code=True", "").format(second) + same.format("plain(model)")
    )
    code = {name for name in hub.files(first) if name.endswith(".py")}
    assert code == REPOSITORIES["sima-deit" if model == "swapped" else "sima"][1]
    assert {name: hub.files(first)[name] for name in code} == {
        name: content for name, content in hub.files(second).items() if name.endswith(".py")
    }


def test_a_commit_of_the_code_can_be_pinned(hub, people):
    """Code that changes after it was read is not run by those who name the commit that they read."""
    read = hub.commits("org/sima-deit")[0]["oid"]
    people.apart(
        """
from huggingface_hub import HfApi, hf_hub_download
text = open(hf_hub_download("org/sima-deit", "modeling_sima_deit.py")).read() + "\\nraise RuntimeError('not what was read')\\n"
HfApi().upload_file(path_or_fileobj=text.encode(), path_in_repo="modeling_sima_deit.py", repo_id="org/sima-deit").oid
""",
        HF_TOKEN=hub.token,
    )
    load = WITHOUT + (
        "model = AutoModelForImageClassification.from_pretrained('org/sima-deit', trust_remote_code=True{}); "
        "[read_commit in type(model).__module__, same_logits(model, 'sima-deit.pt')]"
    ).replace("read_commit", repr(read))
    with pytest.raises(ClientError, match="not what was read"):
        people.apart(load.format(""))
    assert people.apart(load.format(f", code_revision={read!r}")) == [True, True]
    assert people.apart(load.format(f", revision={read!r}")) == [True, True]
    push = MODELS + "from sima_hf.hub import push; push('sima-deit', 'org/sima-deit').commit"
    mended = people.apart(push, HF_TOKEN=hub.token)  # the next push makes the code anew
    assert hub.commits("org/sima-deit")[0]["oid"] == mended
    assert people.apart(load.format("")) == [False, True]
