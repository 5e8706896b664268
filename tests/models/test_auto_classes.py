"""What `import sima_hf` does to Transformers, each time in a process that has not imported it: it adds names, late, and changes nothing."""

import subprocess
import sys

import pytest

from sima_hf import SimAConfig, SimAForImageClassification, SimAImageProcessor
from tests.helpers.fresh_process import fresh


def run_before_transformers(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "sima"
    config = SimAConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, id2label={0: "cat", 1: "dog"})
    SimAForImageClassification(config).save_pretrained(path)
    SimAImageProcessor.for_image_size(32).save_pretrained(path)
    return path


USE = """
import torch
from PIL import Image
from transformers.models.auto.image_processing_auto import AutoImageProcessor
folder = {folder!r}
config = AutoConfig.from_pretrained(folder)
assert type(config).__module__ == "sima_hf.models.sima.configuration_sima"
assert type(AutoModel.from_pretrained(folder)).__name__ == "SimAModel"
assert type(AutoModelForImageClassification.from_pretrained(folder)).__name__ == "SimAForImageClassification"
assert type(AutoBackbone.from_config(config)).__name__ == "SimABackbone"
assert AutoImageProcessor.from_pretrained(folder).crop_size["height"] == 32
answers = pipeline("image-classification", model=folder)(Image.new("RGB", (40, 50)))
assert {{answer["label"] for answer in answers}} == {{"cat", "dog"}}
assert not any(type(finder).__module__ == "sima_hf.importing.import_hooks" for finder in sys.meta_path)
import sima_hf
assert sima_hf.SimAModel is type(AutoModel.from_config(config))
print("all of it")
"""
AUTO = "from transformers import AutoBackbone, AutoConfig, AutoModel, AutoModelForImageClassification, pipeline"


@pytest.mark.parametrize(
    ("start", "run"),
    [
        pytest.param(f"import sima_hf\n{AUTO}", run_before_transformers, marks=pytest.mark.slow),
        (f"{AUTO}\nimport sima_hf", fresh),
    ],
    ids=["sima_hf-first", "transformers-first"],
)
def test_auto_classes_and_pipeline(start, run, folder):
    result = run(f"import sys\n{start}\n{USE.format(folder=str(folder))}")
    assert result.stdout.strip().endswith("all of it"), result.stderr[-3000:]


@pytest.mark.slow
def test_a_config_made_first_is_enough(folder):
    code = """
from sima_hf.models.sima.configuration_sima import SimAConfig
config = SimAConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
from transformers import AutoModel
print(type(AutoModel.from_config(config)).__name__)
"""
    result = run_before_transformers(code)
    assert result.stdout.strip().endswith("SimAModel"), result.stderr[-3000:]


def test_without_sima_hf_a_folder_fails_by_name(folder):
    code = f"from transformers import AutoModel\nAutoModel.from_pretrained({str(folder)!r})"
    result = fresh(code)
    assert result.returncode != 0
    assert "model type `sima`" in result.stderr
    assert "does not recognize this architecture" in result.stderr


def test_importing_and_using_it_changes_nothing_else():
    code = """
import torch, transformers, transformers.modeling_utils as m
from transformers import AutoModel, ViTConfig, ViTForImageClassification
def watched():
    owners = (m, m.PreTrainedModel, AutoModel, transformers.AutoConfig, ViTForImageClassification, torch.nn.functional, torch.nn.Linear)
    return [{k: id(v) for k, v in vars(owner).items() if callable(v)} for owner in owners]
def logits():
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32)
    model = ViTForImageClassification(config).eval()
    return model.config._attn_implementation, model(torch.randn(2, 3, 32, 32)).logits
before, (attention, expected) = watched(), logits()
functions = dict(m.ALL_ATTENTION_FUNCTIONS.items())
import sima_hf
sima_hf.SimAForImageClassification(sima_hf.SimAConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
assert watched() == before
again, found = logits()
assert again == attention and torch.equal(found, expected)
after = dict(m.ALL_ATTENTION_FUNCTIONS.items())
from sima_hf.peers import PEERS
assert not PEERS.keys() & functions.keys()
assert {k: v for k, v in after.items() if not k.startswith("sima") and k not in PEERS} == functions
print("unchanged")
"""
    result = fresh(code)
    assert result.stdout.strip().endswith("unchanged"), result.stderr[-3000:]
