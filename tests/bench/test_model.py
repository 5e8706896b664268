"""The benchmark of whole models: its contestants are what they say, and what it writes is what it measured."""

import pytest
import torch
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTForImageClassification

from sima_hf import SimAConfig, attention, certify
from sima_hf.bench import model as model_benchmark
from sima_hf.bench import model_report, tables
from sima_hf.errors import UnsupportedModelError


pytestmark = pytest.mark.slow
NATIVE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(autouse=True)
def _a_tiny_model(monkeypatch):
    monkeypatch.setitem(model_benchmark.MODELS, "tiny", TINY)


@pytest.fixture(scope="module")
def rows():
    model_benchmark.MODELS["tiny"] = TINY
    found = [
        *model_benchmark.measure_model("tiny", sizes=((2, 32), (1, 48)), seconds=0.0),
        *model_benchmark.measure_model("tiny", sizes=((1, 32),), mode="train", seconds=0.0),
    ]
    del model_benchmark.MODELS["tiny"]
    return found


def test_every_contestant_at_every_size(rows):
    found = {(row.mode, row.contestant, row.batch, row.pixels) for row in rows}
    assert found == {
        (mode, contestant, *size)
        for mode, sizes in (("forward", ((2, 32), (1, 48))), ("train", ((1, 32),)))
        for contestant in ("softmax", "sima", "none")
        for size in sizes
    }
    assert all(0 < row.lower_quartile_ms <= row.median_ms <= row.upper_quartile_ms for row in rows)
    assert {row.ratio_to_baseline for row in rows if row.contestant == "softmax"} == {1.0}
    assert {row.attention for row in rows} == {"sdpa", "sima", "none"}
    assert {row.baseline for row in rows} == {"softmax"}


@pytest.mark.parametrize("against", ["sdpa", "eager"])
def test_the_contestants_have_the_same_weights(against):
    pair = model_benchmark.build("tiny", against)
    states = [model.state_dict() for model in pair.values()]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert pair["softmax"].config._attn_implementation == against
    images = model_benchmark._images(1, 32, torch.float32, "cpu")
    assert not certify(pair["softmax"], images).softmax_free
    assert certify(pair["sima"], images).softmax_free


def test_a_native_model_against_its_formula(monkeypatch):
    monkeypatch.setattr(model_benchmark.SimAConfig, "from_variant", lambda name: SimAConfig(**NATIVE))
    pair = model_benchmark.build("sima_small_12_p16")
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(pair["literal"](images).logits, pair["sima"](images).logits, rtol=1e-4, atol=1e-5)
    rows = model_benchmark.measure_model("sima_small_12_p16", sizes=((1, 64),), seconds=0.0)
    assert [(row.contestant, row.baseline) for row in rows] == [("literal", "literal"), ("sima", "literal")]


@pytest.mark.parametrize("name", ["tiny", "sima_small_12_p16"])
def test_nothing_is_timed_when_models_disagree(name, monkeypatch):
    """A sima_attention that is wrong but for the reference."""
    monkeypatch.setattr(model_benchmark.SimAConfig, "from_variant", lambda name: SimAConfig(**NATIVE))
    right = attention.sima_attention
    monkeypatch.setattr(
        attention,
        "sima_attention",
        lambda *args, backend, **options: (
            right(*args, backend=backend, **options) * (1 if backend == "reference" else 1.5)
        ),
    )
    with pytest.raises(RuntimeError, match="differs from its reference"):
        model_benchmark.build(name)


def test_no_attention_is_none():
    without = model_benchmark.build("tiny")["none"]
    assert certify(without, model_benchmark._images(1, 32, torch.float32, "cpu")).softmax_free


def test_training_steps_train():
    model = model_benchmark.build("tiny")["sima"]
    before = model.deit.layers[0].attention.q_proj.weight.clone()
    for parameter in model.parameters():
        parameter.data.mul_(10)  # so that a step of 1e-6 shows
    before = model.classifier.weight.clone()
    for _ in range(50):
        model_benchmark._step(model, model_benchmark._images(1, 32, torch.float32, "cpu"))
    assert not torch.equal(model.classifier.weight, before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_csv_table_and_picture(rows, tmp_path):
    tables.write_csv(rows, tmp_path / "model.csv")
    read = tables.read_csv(tmp_path / "model.csv")
    assert [float(row["median_ms"]) for row in read] == [row.median_ms for row in rows]
    model_report.draw(rows, tmp_path / "model.png")
    assert (tmp_path / "model.png").read_bytes().startswith(b"\x89PNG")
    assert model_report.table(rows).count("\n") == 3


def test_memory_is_measured_in_a_process_of_its_own(tmp_path):
    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 48}
    ViTForImageClassification(ViTConfig(**sizes, image_size=1024)).save_pretrained(tmp_path)
    softmax, sima = (model_benchmark.peak_memory(str(tmp_path), name, 1024, "eager") for name in ("softmax", "sima"))
    assert 100 * 2**20 < sima < softmax - 100 * 2**20  # one map of eager attention is 192 MiB


def test_the_process_for_memory_says_why_it_cannot(capsys):
    with pytest.raises(SystemExit) as stopped:
        model_benchmark._print_peak("tiny", "softmax", "8", "sdpa")  # less than a patch
    assert stopped.value.code == model_benchmark._REFUSED
    assert "size" in capsys.readouterr().out.splitlines()[-1]


def test_memory_of_a_process_that_cannot(monkeypatch, tmp_path):
    refusing = tmp_path / "python"
    refusing.write_text(f"#!/bin/sh\necho There is no folder\nexit {model_benchmark._REFUSED}\n")
    refusing.chmod(0o755)
    monkeypatch.setattr(model_benchmark.sys, "executable", str(refusing))
    with pytest.raises(ValueError, match="no-such-folder with sima did not run at 32 pixels: There is no folder"):
        model_benchmark.peak_memory("no-such-folder", "sima", 32)


def test_memory_of_a_process_that_dies(monkeypatch):
    monkeypatch.setattr(model_benchmark.sys, "executable", "false")
    with pytest.raises(RuntimeError, match="deit-tiny with sima did not run at 32 pixels"):
        model_benchmark.peak_memory("deit-tiny", "sima", 32)


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="`mode` must be one of 'forward', 'train'"):
        model_benchmark.measure_model("tiny", mode="backward")
    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="'resnet'"):
        model_benchmark.build(str(tmp_path))
