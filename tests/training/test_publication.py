"""What a finished run leaves in its folder for the Hub, and when it pushes."""

import json
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import sima_hf
from sima_hf.calibration.calibrate import CalibrationReport
from sima_hf.errors import PublishError
from sima_hf.folders.weights_hash import hash_of
from sima_hf.hub import write_provenance
from sima_hf.training.checkpoints.folders import remove_run
from sima_hf.training.publication import finish_folder


SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def vit():
    return ViTForImageClassification(ViTConfig(**SIZES, image_size=16, patch_size=8, num_labels=3))


def finished(folder, model, base_model=None, **arguments):
    """A run's folder, its arguments and its setup."""
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    args = SimpleNamespace(
        output_dir=str(folder), push_to_hub=False, learning_rate=0.1, num_train_epochs=3, **arguments
    )
    loaded = SimpleNamespace(base_model=base_model, calibration=None)
    return args, SimpleNamespace(loaded=loaded, data=SimpleNamespace(source="photos"), hub_dataset=None)


def test_a_sima_model_gets_its_card_and_its_code(tmp_path):
    model = sima_hf.patch_model(vit())
    args, setup = finished(tmp_path, model, base_model="google/vit-base-patch16-224")
    assert finish_folder(args, model, setup, 64)
    facts = json.loads((tmp_path / "sima_provenance.json").read_text())
    assert facts["base_model"] == "google/vit-base-patch16-224"
    assert facts["dataset"] == "photos"
    assert facts["training"] == {"num_train_epochs": 3, "learning_rate": 0.1, "images_per_step": 64}
    assert "google/vit-base-patch16-224" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "modeling_sima_vit.py").is_file()


def test_the_results_say_which_weights_they_are_of(tmp_path):
    """So that they are no longer published when other weights have been saved into the folder."""
    model = sima_hf.patch_model(vit())
    args, setup = finished(tmp_path, model)
    (tmp_path / "all_results.json").write_text('{"eval_accuracy": 0.5}')
    finish_folder(args, model, setup, 64)
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert results == {"eval_accuracy": 0.5, "weights_sha256": hash_of(tmp_path)}
    with torch.no_grad():
        model.classifier.bias += 1
    model.save_pretrained(tmp_path)
    with pytest.raises(PublishError, match=r"all_results\.json was measured on other weights"):
        sima_hf.prepare_for_hub(tmp_path)


def test_a_folder_of_images_is_named_by_its_last_part(tmp_path, monkeypatch):
    """Also one that is given as "secret/birds", which could be a name on the Hub."""
    for number, source in enumerate(("/home/alice/secret/birds", "secret/birds")):
        (tmp_path / "secret" / "birds").mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path)
        folder = tmp_path / f"model-{number}"
        model = sima_hf.patch_model(vit())
        args, setup = finished(folder, model, base_model="google/vit-base-patch16-224")
        (folder / "all_results.json").write_text('{"eval_accuracy": 0.5}')
        setup.data.source = source
        setup.loaded.calibration = CalibrationReport((), {}, 3, 0, 0)
        finish_folder(args, model, setup, 64)
        for name in ("sima_provenance.json", "README.md"):
            text = (folder / name).read_text()
            assert "birds" in text
            assert "secret" not in text
        facts = json.loads((folder / "sima_provenance.json").read_text())
        assert (facts["dataset"], facts["calibration"]["data"]) == ("birds", "birds")
        (result,) = ModelCard((folder / "README.md").read_text()).data.eval_results
        assert (result.dataset_name, result.dataset_type) == ("birds", "birds")


def test_a_second_run_in_the_same_folder_says_nothing_of_the_first(tmp_path):
    model = sima_hf.patch_model(vit())
    args, setup = finished(tmp_path, model, base_model="google/vit-base-patch16-224")
    setup.loaded.calibration = CalibrationReport((), {}, 3, 0, 0)
    setup.hub_dataset = setup.data.source = "org/photos"
    finish_folder(args, model, setup, 64)
    card = ModelCard((tmp_path / "README.md").read_text()).data
    assert (card.base_model, card.datasets) == ("google/vit-base-patch16-224", ["org/photos"])
    readme = (tmp_path / "README.md").read_text().replace("---\n", "---\nlicense: mit  # said by its author\n", 1)
    (tmp_path / "README.md").write_text(f"{readme}\nMy words.\n")
    settings = {"class": type(model).__name__, "data": "org/photos"}
    measured = {"evaluation.json": {"accuracy": 0.25, "num_images": 3, "settings": settings}}
    measured |= {"all_results.json": {"eval_accuracy": 0.25}, "trainer_state.json": {"global_step": 77}}
    for name, content in measured.items():
        (tmp_path / name).write_text(json.dumps(content))
    remove_run(tmp_path)
    assert not [name for name in measured if (tmp_path / name).exists()]
    args, setup = finished(tmp_path, model)
    setup.data.source = "digits"
    finish_folder(args, model, setup, 64)
    assert set(json.loads((tmp_path / "sima_provenance.json").read_text())) == {"dataset", "training", "versions"}
    readme = (tmp_path / "README.md").read_text()
    for old in ("google/vit", "photos", "Calibration", "25.00%", "77"):
        assert old not in readme
    assert "license: mit\n" in readme
    assert "My words." in readme


def test_an_evaluation_of_other_weights_goes_when_new_ones_are_saved(tmp_path):
    """Also where a run goes on in its folder, so that nothing is removed when it starts."""
    model = sima_hf.patch_model(vit())
    args, setup = finished(tmp_path, model)
    content = {"accuracy": 0.25, "num_images": 3, "settings": {"class": type(model).__name__, "data": "photos"}}
    (tmp_path / "evaluation.json").write_text(json.dumps(content))
    finish_folder(args, model, setup, 64)
    assert not (tmp_path / "evaluation.json").exists()
    assert "25.00%" not in (tmp_path / "README.md").read_text()


def test_a_run_from_the_models_own_folder_keeps_where_that_came_from(tmp_path):
    model = sima_hf.patch_model(vit())
    args, setup = finished(tmp_path, model, base_model=str(tmp_path))
    write_provenance(tmp_path, base_model="google/vit-base-patch16-224", calibration={"images": 5})
    remove_run(tmp_path)
    finish_folder(args, model, setup, 64)
    facts = json.loads((tmp_path / "sima_provenance.json").read_text())
    assert (facts["base_model"], facts["calibration"]) == ("google/vit-base-patch16-224", {"images": 5})


def test_a_softmax_model_gets_neither(tmp_path):
    model = vit()
    args, setup = finished(tmp_path, model)
    assert not finish_folder(args, model, setup, 64)
    assert (tmp_path / "sima_provenance.json").is_file()
    assert not list(tmp_path.glob("*.py"))
    assert not (tmp_path / "README.md").exists()


def test_a_push_says_what_one_should_know(tmp_path, monkeypatch, capsys):
    model = sima_hf.patch_model(vit())
    args, setup = finished(tmp_path, model)
    args.push_to_hub = True
    plan = SimpleNamespace(notes=("One.", "Two."))
    done = SimpleNamespace(url="https://hub/org/x", commit="0123abc", plan=plan)
    monkeypatch.setitem(vars(sima_hf.hub), "push", lambda *_, **__: done)
    assert finish_folder(args, model, setup, 64)
    assert capsys.readouterr().out == "https://hub/org/x: published, commit 0123abc.\nNote: One.\nNote: Two.\n"


def test_what_stands_in_the_way_is_a_warning_until_a_push_is_asked_for(tmp_path, monkeypatch):
    model = sima_hf.patch_model(vit())
    args, setup = finished(tmp_path, model)
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    said = []
    monkeypatch.setattr("sima_hf.training.publication.logger.warning", said.append)
    assert finish_folder(args, model, setup, 64)
    assert "has no card for the Hub yet" in said[0]
    assert "pytorch_model.bin" in said[0]
    args.push_to_hub = True
    with pytest.raises(PublishError, match=r"pytorch_model\.bin"):
        finish_folder(args, model, setup, 64)
