"""What a conversion keeps: rows against both models run anew, and a table that holds them."""

import argparse
import copy
import csv
import json
from pathlib import Path

import pytest
import torch

import sima_hf
from tests.helpers.calibrated_models import vit


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def conversion(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import conversion

    return conversion


@torch.no_grad()
def test_rows_and_files(conversion, tmp_path):
    torch.manual_seed(0)
    teacher = vit(num_labels=3)
    task = conversion.Task(
        teacher=teacher,
        pool=torch.randn(80, 3, 32, 32),
        pool_labels=torch.arange(80) % 8,
        test=torch.randn(10, 3, 32, 32),
        test_labels=torch.arange(10),
        prepare=lambda images: images,
        answers=lambda model, found: model.classifier(found).argmax(dim=1),
        features=lambda model, images: model.vit(images).last_hidden_state[:, 0],
    )
    task.test_labels = teacher(task.test).logits.argmax(dim=1)  # the original is right about all
    rows, reports = conversion.measure("vit", task, [8, 16], [32], {"value": False})
    assert [(row["how"], row["images"]) for row in rows] == [
        ("original", 0),
        ("swapped", 0),
        ("calibrated", 8),
        ("calibrated", 16),
        ("calibrated, classes 0 to 4", 16),
        ("calibrated and distilled", 32),
        ("distilled", 32),
    ]
    assert rows[0]["kept"] == rows[0]["agreement"] == 1
    assert rows[0]["cosine"] == pytest.approx(1)
    raw = sima_hf.patch_model(copy.deepcopy(teacher))
    agree = (raw(task.test).logits.argmax(dim=1) == task.test_labels).double().mean().item()
    assert rows[1]["kept"] == rows[1]["agreement"] == agree
    settings = argparse.Namespace(output_dir=tmp_path, wheel=None, images=[8, 16])
    conversion.write(settings, rows, {"vit": reports})
    with (tmp_path / "conversion.csv").open(encoding="utf-8") as file:
        assert [float(row["kept"]) for row in csv.DictReader(file)] == [row["kept"] for row in rows]
    facts = json.loads((tmp_path / "conversion.json").read_text(encoding="utf-8"))
    assert facts["settings"] == {"images": [8, 16]}
    assert len(facts["reports"]["vit"]["calibrated, 16"]["fits"]) == 4
