"""The distillation script end to end on scikit-learn's digits, and what it says where nobody can teach."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification, ViTImageProcessor

import sima_hf


pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "distill.py"
SMALL = {
    "scale_learning_rate": False,
    "warmup_epochs": 0.5,
    "cooldown_epochs": 0,
    "rand_augment": "none",
    "color_jitter": 0,
    "random_erasing": 0,
    "mixup": 0,
    "cutmix": 0,
    "repeated_augmentation": 1,
    "train_view": "shift",
    "max_shift": 0.0625,
    "eval_crop_pct": 1.0,
    "per_device_train_batch_size": 64,
    "dataloader_num_workers": 0,
    "ema_decay": 0.9,
    "ema_warmup": True,
    "logging_steps": 5,
    "eval_strategy": "no",
    "save_strategy": "no",
    "disable_tqdm": True,
    "report_to": "none",
    "use_cpu": True,
}
NATIVE = "hidden_size=32,num_hidden_layers=1,num_attention_heads=2,num_class_attention_layers=1,patch_size=8"


def line(**arguments):
    return [word for name, value in {**SMALL, **arguments}.items() for word in (f"--{name}", str(value))]


def save_teacher(folder, model, names):
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A folder with a small softmax ViT that knows the digits."""
    bunch = load_digits()
    pixels = [Image.fromarray((image * 15.9375).round().astype(np.uint8)).resize((16, 16)) for image in bunch.images]
    images = torch.tensor(np.stack(pixels)).float()[:, None].expand(-1, 3, -1, -1) / 127.5 - 1
    labels = torch.tensor(bunch.target)
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTConfig(**sizes, intermediate_size=64, num_labels=10, initializer_range=0.1)
    model = ViTForImageClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.3)
    for _ in range(6):
        for rows in torch.randperm(len(images)).split(64):
            torch.nn.functional.cross_entropy(model(images[rows]).logits, labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        assert (model.eval()(images).logits.argmax(-1) == labels).float().mean() > 0.9
    return save_teacher(tmp_path_factory.mktemp("teacher"), model, [str(digit) for digit in range(10)])


@pytest.fixture
def distill(monkeypatch):
    """Run the script's main in this process, which saves the time of imports."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import distill

    def call(**arguments):
        monkeypatch.setattr(sys, "argv", ["distill.py", *line(**arguments)])
        distill.main()

    return call


def results(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    parts = {
        name: [entry[name] for entry in history if name in entry]
        for name in ("base_loss", "distillation_loss", "attention_loss")
    }
    return json.loads((folder / "all_results.json").read_text())["eval_accuracy"], parts


def test_a_swapped_model_learns_from_its_original(teacher, tmp_path, distill):
    """An epoch with labels, answers and attention, after calibration."""
    out = tmp_path / "out"
    distill(
        patch=teacher,
        calibrate=256,
        distillation_type="soft",
        distillation_tau=3,
        attention_weight=1,
        learning_rate=5e-4,
        num_train_epochs=1,
        output_dir=out,
    )
    accuracy, parts = results(out)
    assert accuracy > 0.85
    assert [len(curve) for curve in parts.values()] == [4, 4, 4]
    assert parts["base_loss"][-1] < parts["base_loss"][0]
    # Shares of the original's variance; without calibration it is about a hundred times as much.
    assert max(parts["attention_loss"]) < 0.5
    model = AutoModelForImageClassification.from_pretrained(out)
    assert type(model).__name__ == "SimAViTForImageClassification"
    assert sima_hf.certify(model, torch.randn(1, 3, 16, 16)).softmax_free
    assert load_file(out / "model.safetensors").keys() == model.state_dict().keys()


def test_a_native_model_learns_from_another_kind(teacher, tmp_path, distill):
    """Another resolution, normalization and order of classes than the teacher's; nothing but the teacher's decisions."""
    model = ViTForImageClassification.from_pretrained(teacher)
    for parameter in model.classifier.parameters():
        parameter.data = parameter.data.flip(0)
    backwards = save_teacher(tmp_path / "backwards", model, "9876543210")
    distill(
        variant="sima_nano_12_p8",
        image_size=32,
        config_overrides=f"{NATIVE},attention_gain=tokens",
        teacher_model_name_or_path=backwards,
        distillation_type="hard",
        distillation_alpha=1.0,
        learning_rate=3e-3,
        num_train_epochs=4,
        output_dir=tmp_path / "out",
    )
    accuracy, parts = results(tmp_path / "out")
    assert accuracy > 0.6
    assert parts["distillation_loss"][-1] < 0.8 * parts["distillation_loss"][0]
    assert not parts["attention_loss"]


def test_what_it_says_where_nobody_can_teach(teacher, tmp_path, distill, capsys):
    model = ViTForImageClassification.from_pretrained(teacher)
    foreign = save_teacher(tmp_path / "foreign", model, "abcdefghij")
    native = {"variant": "sima_nano_12_p8", "image_size": 32, "config_overrides": NATIVE}
    cases = [
        ({**native, "distillation_type": "soft"}, "No teacher given: pass --teacher_model_name_or_path"),
        (
            {**native, "distillation_type": "soft", "teacher_model_name_or_path": foreign},
            "The teacher's 10 classes and the student's 10 have no name in common: the teacher has 'a', 'b'",
        ),
        (
            {**native, "attention_weight": 1, "teacher_model_name_or_path": teacher},
            "no attention that was swapped for SimA",
        ),
        ({**native, "distillation_type": "warm"}, "--distillation_type must be one of none, soft, hard"),
    ]
    for number, (arguments, words) in enumerate(cases):
        with pytest.raises(SystemExit) as stopped:
            distill(**arguments, output_dir=tmp_path / str(number))
        assert stopped.value.code == 1
        said = capsys.readouterr().err
        assert "distill: " in said
        assert words in said
