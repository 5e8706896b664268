"""`sima-hf train` and `sima-hf distill`: every argument arrives, help, mistakes, and a run from end to end."""

import json
import os

import pytest
import torch
from transformers import AutoModelForImageClassification

import sima_hf
from sima_hf.errors import DataError
from sima_hf.training import commands


SHORT = {
    "max_train_images": 64,
    "max_validation_images": 32,
    "per_device_train_batch_size": 32,
    "num_train_epochs": 1,
    "warmup_epochs": 0,
    "rand_augment": "none",
    "eval_crop_pct": 1.0,
    "dataloader_num_workers": 0,
    "save_strategy": "no",
    "disable_tqdm": True,
    "report_to": "none",
    "use_cpu": True,
}


def line(**arguments):
    return [word for name, value in {**SHORT, **arguments}.items() for word in (f"--{name}", str(value))]


@pytest.mark.parametrize("command", ["train", "distill"])
def test_help_lists_the_trainers_arguments_and_those_of_the_recipe(command, run):
    found = run(command, "--help")
    assert found.code == 0
    assert found.out.startswith(f"usage: sima-hf {command} ")
    for words in ("--rand_augment", "--gradient_checkpointing", "--train_dir", f"  sima-hf {command} --"):
        assert words in found.out
    assert ("--distillation_tau" in found.out) == (command == "distill")


@pytest.mark.parametrize("command", ["train", "distill"])
def test_every_word_arrives_in_its_place(command, run, monkeypatch):
    seen = []
    monkeypatch.setattr(commands, command, lambda arguments, *_: seen.append(arguments))
    monkeypatch.setenv("SIMA_HF_DEBUG", "")
    words = ["recipe.json", "--train_files", "a", "b", "--learning_rate=-1", "-h", "--version", "--no_bf16"]
    assert run(command, *words).code == 0
    assert run(command, *words, "--debug", "underflow_overflow").code == 0
    assert os.environ["SIMA_HF_DEBUG"] == ""
    assert run(command, *words, "--debug").code == 0
    assert os.environ["SIMA_HF_DEBUG"] == "1"
    assert seen == [words, [*words, "--debug", "underflow_overflow"], words]


def test_a_model_is_trained_and_measured(tmp_path, run):
    tiny = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,num_class_attention_layers=1"
    found = run("train", *line(variant="sima_nano_12_p8", config_overrides=tiny, image_size=32, output_dir=tmp_path))
    assert found.code == 0
    assert {"train_loss", "eval_accuracy"} <= set(json.loads((tmp_path / "all_results.json").read_text()))
    assert AutoModelForImageClassification.from_pretrained(tmp_path).num_labels == 10


def test_a_swapped_model_learns_from_its_original(saved, tmp_path, run):
    options = {"patch": saved / "softmax", "distillation_type": "soft", "attention_weight": 1, "logging_steps": 1}
    options |= {"teacher_labels": "order"}  # its classes have no names
    assert run("distill", *line(**options, output_dir=tmp_path)).code == 0
    history = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    assert {"distillation_loss", "attention_loss"} <= set().union(*history)
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert sima_hf.certify(model, torch.randn(1, 3, 16, 16)).softmax_free


def test_mistakes_are_sentences(tmp_path, run, monkeypatch):
    found = run("train", *line(variant="sima_nano_12_p8", train_dir=tmp_path / "nowhere", output_dir=tmp_path))
    assert found.code == 1
    assert found.err.splitlines()[-1].startswith("sima-hf train: ")
    assert "nowhere" in found.err.splitlines()[-1]
    found = run("distill", "--distillation_tau", "0", "--output_dir", tmp_path)
    assert (found.code, found.err) == (1, "sima-hf distill: --distillation_tau must be above 0, got 0.0.\n")
    found = run("train", "--no_such_thing", "1", "--output_dir", tmp_path)
    assert found.code != 0
    assert "no_such_thing" in found.err
    monkeypatch.setenv("SIMA_HF_DEBUG", "")
    with pytest.raises(DataError):
        sima_hf.cli.main(
            ["train", *line(variant="sima_nano_12_p8", train_dir=tmp_path / "no", output_dir=tmp_path), "--debug"]
        )
