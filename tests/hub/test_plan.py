"""What a push would do, as data and as text; nothing is touched."""

import json

import pytest

import sima_hf
from sima_hf.errors import PublishError
from sima_hf.folders import manifest
from sima_hf.hub import CardFacts, find_facts, plan_push, push, write_provenance
from sima_hf.hub.plan import human_size
from sima_hf.training.checkpoints import folders as checkpoints
from tests.helpers.hosts.at_hand import vit
from tests.helpers.hub.pushes import WEIGHTS
from tests.helpers.hub.saved_folder import listing


BASE = "google/vit-base-patch16-224"
MADE = {"README.md", "config.json", "modeling_sima_vit.py", "sima_attention.py", "sima_base.py"}


def test_a_plan_says_what_would_be_published(folder):
    before = listing(folder)
    plan = plan_push(folder, "org/sima-vit", revision="v2", private=True)
    assert listing(folder) == before
    files = {file.name: file for file in plan.files}
    assert set(files) == {"preprocessor_config.json", WEIGHTS, *MADE}
    assert files[WEIGHTS].size == (folder / WEIGHTS).stat().st_size
    assert plan.left == {}
    text = str(plan)
    assert text.startswith(f"org/sima-vit, branch v2, private: 7 files, {human_size(plan.size)}")
    assert plan.card in text
    assert all(name in text for name in files)
    data = json.loads(json.dumps(plan.to_dict()))
    assert {file["name"] for file in data["files"] if file["made"]} == MADE
    assert (data["bytes"], data["card"], data["removed"]) == (plan.size, plan.card, None)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123_456, "123 kB"), (2.5e9, "2.5 GB")]
)
def test_sizes(size, text):
    assert human_size(size) == text


def test_what_stays_behind(folder):
    (folder / "checkpoint-30").mkdir()
    (folder / "runs" / "events").mkdir(parents=True)
    names = ("optimizer.pt", "notes.txt", ".env", "modeling_sima_deit.py", "old.safetensors", "my.csv", "cat.png")
    for name in (*names, "LICENSE"):
        (folder / name).write_text("x")
    plan = plan_push(folder, "org/sima-vit")
    assert set(plan.left) == {*names, "checkpoint-30/", "runs/"}
    assert "Left behind:" in str(plan)
    assert "LICENSE" in {file.name for file in plan.files}


def test_a_checkpoint_of_a_training(tmp_path):
    with checkpoints.writing(tmp_path, 3) as aside:
        sima_hf.patch_model(vit()).save_pretrained(aside)
        (aside / "training_args.bin").write_bytes(b"x")
    plan = plan_push(tmp_path / "checkpoint-3", "org/sima-vit")
    assert set(plan.left) == {"training_args.bin", manifest.MANIFEST}


def test_the_readme_of_the_folder_is_merged(folder):
    (folder / "README.md").write_text("# My model\n\nWritten by hand.\n")
    card = plan_push(folder, "org/sima-vit").card
    assert "Written by hand." in card
    assert card.count("sima_hf:start") == 1


def test_results_that_the_card_names_are_published(folder, tmp_path):
    """One file from the folder, the other from elsewhere, each under its own name; two of one name are refused."""
    results = tmp_path / "elsewhere" / "all_results.json"
    results.parent.mkdir()
    results.write_text(json.dumps({"eval_accuracy": 0.5, "epoch": 1.0}))
    write_provenance(folder, base_model="facebook/deit-small-patch16-224")
    plan = plan_push(folder, "org/sima-vit", facts=find_facts(folder, results=results, dataset="cifar10"))
    assert {"all_results.json", "sima_provenance.json"} <= {file.name for file in plan.files}
    assert "all_results.json" in plan.card
    namesake = results.rename(tmp_path / "preprocessor_config.json")
    with pytest.raises(PublishError, match=r"published as preprocessor_config\.json"):
        plan_push(folder, "org/sima-vit", facts=CardFacts(results=namesake))


def test_the_card_of_a_branch_loads_the_branch(folder):
    content = {"accuracy": 0.5, "num_images": 9, "settings": {"data": "org/photos"}}
    (folder / "evaluation.json").write_text(json.dumps(content))
    main, branch = (plan_push(folder, "org/sima-vit", revision=one).card for one in (None, "try/v2"))
    assert 'from_pretrained("org/sima-vit", revision="try/v2")' in branch
    assert '"code_revision": "try/v2"' in branch
    assert "/org/sima-vit/blob/try%2Fv2/evaluation.json" in branch
    assert "v2" not in main
    assert '"code_revision": "main"' in main
    merged = plan_push(folder, "org/sima-vit", revision="try/v2", existing_card=main).card
    assert merged.count("/blob/") == branch.count("/blob/"), "the other branch's measurements are still there"


def notes(folder, **facts):
    return plan_push(folder, "org/x", facts=CardFacts(**facts) if facts else None).notes


def test_weights_that_were_only_swapped(folder):
    write_provenance(folder, made_by="sima-hf patch", base_model=BASE)
    plan = plan_push(folder, "org/x")
    (note,) = plan.notes
    assert "answer at random" in note
    assert "write_provenance(folder, training={...})" in note
    assert f"Note: {note}\nREADME.md:\n" in str(plan)
    assert plan.to_dict()["notes"] == [note]
    (folder / "evaluation.json").write_text(json.dumps({"accuracy": 0.5, "num_images": 9, "settings": {}}))
    assert "answer at random" not in notes(folder)[0]
    write_provenance(folder, training={"seed": 1})
    assert notes(folder) == ()


def test_a_base_model_that_nobody_named(folder):
    (note,) = notes(folder)
    assert "--base-model" in note
    assert notes(folder, base_model=BASE) == ()
    (folder / "README.md").write_text(f"---\nbase_model: {BASE}\n---\n# Mine\n")
    assert notes(folder) == ()


def test_a_softmax_model_is_never_planned(tmp_path):
    vit().save_pretrained(tmp_path)
    with pytest.raises(PublishError, match="patch_model"):
        push(tmp_path, "org/sima-vit")
