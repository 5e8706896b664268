"""The published files work alone: copied flat beside a checkpoint, they load where sima_hf cannot be imported."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch

import sima_hf
from sima_hf import SimAConfig, SimAForImageClassification


SOURCES = Path(sima_hf.__file__).parent / "models" / "sima"
HIDE = "import sys; sys.modules['sima_hf'] = None\n"


def test_a_folder_with_the_code_beside_it(tmp_path):
    model = SimAForImageClassification(SimAConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)).eval()
    folder = tmp_path / "published"
    model.save_pretrained(folder)
    for name in ("configuration_sima.py", "embeddings_sima.py", "modeling_sima.py"):
        shutil.copy(SOURCES / name, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "configuration_sima.SimAConfig",
        "AutoModel": "modeling_sima.SimAModel",
        "AutoModelForImageClassification": "modeling_sima.SimAForImageClassification",
    }
    (folder / "config.json").write_text(json.dumps(config))
    images = torch.randn(2, 3, 48, 64)
    torch.save(images, tmp_path / "images.pt")
    code = f"""{HIDE}
import torch
from transformers import AutoModel, AutoModelForImageClassification
images = torch.load({str(tmp_path / "images.pt")!r})
model = AutoModelForImageClassification.from_pretrained({str(folder)!r}, trust_remote_code=True).eval()
assert type(AutoModel.from_pretrained({str(folder)!r}, trust_remote_code=True)).__name__ == "SimAModel"
torch.save(model(images).logits, {str(tmp_path / "logits.pt")!r})
"""
    environment = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert run.returncode == 0, run.stderr[-3000:]
    model.set_attn_implementation("eager")  # what there is without the package
    assert torch.equal(torch.load(tmp_path / "logits.pt"), model(images).logits)
