"""`sima-hf patch` and `sima-hf calibrate`: from a softmax model and a folder of images to a folder with SimA."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoModelForImageClassification,
    CLIPConfig,
    CLIPModel,
)

from sima_hf import SimAImageProcessor
from sima_hf import patch_folder as swapping
from sima_hf.hub import read_provenance
from sima_hf.patching.certificate import Certificate, Operation
from tests.helpers.digit_answers import distance, logits


SECTION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def test_the_whole_way_in_one_line(saved, photos, tmp_path, run, caplog):
    out = tmp_path / "new" / "sima"
    found = run("patch", saved / "softmax", out, "--calibrate-with", photos, "--images", 80, "--certify")
    assert found.code == 0, found.err
    for words in (
        "SimA in the model: deit, 2 attentions",
        "Calibrated from 80 images",
        "no softmax ran",
        f"Saved in {out}",
    ):
        assert words in found.out
    assert "broken.jpg" in caplog.text
    assert "it/s" not in found.out
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "sima_provenance.json",
    }
    assert [path.name for path in out.parent.iterdir()] == ["sima"]
    assert json.loads((out / "config.json").read_text())["architectures"] == ["SimADeiTForImageClassification"]
    # `sima` is the same model, swapped and not calibrated.
    assert distance(out, saved / "softmax") < 0.5 * distance(saved / "sima", saved / "softmax")
    known = read_provenance(out)
    assert known["calibration"]["images"] == 80
    assert known["calibration"]["data"] == photos.name
    assert (known["gain"], known["made_by"]) == ("tokens", "sima-hf patch")
    assert run("certify", out).code == 0


def test_for_machines(saved, photos, tmp_path, run, caplog):
    found = run("patch", saved / "softmax", tmp_path / "out", "--calibrate-with", photos, "--gain", "none", "--json")
    facts = json.loads(found.out)
    assert facts["gain"] == facts["swapped"][0]["gain"] == "none"
    assert facts["calibration"]["images"] == 90
    assert len(facts["calibration"]["unreadable"]) == 1
    assert facts["certificate"] is None
    assert "fewer than 2048" in caplog.text
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["attention_gain"] == "none"


def test_the_same_images_give_the_same_weights_and_another_seed_others(saved, photos, tmp_path, run):
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        arguments = ("--calibrate-with", photos, "--images", 40, "--batch-size", 7, "--seed", seed)
        assert run("patch", saved / "softmax", tmp_path / name, *arguments).code == 0
    one, again, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "again", "two"))
    assert one == again != two


def test_without_calibration_it_says_so_and_keeps_the_weights(saved, tmp_path, run):
    found = run("patch", saved / "bare", tmp_path / "out")
    assert found.code == 0
    assert "Not calibrated" in found.out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "model.safetensors", "sima_provenance.json"}
    before, after = (
        AutoModelForImageClassification.from_pretrained(folder).state_dict()
        for folder in (saved / "bare", tmp_path / "out")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_softmax_that_is_left_means_no_folder(saved, tmp_path, run, monkeypatch):
    left = Operation("deit.layers.0.attention", "SimADeiTAttention", "aten::_softmax", 1, swapped=True)
    monkeypatch.setattr(swapping, "certify_made_up", lambda model: Certificate("SimADeiT", (left,), ("",)))
    found = run("patch", saved / "softmax", tmp_path / "out", "--certify", "--json")
    assert (found.code, found.out) == (1, "")
    assert "nothing was saved" in found.err
    assert "aten::_softmax in deit.layers.0.attention" in found.err
    assert list(tmp_path.iterdir()) == []


def test_a_text_side_keeps_its_softmax_and_this_is_reported(photos, tmp_path, run):
    parts = {"vision_config": {"image_size": 16, "patch_size": 8, **SECTION}}
    parts["text_config"] = {"vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2, **SECTION}
    CLIPModel(CLIPConfig(**parts, projection_dim=8)).save_pretrained(tmp_path / "clip")
    SimAImageProcessor.for_image_size(16).save_pretrained(tmp_path / "clip")
    found = run("patch", tmp_path / "clip", tmp_path / "out", "--calibrate-with", photos, "--certify")
    assert found.code == 0, found.err
    assert "none of them in what was swapped: vision_model" in found.out
    assert "left as it is: text_model" in found.out
    assert not list((tmp_path / "out").glob("*token*")), "there was no tokenizer to save"


def test_an_existing_folder(saved, tmp_path, run):
    out = tmp_path / "out"
    out.mkdir()
    assert run("patch", saved / "softmax", out).code == 0, "an empty folder is as good as none"
    (out / "README.md").write_text("mine")
    (out / "model-00001-of-00002.safetensors").write_text("of an older model")
    before = (out / "config.json").read_text()
    found = run("patch", saved / "softmax", out, "--gain", "none")
    assert found.code == 1
    assert "not empty" in found.err
    assert "--overwrite" in found.err
    assert (out / "config.json").read_text() == before
    (out / "ema.safetensors").write_text("my own average")
    (out / "evaluation.json").write_text("{}")
    found = run("patch", saved / "softmax", out, "--gain", "none", "--overwrite", "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["removed"] == ["evaluation.json", "model-00001-of-00002.safetensors"]
    assert (out / "ema.safetensors").read_text() == "my own average"
    assert json.loads((out / "config.json").read_text())["attention_gain"] == "none"
    assert (out / "README.md").read_text() == "mine"
    assert not (out / "model-00001-of-00002.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (out / "evaluation.json").write_text("{}")
    said = run("patch", saved / "softmax", out, "--overwrite").out
    assert "Removed with the model that was there: evaluation.json." in said


def test_calibrate_what_was_swapped_before(saved, photos, tmp_path, run):
    shutil.copytree(saved / "sima", tmp_path / "sima")
    arguments = ("--teacher", saved / "softmax", "--with", photos, "--images", 80, "--certify")
    found = run("calibrate", tmp_path / "sima", *arguments, "--output", tmp_path / "out", "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["certificate"]["softmax_free"] is True
    assert distance(tmp_path / "out", saved / "softmax") < 0.5 * distance(saved / "sima", saved / "softmax")
    # In one go or in two: the same images, the same equations.
    assert run("patch", saved / "softmax", tmp_path / "at-once", "--calibrate-with", photos, "--images", 80).code == 0
    torch.testing.assert_close(logits(tmp_path / "out"), logits(tmp_path / "at-once"))
    found = run("calibrate", tmp_path / "sima", *arguments, "--output", tmp_path / "sima", "--overwrite")
    assert found.code == 0, found.err
    torch.testing.assert_close(logits(tmp_path / "sima"), logits(tmp_path / "out"))
    assert read_provenance(tmp_path / "sima")["made_by"] == "sima-hf calibrate"


def test_an_interruption_leaves_nothing(saved, photos, tmp_path, run, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(swapping, "save_processors", stop)
    found = run("patch", saved / "softmax", tmp_path / "out")
    assert (found.code, found.out) == (130, "")
    assert found.err.endswith("\nsima-hf: interrupted.\n")
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_said_and_nothing_written(saved, photos, tmp_path, run):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(saved / "softmax")
    for index in range(3):
        (tmp_path / "broken" / f"{index}.png").write_bytes(b"no image")
    before = sorted(tmp_path.rglob("*"))
    out, softmax, sima = tmp_path / "out", saved / "softmax", saved / "sima"
    images = ("--calibrate-with", photos)
    teacher = ("--with", photos, "--output", out, "--teacher")
    for arguments, words in (
        (("patch", softmax, out, "--calibrate-with", tmp_path / "none"), "There is no folder .*none with images"),
        (("patch", softmax, out, "--calibrate-with", tmp_path / "empty"), "empty holds no images"),
        (("patch", softmax, out, "--calibrate-with", tmp_path / "broken"), r"None of the images .*\.png \(cannot"),
        (("patch", softmax, out, *images, "--max-unreadable", 0), r"More than 0 images .*broken\.jpg"),
        (("patch", softmax, out, *images, "--memory-gib", "inf"), "finite number of GiB, got inf"),
        (("patch", saved / "bare", out, *images), "without an image processor"),
        (("patch", saved / "bert", out), "'bert' is not among the"),
        (("patch", sima, out), "SimA already .SimADeiTForImageClassification.; give the softmax model"),
        (("patch", saved / "native", out), "SimA already"),
        (("patch", softmax, softmax, "--overwrite"), "is the softmax model itself"),
        (("patch", softmax, softmax / "sub"), "would lie inside the model .*softmax, which is read"),
        (
            ("calibrate", sima, *teacher, softmax, "--output", softmax, "--overwrite"),
            "is the teacher itself, which would",
        ),
        (
            ("calibrate", sima, *teacher, softmax, "--output", tmp_path / "link", "--overwrite"),
            "is the teacher itself",
        ),
        (
            ("calibrate", sima, *teacher, softmax, "--output", sima / "a" / "b"),
            "would lie inside the model .*sima, which",
        ),
        (
            ("calibrate", sima, *teacher, softmax, "--output", softmax / "sub"),
            "would lie inside the model .*softmax, which",
        ),
        (("patch", softmax, tmp_path / "file"), "is a file"),
        (("patch", softmax, tmp_path / "file" / "out"), "is a file"),
        (("patch", softmax, tmp_path / "broken", "--overwrite"), "holds no model"),
        (("patch", tmp_path / "file", out), "is a file; give the folder"),
        (("patch", tmp_path / "empty", out), r"holds no model: it has no config\.json"),
        (("calibrate", softmax, *teacher, softmax), "nothing was swapped"),
        (("calibrate", sima, *teacher, sima), "teacher .* is SimA itself"),
        (("calibrate", sima, *teacher, saved / "bert"), "must have the same parameters"),
        (("calibrate", sima, *teacher, tmp_path / "none"), "There is no folder"),
    ):
        found = run(*arguments)
        assert (found.code, found.out) == (1, ""), arguments
        sentence = found.err.split("sima-hf: ")[1]
        assert re.search(words, sentence), (arguments, sentence)
        assert sorted(tmp_path.rglob("*")) == before, arguments


@pytest.mark.slow
def test_the_whole_way_needs_no_optional_package(saved, photos, tmp_path):
    optional = ("accelerate", "datasets", "evaluate", "kornia", "matplotlib", "peft", "sklearn")
    arguments = ["patch", saved / "softmax", tmp_path / "out", "--calibrate-with", photos, "--images", 91, "--certify"]
    code = (
        f"import sys\nfor name in {optional}:\n    sys.modules[name] = None\n"
        f"from sima_hf.cli import main\nmain({[*map(str, arguments)]})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    assert "no softmax ran" in found.stdout
    assert "broken.jpg" in found.stderr
    assert found.stdout.isascii()


@pytest.mark.parametrize("command", ["patch", "calibrate", "certify", "evaluate"])
def test_a_folder_with_an_adapter_alone(command, saved, photos, tmp_path, run):
    """AutoModel would load the base that it names; what is asked for here is one model."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x"}')
    more = {
        "patch": [tmp_path / "out"],
        "calibrate": ["--with", photos, "--output", tmp_path / "out", "--teacher", saved / "softmax"],
    }
    found = run(command, tmp_path / "adapter", *more.get(command, []))
    assert found.code == 1
    assert "adapter holds a PEFT adapter (adapter_config.json) and no model of its own. Merge them: " in found.err
    assert not (tmp_path / "out").exists()


def test_another_attention(saved, photos, tmp_path, run):
    found = run(
        "patch",
        saved / "softmax",
        tmp_path / "inline",
        "--attention",
        "inline",
        "--calibrate-with",
        photos,
        "--certify",
    )
    assert found.code == 0, found.err
    assert "InLine core in the model: deit, 2 attentions, mechanism 'inline'" in found.out
    assert "0 blocks with another basis" in found.out
    assert json.loads((tmp_path / "inline" / "config.json").read_text())["attention_mechanism"] == "inline"
    known = read_provenance(tmp_path / "inline")
    assert (known["attention"], known.get("gain")) == ("inline", None)
    assert distance(tmp_path / "inline", saved / "softmax") < 0.5 * distance(saved / "sima", saved / "softmax")
    again = run(
        "calibrate",
        tmp_path / "inline",
        "--with",
        photos,
        "--output",
        tmp_path / "twice",
        "--teacher",
        saved / "softmax",
    )
    assert again.code == 0, again.err
    assert read_provenance(tmp_path / "twice")["attention"] == "inline"


def test_what_another_attention_does_not_have_is_said_before_any_work(saved, photos, tmp_path, run):
    for arguments, words in (
        (("--attention", "inline", "--gain", "none"), "`gain` is an option of SimA alone"),
        (("--attention", "rela", "--calibrate-with", photos), "`value` must be False for ReLA"),
    ):
        found = run("patch", saved / "softmax", tmp_path / "out", *arguments)
        assert found.code == 1
        assert words in found.err
        assert not (tmp_path / "out").exists()
    found = run("patch", saved / "softmax", tmp_path / "out", "--attention", "soft")
    assert found.code == 2
