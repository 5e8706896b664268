"""Distillation without labels from the command line: `sima-hf patch --distill-with` and `sima-hf distill --images`."""

import json

import pytest

from sima_hf.hub import read_provenance
from tests.helpers.digit_answers import distance


FEW = ("--num_images", 320, "--learning_rate", 3e-3, "--use_cpu")


@pytest.mark.slow
def test_swap_and_distill_in_one_line(saved, photos, tmp_path, run):
    out = tmp_path / "sima"
    steps = ("--distill-with", photos, "--distill-images", 320, "--learning-rate", 3e-3, "--device", "cpu")
    found = run("patch", saved / "softmax", out, *steps, "--certify", "--json")
    assert found.code == 0, found.err
    facts = json.loads(found.out)["distillation"]
    assert facts["after"]["loss"] < 0.5 * facts["before"]["loss"]
    assert distance(out, saved / "softmax") < 0.5 * distance(saved / "sima", saved / "softmax")
    known = read_provenance(out)["distillation"]
    assert known["images"] == 320
    assert known["data"] == photos.name
    assert known["cosine_after"] > known["cosine_before"]


@pytest.mark.slow
def test_a_model_that_was_swapped_before(saved, photos, tmp_path, run):
    names = ("--model_name_or_path", saved / "sima", "--teacher_model_name_or_path", saved / "softmax")
    found = run("distill", "--images", photos, *names, "--output_dir", tmp_path / "out", "--checkpoints", tmp_path / "run", *FEW)  # fmt: skip
    assert found.code == 0, found.err
    assert "Distilled from 320 images" in found.out
    assert distance(tmp_path / "out", saved / "softmax") < 0.5 * distance(saved / "sima", saved / "softmax")
    assert list((tmp_path / "run").glob("checkpoint-*"))
    assert read_provenance(tmp_path / "out")["made_by"] == "sima-hf distill"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--patch", "softmax", "--model_name_or_path", "sima"), "either --patch"),
        (("--model_name_or_path", "sima"), "--teacher_model_name_or_path"),
        (("--model_name_or_path", "sima", "--teacher_model_name_or_path", "sima"), "SimA itself"),
        (("--model_name_or_path", "softmax", "--teacher_model_name_or_path", "softmax"), "nothing was swapped"),
        (("--patch", "bare"), "preprocessor_config.json"),
        (("--patch", "softmax", "--attention=inlin"), "Did you mean 'inline'"),
        (
            ("--model_name_or_path", "sima", "--teacher_model_name_or_path", "softmax", "--attention=elu"),
            "--attention goes with",
        ),
    ],
    ids=[
        "two starts",
        "no teacher",
        "a teacher that is SimA",
        "softmax",
        "no image processor",
        "no attention",
        "an attention",
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(arguments, words, saved, photos, tmp_path, run):
    named = [saved / word if not word.startswith("--") else word for word in arguments]
    found = run("distill", "--images", photos, *named, "--output_dir", tmp_path / "out", *FEW)
    assert found.code == 1
    assert words in found.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_another_attention(saved, photos, tmp_path, run):
    names = ("--patch", saved / "softmax", "--attention", "inline")
    found = run("distill", "--images", photos, *names, "--output_dir", tmp_path / "out", *FEW)
    assert found.code == 0, found.err
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["attention_mechanism"] == "inline"
    )


def test_options_without_their_step_are_refused(saved, tmp_path, run):
    found = run("patch", saved / "softmax", tmp_path / "out", "--distill-images", 10)
    assert found.code == 2
    assert "--distill-with" in found.err
