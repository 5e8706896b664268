"""What whoever pushes is told: weights that answer at random, and no base model."""

import json

import sima_hf
from sima_hf.hub import CardFacts, plan_push, write_provenance


BASE = "google/vit-base-patch16-224"


def notes(folder, **facts):
    return plan_push(folder, "org/x", facts=None if not facts else CardFacts(**facts)).notes


def test_weights_that_were_only_swapped(folder):
    write_provenance(folder, made_by="sima-hf patch", base_model=BASE)
    (note,) = notes(folder)
    assert "nothing was calibrated or trained since, so they answer at random; the card says so." in note
    assert "write_provenance(folder, training={...})" in note
    plan = plan_push(folder, "org/x")
    assert f"Note: {note}\nREADME.md:\n" in str(plan)
    assert plan.to_dict()["notes"] == [note]
    (folder / "evaluation.json").write_text(json.dumps({"accuracy": 0.5, "num_images": 9, "settings": {}}))
    assert "since; the card says so" in notes(folder)[0]
    write_provenance(folder, training={"seed": 1})
    assert notes(folder) == ()


def test_a_base_model_that_nobody_named(folder, tmp_path):
    (note,) = notes(folder)
    assert "does not say which model this one was made from" in note
    assert "--base-model" in note
    assert notes(folder, base_model=BASE) == ()
    (folder / "README.md").write_text(f"---\nbase_model: {BASE}\n---\n# Mine\n")
    assert notes(folder) == ()
    config = sima_hf.SimAConfig(
        image_size=16,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_class_attention_layers=1,
    )
    sima_hf.SimAForImageClassification(config).save_pretrained(tmp_path / "native")
    assert notes(tmp_path / "native") == ()
