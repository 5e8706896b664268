"""Both training scripts with --push_to_hub True, against the Hub on loopback: a card, the code, no pickles; a softmax baseline too."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tests.helpers.hub.client import Client
from tests.helpers.hub.server import HubServer


pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
SIZES = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=16,image_size=16,patch_size=8"
SHORT = [
    *("--config_overrides", SIZES, "--image_size", "16", "--train_view", "shift", "--rand_augment", "none"),
    *("--max_train_images", "32", "--max_validation_images", "16", "--per_device_train_batch_size", "16"),
    *("--per_device_eval_batch_size", "16", "--max_steps", "2", "--ema_decay", "0", "--report_to", "none"),
    *("--warmup_epochs", "0", "--cooldown_epochs", "0", "--push_to_hub", "True"),
]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server
        assert server.failures == []


@pytest.fixture(scope="module")
def user(hub, tmp_path_factory):
    """A process with a token that has imported what the scripts import."""
    place = tmp_path_factory.mktemp("user")
    imports = "import sima_hf.hub.pushing, sima_hf.training.loop, sima_hf.training.run, sima_hf.training.trainer\n"
    imports += "import kornia.augmentation, matplotlib.pyplot, sklearn.datasets, transformers.pipelines, runpy, sys\n"
    imports += f"__import__('torch').set_num_threads(1); sys.path.insert(0, {str(EXAMPLES)!r})"
    with Client(hub.environment(place / "home", hub.token), place / "log", imports) as process:
        yield process


def train(hub, user, place, script, model_type):
    """Train for two steps and push; the files that arrived, the commits, and what was printed."""
    words = [script, "--model_type", model_type, "--output_dir", str(place / model_type)]
    words += ["--hub_model_id", f"org/{place.name}", *SHORT]
    start = len(user.printed)
    user.apart(f"sys.argv = {words!r}\nrunpy.run_path({str(EXAMPLES / script)!r}, run_name='__main__')\nNone")
    return hub.files(f"org/{place.name}"), hub.commits(f"org/{place.name}"), user.printed[start:]


@pytest.mark.parametrize("script", ["run_image_classification.py", "run_image_classification_no_trainer.py"])
def test_a_script_publishes_what_it_trained(hub, user, tmp_path_factory, script):
    files, commits, printed = train(hub, user, tmp_path_factory.mktemp("sima-deit"), script, "sima_deit")
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} < set(files)
    assert {"modeling_sima_deit.py", "sima_attention.py", "sima_provenance.json", "all_results.json"} < set(files)
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth"))]
    assert len(commits) == 2, "one to make the repository, one with everything"
    assert commits[0]["oid"] in printed
    card = ModelCard(files["README.md"].decode())
    assert card.data.pipeline_tag == "image-classification"
    assert "scikit-learn" in card.text or "digits" in card.text


def test_a_softmax_baseline_is_pushed_as_transformers_does_it(hub, user, tmp_path_factory):
    files, _, _ = train(hub, user, tmp_path_factory.mktemp("deit"), "run_image_classification.py", "deit")
    assert {"config.json", "model.safetensors", "README.md", "sima_provenance.json"} < set(files)
    assert not [name for name in files if name.endswith(".py")]
