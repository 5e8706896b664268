"""What a push would publish: which files, what stays behind and why, and the card; nothing is touched."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForImageClassification

import sima_hf
from sima_hf.errors import PublishError
from sima_hf.folders import manifest
from sima_hf.folders.weights import keys_in
from sima_hf.hub import CardFacts, find_facts, plan_push, push, write_provenance
from sima_hf.training.checkpoints import folders as checkpoints
from tests.helpers.hosts.at_hand import vit
from tests.helpers.hub.saved_folder import listing


CODE = {"modeling_sima_vit.py", "sima_attention.py"}
WEIGHTS = "model.safetensors"
BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks/results/model_deit-small_forward_cpu_float32.csv"


def test_a_plan_says_what_would_be_published(folder):
    before = listing(folder)
    plan = plan_push(folder, "org/sima-vit", revision="v2", private=True)
    assert listing(folder) == before
    files = {file.name: file for file in plan.files}
    assert set(files) == {"README.md", "config.json", "preprocessor_config.json", WEIGHTS, *CODE}
    assert files[WEIGHTS].size == (folder / WEIGHTS).stat().st_size
    assert files[WEIGHTS].source == folder / WEIGHTS
    assert {name for name, file in files.items() if file.source is None} == {"README.md", "config.json", *CODE}
    assert all(len(file.content) == file.size for file in plan.files if file.source is None)
    assert plan.left == {}
    text = str(plan)
    assert text.startswith(f"org/sima-vit, branch v2, private: 6 files, {plan.size / 1000:.0f} kB")
    assert plan.card in text
    assert all(name in text for name in files)
    data = json.loads(json.dumps(plan.to_dict()))
    assert [file["name"] for file in data["files"] if not file["made"]] == [WEIGHTS, "preprocessor_config.json"]
    assert (data["bytes"], data["card"]) == (plan.size, plan.card)


def test_the_config_gets_the_places_of_the_code_and_keeps_the_rest(folder):
    made = {file.name: file for file in plan_push(folder, "org/sima-vit").files}["config.json"]
    content = json.loads(made.content)
    places = content.pop("auto_map")
    assert content == json.loads((folder / "config.json").read_text())
    assert places["AutoModelForImageClassification"] == "modeling_sima_vit.SimAViTForImageClassification"
    (folder / "config.json").write_bytes(made.content)
    made = {file.name: file for file in plan_push(folder, "org/sima-vit").files}["config.json"]
    assert made.source == folder / "config.json"


def test_what_stays_behind_and_why(folder):
    for name in ("optimizer.pt", "notes.txt", ".env", "modeling_sima_deit.py", "old.safetensors", "my.csv", "cat.png"):
        (folder / name).write_text("x")
    (folder / "checkpoint-30").mkdir()
    (folder / "runs" / "events").mkdir(parents=True)
    (folder / "LICENSE").write_text("x")
    plan = plan_push(folder, "org/sima-vit")
    words = {
        "optimizer.pt": "training's state",
        "notes.txt": "not among the files",
        ".env": "hidden",
        "modeling_sima_deit.py": "made anew",
        "old.safetensors": "not what the model loads",
        "my.csv": "card does not name",
        "cat.png": "does not show",
        "checkpoint-30/": "training checkpoint",
        "runs/": "a folder",
    }
    assert set(plan.left) == set(words)
    assert all(word in plan.left[name] for name, word in words.items())
    assert all(f"{name} " in str(plan) and reason in str(plan) for name, reason in plan.left.items())
    assert "LICENSE" in {file.name for file in plan.files}


def test_code_in_the_folder_is_made_anew(folder):
    (folder / "modeling_sima_vit.py").write_text("raise SystemExit")
    made = {file.name: file for file in plan_push(folder, "org/sima-vit").files}["modeling_sima_vit.py"]
    assert made.source is None
    assert b"SystemExit" not in made.content


def test_shards_and_their_index(saved, tmp_path):
    sima_hf.patch_model(vit()).save_pretrained(tmp_path, max_shard_size="20KB")
    names = {file.name for file in plan_push(tmp_path, "org/sima-vit").files}
    assert {path.name for path in tmp_path.glob("model*")} <= names
    assert "model.safetensors.index.json" in names


def in_shards(folder, index="model.safetensors.index.json", **config):
    """The one file of weights as a single shard, under an index."""
    (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
    places = dict.fromkeys(keys_in(folder / "model-00001-of-00001.safetensors"), "model-00001-of-00001.safetensors")
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))


def published(plan, folder):
    """A plan's files in a folder of their own."""
    folder.mkdir()
    for file in plan.files:
        (folder / file.name).write_bytes(file.source.read_bytes() if file.content is None else file.content)
    return folder


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "other.safetensors.index.json"])
def test_a_single_shard_and_its_index(folder, tmp_path, index):
    """`from_pretrained` finds no shard by its own name."""
    in_shards(folder, index, **({"transformers_weights": index} if index.startswith("other") else {}))
    plan = plan_push(folder, "org/sima-vit")
    names = {file.name for file in plan.files}
    assert {index, "model-00001-of-00001.safetensors"} <= names
    assert plan.left == {}
    again = published(plan, tmp_path / "published")
    assert AutoModelForImageClassification.from_pretrained(again).config.model_type == "sima_vit"


def test_shards_under_an_index_of_another_name(tmp_path):
    sima_hf.patch_model(vit()).save_pretrained(tmp_path, max_shard_size="20KB")
    (tmp_path / "model.safetensors.index.json").rename(tmp_path / "other.safetensors.index.json")
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "transformers_weights": "other.safetensors.index.json"})
    )
    plan = plan_push(tmp_path, "org/sima-vit")
    assert {path.name for path in tmp_path.glob("*safetensors*")} <= {file.name for file in plan.files}


def test_an_index_that_the_model_is_not_read_by(folder):
    (folder / "model.safetensors.index.json").write_text("{")
    assert set(plan_push(folder, "org/sima-vit").left) == {"model.safetensors.index.json"}


def test_pictures_that_the_readme_shows(folder):
    (folder / "images").mkdir()
    for name in ("one.png", "two.jpg", "images/three.png", "images/four.png"):
        (folder / name).write_bytes(b"x")
    (folder.parent / "outside.png").write_bytes(b"x")
    (folder / "README.md").write_text(
        '# Mine\n\n![one](one.png "title") <img width="3" src="images/three.png">\n![no](../outside.png) '
        "![far](https://example.org/two.jpg) ![code](config.json)\n"
    )
    plan = plan_push(folder, "org/sima-vit")
    assert {"one.png", "images/three.png"} == {file.name for file in plan.files if file.name.endswith(("png", "jpg"))}
    assert set(plan.left) == {"two.jpg", "images/four.png"}


def test_the_readme_of_the_folder_is_merged(folder):
    (folder / "README.md").write_text("# My model\n\nWritten by hand.\n")
    card = plan_push(folder, "org/sima-vit").card
    assert "Written by hand." in card
    assert card.count("sima_hf:start") == 1


def test_a_readme_that_is_not_utf_8(folder):
    (folder / "README.md").write_bytes("# Größe".encode("latin-1"))
    with pytest.raises(PublishError, match=r"README.md is not UTF-8 .* at byte 4"):
        plan_push(folder, "org/sima-vit")


def test_files_of_the_same_name(folder, tmp_path):
    other = tmp_path / "preprocessor_config.json"
    other.write_text(json.dumps({"eval_accuracy": 0.5, "epoch": 1.0}))
    with pytest.raises(PublishError, match=r"would both be published as preprocessor_config\.json"):
        plan_push(folder, "org/sima-vit", facts=CardFacts(results=other))


def test_results_that_the_card_names_are_published(folder, tmp_path):
    """With the one file from the folder and the other from elsewhere, each under its own name."""
    results = tmp_path / "elsewhere" / "all_results.json"
    results.parent.mkdir()
    results.write_text(json.dumps({"eval_accuracy": 0.5, "epoch": 1.0}))
    write_provenance(folder, base_model="facebook/deit-small-patch16-224")
    facts = find_facts(folder, results=results, dataset="cifar10")
    plan = plan_push(folder, "org/sima-vit", facts=facts)
    sources = {file.name: file.source for file in plan.files}
    assert sources["all_results.json"] == results
    assert sources["sima_provenance.json"] == folder / "sima_provenance.json"
    assert "all_results.json" in plan.card


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
    (snapshot / "all_results.json").symlink_to(_secret(tmp_path))
    plan = plan_push(snapshot, "org/sima-vit")
    sizes = {file.name: file.size for file in plan.files}
    assert sizes[WEIGHTS] == (folder / WEIGHTS).stat().st_size
    assert set(plan.left) == {"broken", "all_results.json"}


def _secret(tmp_path):
    path = tmp_path / "secret.json"
    path.write_text(json.dumps({"eval_accuracy": 0.5, "base_model": "org/secret"}))
    return path


@pytest.mark.parametrize(
    "name", [WEIGHTS, "config.json", "preprocessor_config.json", "README.md", "LICENSE", "vocab.json"]
)
def test_a_link_out_of_the_folder_is_not_followed(name, folder, tmp_path):
    target = shutil.move(folder / name, tmp_path) if (folder / name).exists() else _secret(tmp_path)
    (folder / name).symlink_to(target)
    with pytest.raises(PublishError, match=rf"{name} is a link to .*outside of the folder"):
        plan_push(folder, "org/sima-vit")
    (folder / name).unlink()
    shutil.copy(target, folder / f"another-{name}")
    (folder / name).symlink_to(f"another-{name}")  # a link that stays in it
    assert name in {file.name for file in plan_push(folder, "org/sima-vit").files}


def test_links_to_what_the_card_can_do_without_stay_behind(folder, tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "me.png").write_bytes(b"x")
    (folder / "README.md").write_text("![me](me.png) ![again](images/me.png)\n")
    (folder / "me.png").symlink_to(tmp_path / "secret" / "me.png")
    (folder / "images").symlink_to(tmp_path / "secret")
    names = ("evaluation.json", "all_results.json", "trainer_state.json", "sima_provenance.json")
    for name in names:
        (folder / name).symlink_to(_secret(tmp_path))
    plan = plan_push(folder, "org/sima-vit")
    assert not {file.name for file in plan.files} & {"me.png", "images/me.png", *names}
    assert all("leads out of the folder" in plan.left[name] for name in ("me.png", *names))
    assert "org/secret" not in plan.card
    assert "50.00%" not in plan.card


def test_no_file_names_a_folder_of_this_machine(folder):
    """Files that an earlier version wrote, or a hand."""
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
        "sima_provenance.json": {
            "base_model": "/home/alice/model",
            "dataset": place,
            "calibration": {"data": place, "images": 3},
        },
    }
    for name, content in written.items():
        (folder / name).write_text(json.dumps(content))
    head, *rows = csv.reader(io.StringIO(BENCHMARK.read_text()))
    file = io.StringIO(newline="")
    note = "as run in /home/alice/secret/run, and again (log=/home/alice/secret/log.txt)"
    named = [["/home/alice/secret/deit", *row[1:], note] for row in rows]
    csv.writer(file, lineterminator="\n").writerows([[*head, "note"], *named])
    times = file.getvalue()
    (folder / "times.csv").write_text(times)
    plan = plan_push(folder, "org/sima-vit")
    texts = {file.name: file.content or file.source.read_bytes() for file in plan.files if file.name != WEIGHTS}
    assert not [name for name, text in texts.items() if b"alice" in text or b"secret" in text]
    shown, rows = (list(csv.reader(io.StringIO(text))) for text in (texts["times.csv"].decode(), times))
    assert [row[0] for row in shown[1:]] == ["deit"] * (len(rows) - 1)
    assert [row[1:-1] for row in shown] == [row[1:-1] for row in rows]
    assert {row[-1] for row in shown[1:]} == {"as run in run, and again (log=log.txt)"}
    assert "on `deit`, float32" in plan.card
    evaluation = json.loads(texts["evaluation.json"])
    assert evaluation["settings"] == {**model, "model": "checkpoint-9", "data": "birds, validation split"}
    assert evaluation["unreadable"] == ["one.png: cannot be read"]
    assert evaluation["seconds"] == {"one.png": 2}
    assert json.loads(texts["sima_provenance.json"]) == {
        "dataset": "birds",
        "calibration": {"data": "birds", "images": 3},
    }
    assert {file.name for file in plan.files if file.content is None} == {WEIGHTS, "preprocessor_config.json"}
    assert not [file for file in plan.to_dict()["files"] if file["made"] and file["name"] in written]
    assert place in (folder / "evaluation.json").read_text(), "the folder's own file was changed"


def test_where_a_model_was_loaded_from_is_not_published(folder):
    """Settings that other tools and older Transformers wrote; a name on the Hub stays."""
    home, labels = "/home/alice/secret", {"0": "/m/01g317", "1": "~", "2": "../cat"}
    names = ["config.json", "tokenizer_config.json", "preprocessor_config.json"]
    added = {
        "config.json": {"_name_or_path": f"{home}/deit", "id2label": labels},
        "tokenizer_config.json": {
            "name_or_path": "~/secret/clip",
            "special_tokens_map_file": f"{home}/special_tokens_map.json",
            "tokenizer_file": "C:\\Users\\alice\\secret\\tokenizer.json",
            "tokenizer_class": "CLIPTokenizer",
        },
        "preprocessor_config.json": {"_name_or_path": "facebook/deit", "inner": {"name_or_path": "../secret/x"}},
    }
    for name in names:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**content, **added[name]}))
    before = listing(folder)
    plan = plan_push(folder, "org/sima-vit")
    assert listing(folder) == before
    files = {file.name: file for file in plan.files}
    texts = {name: files[name].content for name in names}
    assert not [name for name, text in texts.items() if b"secret" in text or b"alice" in text]
    contents = {name: json.loads(text) for name, text in texts.items()}
    assert contents["config.json"]["id2label"] == labels
    assert contents["tokenizer_config.json"] == {"tokenizer_class": "CLIPTokenizer"}
    assert contents["preprocessor_config.json"]["_name_or_path"] == "facebook/deit"
    assert contents["preprocessor_config.json"]["inner"] == {}
    assert "without folders of this machine" in str(plan)
    (folder / "config.json").write_bytes(texts["config.json"])
    assert {file.name: file for file in plan_push(folder, "org/sima-vit").files}["config.json"].content is None


@pytest.mark.parametrize("best", [None, "/home/alice/secret/run/checkpoint-9"])
def test_a_trainers_state_is_published_without_places(best, folder):
    state = {"best_model_checkpoint": best, "num_train_epochs": 7, "global_step": 91, "log_history": []}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    plan = plan_push(folder, "org/sima-vit")
    (file,) = [file for file in plan.files if file.name == "trainer_state.json"]
    assert "| `global_step` | 91 |" in plan.card
    assert (file.content is None) is (best is None)
    assert best is None or json.loads(file.content)["best_model_checkpoint"] == "checkpoint-9"


def test_the_card_of_a_branch_loads_the_branch(folder):
    content = {"accuracy": 0.5, "num_images": 9, "settings": {"data": "org/photos"}}
    (folder / "evaluation.json").write_text(json.dumps(content))
    main, branch = (plan_push(folder, "org/sima-vit", revision=one).card for one in (None, "try/v2"))
    assert 'from_pretrained("org/sima-vit", revision="try/v2")' in branch
    assert '"code_revision": "try/v2"' in branch
    assert branch.count('revision="try/v2"') == main.count('"org/sima-vit"')
    assert "/org/sima-vit/blob/try%2Fv2/evaluation.json" in branch
    assert "main" not in branch.replace("remain", "")
    assert "v2" not in main
    assert '"code_revision": "main"' in main
    merged = plan_push(folder, "org/sima-vit", revision="try/v2", existing_card=main).card
    assert merged.count("/blob/") == branch.count("/blob/"), "the other branch's measurements are still there"


def test_a_checkpoint_of_a_training(tmp_path, saved):
    with checkpoints.writing(tmp_path, 3) as aside:
        shutil.copytree(saved, aside, dirs_exist_ok=True)
        (aside / "training_args.bin").write_bytes(b"x")
    plan = plan_push(tmp_path / "checkpoint-3", "org/sima-vit")
    assert set(plan.left) == {"training_args.bin", manifest.MANIFEST}


@pytest.mark.parametrize("name", ["", "a/b/c", "org/", "/name", "org/sima vit", "org/sima--vit", "x" * 100])
def test_names_that_the_hub_does_not_take(folder, name):
    with pytest.raises(PublishError, match="no name for a repository"):
        plan_push(folder, name)


def test_empty_revisions_and_messages(folder):
    with pytest.raises(PublishError, match="revision"):
        plan_push(folder, "org/sima-vit", revision=" ")
    with pytest.raises(PublishError, match="message"):
        plan_push(folder, "org/sima-vit", commit_message="")


def test_a_softmax_model_is_never_planned(tmp_path):
    vit().save_pretrained(tmp_path)
    with pytest.raises(PublishError, match=r"2 operations.*patch_model"):
        push(tmp_path, "org/sima-vit")
