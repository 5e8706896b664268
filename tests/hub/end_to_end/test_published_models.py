"""Pushed and loaded as a user does it, over HTTP: Transformers' own ways, in processes that have imported sima_hf.

Everything here is word for word what a user would write; `stories` says what its processes have imported before.
"""

import json

import pytest

from tests.helpers.hub.client import Client, ClientError
from tests.helpers.hub.server import HubServer
from tests.helpers.hub.stories import BEFORE, MODELS, reading_process


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server
        assert server.failures == []
        assert [record for record in server.log if record.status == 501] == []  # nothing that the double does not know


@pytest.fixture(scope="module")
def people(hub, tmp_path_factory):
    """The process that users are forked from, after one of them has pushed org/sima-deit and org/sima."""
    with reading_process(hub, tmp_path_factory.mktemp("people")) as process:
        process.run("import accelerate, datasets, kornia.augmentation, matplotlib.pyplot, sklearn.metrics")
        process.apart(
            MODELS
            + """
for name, model in (("sima-deit", swapped()), ("sima", native())):
    model.push_to_hub(f"org/{name}")
    processor.push_to_hub(f"org/{name}")
    save_logits(model, f"{name}.pt")
second = swapped(seed=1)
second.push_to_hub("org/sima-deit", revision="v2", commit_message="Another seed")
save_logits(second, "second.pt")
""",
            HF_TOKEN=hub.token,
        )
        yield process


@pytest.fixture(autouse=True)
def _no_faults_left(hub):
    yield
    hub.end_faults()


def test_what_was_pushed_has_no_pickles(hub, people):
    for name in ("org/sima-deit", "org/sima"):
        files = hub.files(name)
        assert set(files) == {
            ".gitattributes",
            "README.md",
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
        }
    assert json.loads(hub.files("org/sima-deit")["config.json"])["model_type"] == "sima_deit"


@pytest.mark.parametrize(("name", "kind"), [("sima-deit", "SimADeiT"), ("sima", "SimA")])
def test_a_fresh_process_loads_it_by_name(people, name, kind):
    found = people.apart(f"""
import sima_hf
model = AutoModelForImageClassification.from_pretrained("org/{name}")
classify = pipeline("image-classification", model="org/{name}")
{{
    "config": type(AutoConfig.from_pretrained("org/{name}")).__name__,
    "base": type(AutoModel.from_pretrained("org/{name}")).__name__,
    "model": type(model).__name__,
    "same": same_logits(model, "{name}.pt"),
    "size": AutoImageProcessor.from_pretrained("org/{name}")(Image.open("red.png"), return_tensors="pt").pixel_values.shape,
    "classes": [answer["score"] for answer in classify("red.png")],
    "softmax_free": sima_hf.certify(classify.model, torch.randn(1, 3, 32, 32)).softmax_free,
}}
""")
    assert (found["config"], found["base"], found["model"]) == (
        f"{kind}Config",
        f"{kind}Model",
        f"{kind}ForImageClassification",
    )
    assert found["same"]
    assert found["size"] == [1, 3, 32, 32]
    assert len(found["classes"]) == 3
    assert found["classes"][0] > 0.34  # the model's opinion, not three thirds
    assert found["softmax_free"]


def test_a_second_revision(hub, people):
    commit = hub.commits("org/sima-deit", "v2")[0]
    assert commit["title"] == "Another seed"
    assert hub.files("org/sima-deit")["model.safetensors"] != hub.files("org/sima-deit", "v2")["model.safetensors"]
    found = people.apart(f"""
import sima_hf
load = AutoModelForImageClassification.from_pretrained
[same_logits(load("org/sima-deit", revision=name), saved)
 for name in ("v2", "{commit["oid"]}", "main") for saved in ("second.pt", "sima-deit.pt")]
""")
    assert found == [True, False, True, False, False, True]


def test_the_cache_is_used_again_offline(hub, people, tmp_path):
    load = "import sima_hf; model = AutoModelForImageClassification.from_pretrained('org/sima-deit'); "
    people.apart(load + "AutoImageProcessor.from_pretrained('org/sima-deit'); None")
    hub.log.clear()
    environment = {**hub.environment(people.home, HF_HUB_OFFLINE="1"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    with Client(environment, tmp_path / "log", BEFORE) as offline:
        offline.run(f"os.chdir({str(people.log.parent)!r})")
        assert offline.run(load + "same_logits(model, 'sima-deit.pt')")
        assert len(offline.run("pipeline('image-classification', model='org/sima-deit')('red.png')")) == 3
        with pytest.raises(ClientError, match="couldn't connect to"):
            offline.run("AutoModel.from_pretrained('org/sima')")
    assert hub.log == []


SETTINGS = """
torch.set_grad_enabled(True)
settings = {
    "push_to_hub": True, "max_steps": 2, "save_steps": 1, "per_device_train_batch_size": 4, "report_to": [],
    "disable_tqdm": True, "use_cpu": True, "eval_strategy": "no", "dataloader_num_workers": 0, "hub_strategy": "every_save",
}
"""
TRAINERS = {
    "transformers.Trainer": """
images = [{"pixel_values": torch.randn(3, 32, 32), "labels": n % 3} for n in range(8)]
arguments = TrainingArguments("trained", hub_model_id="org/trained", **settings)
trainer = Trainer(swapped(), arguments, train_dataset=images, processing_class=processor)
""",
    "SimATrainer": """
import datasets, numpy
from sima_hf.training.arguments import SimATrainingArguments
from sima_hf.data.images import TrainImages
from sima_hf.training.trainer import SimATrainer
from sima_hf.data.views import TrainView

pixels = numpy.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=numpy.uint8)
pictures = {"image": [Image.fromarray(one) for one in pixels], "label": [n % 3 for n in range(8)]}
images = TrainImages(datasets.Dataset.from_dict(pictures), TrainView(32))
arguments = SimATrainingArguments("trained-by-sima", hub_model_id="org/trained-by-sima", **settings)
trainer = SimATrainer(
    native(), arguments, [0.5] * 3, [0.25] * 3, train_dataset=images, processing_class=processor
)
""",
}


@pytest.mark.parametrize(("kind", "name"), [("transformers.Trainer", "trained"), ("SimATrainer", "trained-by-sima")])
def test_a_trainer_pushes_as_it_goes(hub, people, kind, name):
    people.apart(
        f"""{MODELS}{SETTINGS}{TRAINERS[kind]}
_ = trainer.train()
trainer.push_to_hub()
with torch.no_grad():
    save_logits(trainer.model, "{name}.pt")
""",
        HF_TOKEN=hub.token,
    )
    titles = [commit["title"] for commit in hub.commits(f"org/{name}")]
    assert titles[0] == "End of training"
    assert titles[-1] == "initial commit"
    assert any(title.startswith("Training in progress") for title in titles)
    loaded = f"import sima_hf; same_logits(AutoModelForImageClassification.from_pretrained('org/{name}'), '{name}.pt')"
    assert people.apart(loaded)
    assert len(people.apart(f"import sima_hf; pipeline('image-classification', model='org/{name}')('red.png')")) == 3


def test_a_trained_folder_is_published_for_those_without_sima_hf(hub, people):
    """What a Trainer pushed loads with sima_hf alone; `push` of the same folder adds what others need, and leaves pickles."""
    code = (
        MODELS
        + SETTINGS
        + TRAINERS["SimATrainer"]
        + """
_ = trainer.train()
trainer.save_model()
trainer.create_model_card()
with torch.no_grad():
    save_logits(plain(trainer.model), "shipped.pt")
    from sima_hf.hub import push
    plan = push("shipped", "org/shipped").plan
plan.left
"""
    )
    code = code.replace('"push_to_hub": True', '"push_to_hub": False').replace('"trained-by-sima"', '"shipped"')
    left = people.apart(code, HF_TOKEN=hub.token)
    assert {"training_args.bin", "checkpoint-2/"} <= set(left)
    assert [name for name in hub.files("org/shipped") if name.endswith((".bin", ".pt", ".pth"))] == []
    assert len(hub.commits("org/shipped")) == 2
    load = "AutoModelForImageClassification.from_pretrained('org/shipped', trust_remote_code=True)"
    assert people.apart(f"import sys; sys.modules['sima_hf'] = None; same_logits({load}, 'shipped.pt')")
