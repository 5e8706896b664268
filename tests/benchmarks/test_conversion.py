"""What a conversion keeps: rows against both models run anew, and a table that holds them."""

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
    from conversion_tasks import Task

    task = Task(
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
    results = conversion.Results("vit_12", task, tmp_path / "conversion_vit_12.json", {"pixels": 32})
    conversion.measure(task, results, tmp_path, [8, 16], 12, [32])
    facts = json.loads(results.path.read_text(encoding="utf-8"))
    rows = facts["rows"]
    assert [(row["how"], row["images"]) for row in rows] == [
        ("original", 0),
        ("swapped", 0),
        ("calibrated", 8),
        ("calibrated", 16),
        ("calibrated and distilled", 32),
        ("distilled", 32),
        ("calibrated on classes 0 to 4", 12),
    ]
    assert rows[0]["kept"] == rows[0]["agreement"] == 1
    assert rows[0]["cosine"] == pytest.approx(1)
    raw = sima_hf.patch_model(copy.deepcopy(teacher))
    agree = (raw(task.test).logits.argmax(dim=1) == task.test_labels).double().mean().item()
    assert rows[1]["kept"] == rows[1]["agreement"] == agree
    again = conversion.Results("vit_12", task, results.path, {"pixels": 32})
    conversion.measure(task, again, tmp_path, [8, 16], 12, [32])  # everything is there
    assert json.loads(results.path.read_text(encoding="utf-8"))["rows"] == rows
    assert facts["settings"] == {"pixels": 32}
    assert len(rows[3]["report"]["fits"]) == 4
    _check_pages(results.path, rows, tmp_path)


def _check_pages(path, rows, folder):
    """The CSV, the picture and the tables say what the file says."""
    import conversion_figure

    conversion_figure.write_csv([path], folder / "all.csv")
    with (folder / "all.csv").open(encoding="utf-8") as file:
        assert [float(row["kept"]) for row in csv.DictReader(file)] == [row["kept"] for row in rows]
    conversion_figure.draw_figure([path], folder / "all.png")
    assert (folder / "all.png").read_bytes().startswith(b"\x89PNG")
    page = folder / "page.md"
    page.write_text(
        "<!-- conversion:start -->\n<!-- conversion:end -->\n<!-- readme-conversion:start -->\n<!-- readme-conversion:end -->\n"
    )
    conversion_figure.update_pages([path], page, page)
    text = page.read_text(encoding="utf-8")
    assert f"{100 * rows[-3]['kept']:.1f} % (32)" in text
    assert f"{100 * rows[3]['kept']:.1f} % (16 images)" in text
