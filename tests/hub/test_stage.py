"""The staging folder: exactly what readers get, with no link followed out of the folder and no local path in it."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForImageClassification

import sima_hf
from sima_hf.errors import PublishError
from sima_hf.folders.weights import keys_in
from sima_hf.hub import plan_push
from sima_hf.hub.checks import checked_stage
from tests.helpers.hosts.at_hand import vit
from tests.helpers.hub.pushes import WEIGHTS, published
from tests.helpers.hub.saved_folder import listing


BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks/results/model_deit-small_forward_cpu_float32.csv"


def names(plan):
    return {file.name for file in plan.files}


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_the_config_gets_the_places_of_the_code_and_keeps_the_rest(folder, tmp_path):
    (folder / "modeling_sima_vit.py").write_text("raise SystemExit")  # code is made anew
    published(folder, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "config.json").read_text())
    places = content.pop("auto_map")
    assert content == json.loads((folder / "config.json").read_text())
    assert places["AutoModelForImageClassification"] == "modeling_sima_vit.SimAViTForImageClassification"
    assert "SystemExit" not in (tmp_path / "out" / "modeling_sima_vit.py").read_text()
    plan = published(tmp_path / "out", tmp_path / "again")
    assert {file.name for file in plan.files if not file.note} == {WEIGHTS, "config.json", "preprocessor_config.json"}


# Weights


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "other.safetensors.index.json"])
@pytest.mark.parametrize("single", [True, False])
def test_shards_and_their_index_load_again(tmp_path, index, single):
    """One shard too, which `from_pretrained` does not find by its own name, and an index that the config names."""
    folder, shard = tmp_path / "model", "model-00001-of-00001.safetensors"
    sima_hf.patch_model(vit()).save_pretrained(folder, max_shard_size="1GB" if single else "20KB")
    if single:
        (folder / WEIGHTS).rename(folder / shard)
        places = dict.fromkeys(keys_in(folder / shard), shard)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    if index.startswith("other"):
        (folder / "model.safetensors.index.json").rename(folder / index)
        change_config(folder, transformers_weights=index)
    plan = published(folder, tmp_path / "out")
    assert {path.name for path in folder.glob("*safetensors*")} <= names(plan)
    assert plan.left == {}
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "out").config.model_type == "sima_vit"


def test_an_index_that_the_model_is_not_read_by(folder):
    (folder / "model.safetensors.index.json").write_text("{")
    assert set(plan_push(folder, "org/sima-vit").left) == {"model.safetensors.index.json"}


def test_weights_that_change_after_the_check(folder):
    with checked_stage(folder) as (stage, _):
        stage.check_unchanged()
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(content[:-1] + b"x")
        with pytest.raises(PublishError, match=WEIGHTS):
            stage.check_unchanged()
        (folder / WEIGHTS).unlink()
        with pytest.raises(PublishError, match=WEIGHTS):
            stage.check_unchanged()


# Pictures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('![p]( images/plot.png "title") ![q](b.png)', {"images/plot.png", "b.png"}),
        ("![p](my%20plot.png) ![q](<one.jpg>)", {"my plot.png", "one.jpg"}),
        ("![p](gr%C3%B6%C3%9Fe.png) ![p](plot_(1).png?raw=true#here)", {"größe.png", "plot_(1).png"}),
        ("![p](./b.png)", {"b.png"}),
        ('<img width="3" src="my plot.png"> <IMG alt="" src=\'b.png\'>', {"my plot.png", "b.png"}),
        ("![p](../b.png) ![p](/b.png) ![p](a/%2E%2E/b.png) ![p](https://example.org/b.png)", set()),
        ("b.png, and plot.png in images/", set()),
    ],
)
def test_pictures_that_the_readme_shows(folder, text, shown):
    (folder / "images").mkdir()
    for name in ("images/plot.png", "b.png", "my plot.png", "one.jpg", "größe.png", "plot_(1).png"):
        (folder / name).write_bytes(b"x")
    (folder / "README.md").write_text(f"# Mine\n\n{text}\n")
    plan = plan_push(folder, "org/sima-vit")
    assert {name for name in names(plan) if name.endswith(("png", "jpg"))} == shown


# Links


def secret(tmp_path):
    path = tmp_path / "secret.json"
    path.write_text(json.dumps({"eval_accuracy": 0.5, "base_model": "org/secret"}))
    return path


def test_a_folder_of_links(folder, tmp_path):
    """As the cache of the Hub keeps what it downloads; links that lead elsewhere are another thing."""
    cache = tmp_path / "models--org--sima-vit"
    snapshot = cache / "snapshots" / "0123abcd"
    (cache / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(folder.iterdir()):
        shutil.copy(path, cache / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    (snapshot / "broken").symlink_to("nowhere")
    (snapshot / "all_results.json").symlink_to(secret(tmp_path))
    plan = plan_push(snapshot, "org/sima-vit")
    sizes = {file.name: file.size for file in plan.files}
    assert sizes[WEIGHTS] == (folder / WEIGHTS).stat().st_size
    assert set(plan.left) == {"broken", "all_results.json"}


@pytest.mark.parametrize(
    "name", [WEIGHTS, "config.json", "preprocessor_config.json", "README.md", "LICENSE", "vocab.json"]
)
def test_a_link_out_of_the_folder_is_not_followed(name, folder, tmp_path):
    target = shutil.move(folder / name, tmp_path) if (folder / name).exists() else secret(tmp_path)
    (folder / name).symlink_to(target)
    with pytest.raises(PublishError, match=rf"{name} is a link to"):
        plan_push(folder, "org/sima-vit")
    (folder / name).unlink()
    shutil.copy(target, folder / f"another-{name}")
    (folder / name).symlink_to(f"another-{name}")  # a link that stays in it
    assert name in names(plan_push(folder, "org/sima-vit"))


def test_links_to_what_the_card_can_do_without_stay_behind(folder, tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "me.png").write_bytes(b"x")
    (folder / "README.md").write_text("![me](me.png) ![again](images/me.png)\n")
    (folder / "me.png").symlink_to(tmp_path / "secret" / "me.png")
    (folder / "images").symlink_to(tmp_path / "secret")
    links = ("evaluation.json", "all_results.json", "trainer_state.json", "sima_provenance.json")
    for name in links:
        (folder / name).symlink_to(secret(tmp_path))
    plan = plan_push(folder, "org/sima-vit")
    assert not names(plan) & {"me.png", "images/me.png", *links}
    assert {"me.png", *links} <= set(plan.left)
    assert "org/secret" not in plan.card
    assert "50.00%" not in plan.card


# Local paths


def test_no_file_names_a_folder_of_this_machine(folder, tmp_path):
    """Files that another tool wrote, or a hand; times stay as they are."""
    place = "/home/alice/secret/birds"
    model = {"class": "SimAViTForImageClassification", "model": "/home/alice/runs/checkpoint-9"}
    written = {
        "evaluation.json": {
            "accuracy": 0.5,
            "num_images": 9,
            "unreadable": [f"{place}/one.png: cannot be read"],
            "seconds": {f"{place}/one.png": 2},
            "settings": {**model, "data": f"{place}, validation split"},
        },
        "sima_provenance.json": {"base_model": "/home/alice/model", "dataset": place, "calibration": {"data": place}},
        "tokenizer_config.json": {
            "name_or_path": "~/secret/clip",
            "tokenizer_file": "C:\\Users\\alice\\secret\\tokenizer.json",
            "tokenizer_class": "CLIPTokenizer",
        },
        "preprocessor_config.json": {
            **json.loads((folder / "preprocessor_config.json").read_text()),
            "_name_or_path": "facebook/deit",
            "inner": {"name_or_path": "../secret/x"},
        },
    }
    for name, content in written.items():
        (folder / name).write_text(json.dumps(content))
    labels = {"0": "/m/01g317", "1": "~", "2": "../cat"}
    change_config(folder, _name_or_path="/home/alice/secret/deit", id2label=labels)
    head, *rows = csv.reader(io.StringIO(BENCHMARK.read_text()))
    note = "as run in /home/alice/secret/run, and again (log=/home/alice/secret/log.txt)"
    with (folder / "times.csv").open("w", newline="") as file:
        named = [["/home/alice/secret/deit", *row[1:], note] for row in rows]
        csv.writer(file).writerows([[*head, "note"], *named])
    before = listing(folder)
    plan = published(folder, tmp_path / "out")
    assert listing(folder) == before
    texts = {name: text for name, text in listing(tmp_path / "out").items() if name != WEIGHTS}
    assert not [name for name, text in texts.items() if b"alice" in text or b"secret" in text]
    found = {name: json.loads(texts[name]) for name in (*written, "config.json")}
    assert found["evaluation.json"]["settings"] == {
        **model,
        "model": "checkpoint-9",
        "data": "birds, validation split",
    }
    assert found["evaluation.json"]["unreadable"] == ["one.png: cannot be read"]
    assert found["evaluation.json"]["seconds"] == {"one.png": 2}
    assert found["sima_provenance.json"] == {"dataset": "birds", "calibration": {"data": "birds"}}
    assert found["tokenizer_config.json"] == {"tokenizer_class": "CLIPTokenizer"}
    assert found["preprocessor_config.json"]["_name_or_path"] == "facebook/deit"
    assert found["preprocessor_config.json"]["inner"] == {}
    assert found["config.json"]["id2label"] == labels
    shown = list(csv.reader(io.StringIO(texts["times.csv"].decode())))
    assert shown[1:] == [["deit", *row[1:], "as run in run, and again (log=log.txt)"] for row in rows]
    assert "without local paths" in str(plan)


@pytest.mark.parametrize("best", [None, "/home/alice/secret/run/checkpoint-9"])
def test_a_trainers_state(best, folder, tmp_path):
    state = {"best_model_checkpoint": best, "num_train_epochs": 7, "global_step": 91, "log_history": []}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    published(folder, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert found == {**state, "best_model_checkpoint": best and "checkpoint-9"}


def test_a_readme_that_is_not_utf_8(folder):
    (folder / "README.md").write_bytes("# Größe".encode("latin-1"))
    with pytest.raises(PublishError, match=r"README.md must be UTF-8.* byte 4"):
        plan_push(folder, "org/sima-vit")
