"""`sima-hf models`: the table, a few of it, the model in a folder."""

import json
import re

from sima_hf.patching.hosts import HOSTS, markdown_table


def test_models(run):
    rows = json.loads(run("models", "--json").out)
    assert {"vit", "deit", "dinov2"} <= {row["model_type"] for row in rows}
    plain = run("models").out.splitlines()
    assert [line.split()[0] for line in plain] == [row["model_type"] for row in rows]
    assert all(line.endswith(row["summary"]) for line, row in zip(plain, rows, strict=True)), "nothing is cut off"
    assert run("models", "--markdown").out == markdown_table() + "\n"


def test_some_models(run):
    found = run("models", "swinv2", "upernet")
    assert [line.split()[0] for line in found.out.splitlines()] == ["swinv2", "upernet"]
    (row,) = json.loads(run("models", "dpt", "--json").out)
    assert row["task"] == HOSTS["dpt"].task, "one that is swapped by itself, and stands on a tower of others, too"


def test_a_model_that_cannot_be_swapped_has_a_row_with_the_reason(run):
    found = run("models", "imagegpt", "vit", "bert")
    assert found.code == 1
    imagegpt, vit, bert = found.out.splitlines()
    assert re.match("imagegpt .*'imagegpt' cannot be swapped to SimA: ", imagegpt)
    assert vit.split() == run("models", "vit").out.split()
    assert "'bert' is not among the" in bert
    found = run("models", "imagegpt", "vit", "--json")
    assert found.code == 1
    refused, taken = json.loads(found.out)
    assert (refused["model_type"], refused["task"]) == ("imagegpt", "Refused")
    assert taken["summary"] == HOSTS["vit"].summary


def test_the_model_in_a_folder(saved, run):
    found = run("models", saved / "softmax")
    assert (found.code, found.out) == (0, run("models", "deit").out)
    (row,) = json.loads(run("models", saved / "softmax", "--json").out)
    assert (row["model_type"], row["folder"]) == ("deit", str(saved / "softmax"))
    assert "folder" not in json.loads(run("models", "deit", "--json").out)[0]


def test_what_is_neither_a_model_type_nor_the_folder_of_a_model(saved, photos, run):
    for name, words in (
        (saved / "sima", "'sima_deit' is SimA already, a swapped deit"),
        (saved / "native", "it is SimA by itself"),
        (saved / "bert", "'bert' is not among the"),
        (photos, "holds no model: it has no config.json"),
        (saved / "bare" / "config.json", "config.json is a file. Give the model_type"),
        ("facebook/deit-small-patch16-224", "neither a model type nor a folder that is here. Give the model_type"),
        ("ViT", "Similar names that can: vit, "),
        ("lava", "Similar names that can: llava, flava. `sima-hf models` lists them"),
    ):
        found = run("models", name)
        assert found.code == 1, name
        assert words in found.out
        assert found.err == ""
