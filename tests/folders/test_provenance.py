"""Where a model comes from: written whole or not at all, added to, taken over from a folder, refused when broken."""

import json
import math
import os
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers

import sima_hf
from sima_hf.calibration.calibrate import CalibrationReport
from sima_hf.calibration.fit import LayerFit
from sima_hf.errors import PublishError
from sima_hf.folders.provenance import (
    PROVENANCE,
    calibration_facts,
    read_provenance,
    training_settings,
    write_provenance,
)


def test_what_is_written_is_read_and_others_keys_stay(tmp_path):
    (tmp_path / PROVENANCE).write_text('{"base_model": "org/old", "note": "by hand"}')
    assert write_provenance(tmp_path, base_model="org/new", calibration={"images": 5}) == tmp_path / PROVENANCE
    write_provenance(tmp_path, training={"seed": 3}, made_by="a script")
    assert read_provenance(tmp_path) == {
        "base_model": "org/new",
        "note": "by hand",
        "calibration": {"images": 5},
        "training": {"seed": 3},
        "made_by": "a script",
        "versions": {
            "sima_hf": sima_hf.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": sys.version.split()[0],
        },
    }
    assert read_provenance(tmp_path / PROVENANCE) == read_provenance(tmp_path)
    assert (tmp_path / PROVENANCE).stat().st_mode & 0o044 == 0o044  # others may read it, as the weights beside it


def test_without_a_file_nothing_is_known(tmp_path):
    assert read_provenance(tmp_path) == {}
    assert read_provenance(tmp_path / "no" / "folder") == {}


def test_a_folder_as_base_is_not_named_but_hands_on_what_it_knows(tmp_path):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for folder in (first, second, third):
        folder.mkdir()
    write_provenance(first, base_model="org/base", calibration={"images": 5})
    write_provenance(second, base_model=str(first), training={"seed": 1})
    found = read_provenance(second)
    assert (found["base_model"], found["calibration"], found["training"]) == ("org/base", {"images": 5}, {"seed": 1})
    (second / PROVENANCE).unlink()
    write_provenance(third, base_model=str(second))
    assert "base_model" not in read_provenance(third)
    assert str(tmp_path) not in (third / PROVENANCE).read_text()


def test_places_on_a_disk_are_their_last_part(tmp_path):
    given = {"calibration": {"data": "~/secret/birds"}, "training": {"seed": 3}, "dataset": "/home/alice/secret/birds"}
    path = write_provenance(tmp_path, base_model="/home/alice/secret/gone", **given, split="org/name, ../secret/cats")
    found = json.loads(path.read_text())
    assert found == read_provenance(tmp_path)
    assert "secret" not in path.read_text()
    assert (found["dataset"], found["calibration"], found["split"]) == ("birds", {"data": "birds"}, "org/name, cats")
    assert "base_model" not in found
    path.write_text(
        json.dumps({"dataset": "C:\\Users\\alice\\birds", "base_model": "org/base", "note": "see /home/alice/x.txt"})
    )
    assert read_provenance(tmp_path) == {"dataset": "birds", "base_model": "org/base", "note": "see x.txt"}


def test_another_model_in_the_folder_begins_anew(tmp_path):
    write_provenance(tmp_path, base_model="org/old", calibration={"images": 5})
    write_provenance(tmp_path, training={"seed": 1}, anew=True)
    assert set(read_provenance(tmp_path)) == {"training", "versions"}


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_provenance(tmp_path, base_model="org/old")
    before = (tmp_path / PROVENANCE).read_bytes()

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="No space"):
        write_provenance(tmp_path, base_model="org/new")
    assert [path.name for path in tmp_path.iterdir()] == [PROVENANCE]
    assert (tmp_path / PROVENANCE).read_bytes() == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"base_model": "org/ba', "cannot be read as JSON"),
        ('{"training": {"loss": NaN}}', "it has NaN in place of a number"),
        ("[1, 2]", "got a list"),
        ('{"base_model": 3}', "'base_model' in .* must be a JSON string, got 3"),
        ('{"training": "long"}', "'training' in .* got 'long'"),
    ],
)
def test_a_broken_file_is_a_sentence(tmp_path, content, words):
    (tmp_path / PROVENANCE).write_text(content)
    for act in (read_provenance, write_provenance):
        with pytest.raises(PublishError, match=words):
            act(tmp_path)
    assert (tmp_path / PROVENANCE).read_text() == content


@pytest.mark.parametrize("value", [math.nan, math.inf, object()])
def test_only_what_json_holds_is_written(tmp_path, value):
    with pytest.raises(PublishError, match="finite numbers"):
        write_provenance(tmp_path, training={"loss": value})
    assert not list(tmp_path.iterdir())


def test_no_folder_is_a_sentence(tmp_path):
    with pytest.raises(PublishError, match="There is no folder"):
        write_provenance(tmp_path / "none", base_model="org/base")


def test_training_settings_are_the_recipe_and_no_places(tmp_path):
    from sima_hf.training.arguments import LoopArguments, SimATrainingArguments

    given = {"output_dir": str(tmp_path / "secret"), "num_train_epochs": 3.0, "learning_rate": 2e-3, "seed": 7}
    for kind in (LoopArguments, SimATrainingArguments):
        found = training_settings(kind(**given), images_per_step=64)
        assert {name: found[name] for name in ("num_train_epochs", "learning_rate", "seed")} == {
            "num_train_epochs": 3.0,
            "learning_rate": 2e-3,
            "seed": 7,
        }
        assert found["images_per_step"] == 64
        assert "secret" not in json.dumps(found)
        assert "max_steps" not in found  # -1 means that the epochs count
        write_provenance(tmp_path, training=found)
        assert read_provenance(tmp_path)["training"] == found
    assert training_settings(SimpleNamespace(max_steps=12)) == {"max_steps": 12}


def test_calibration_facts_are_what_the_report_says():
    fits = (LayerFit("a", 0.5, 0.1), LayerFit("b", 0.3, 0.3))
    report = CalibrationReport(fits, {"ridge": 1e-6, "class_token_weight": None, "memory_budget": 5}, 128, 0, 2)
    facts = calibration_facts(report, "photos")
    assert facts == {
        "images": 128,
        "layers": 2,
        "bases": 2,
        "data": "photos",
        "unexplained_before": 0.4,
        "unexplained_after": 0.2,
        "ridge": 1e-6,
    }
    odd = CalibrationReport((LayerFit("a", math.inf, 0.1),), {}, 1, 0, 0)
    assert "unexplained_before" not in calibration_facts(odd)
