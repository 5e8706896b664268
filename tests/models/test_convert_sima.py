"""Original checkpoints: strict conversion of keys, and the `sima-hf convert` command on files made here."""

import argparse
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from sima_hf import (
    SimAConfig,
    SimAForImageClassification,
    cli,
    convert_original_checkpoint,
    convert_original_state_dict,
)
from sima_hf.errors import ConversionError
from sima_hf.models.sima import convert_sima
from sima_hf.models.sima.convert_sima import imagenet_1k_labels, original_name
from tests.fixtures import fixture_recipe
from tests.helpers.fresh_process import fresh


FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
VARIANT = "sima_nano_12_p16"


@pytest.fixture(scope="module")
def fixture():
    return fixture_recipe.load(VARIANT, FIXTURES)


@pytest.fixture(scope="module")
def state(fixture):
    return fixture_recipe.state_dict(fixture)


@pytest.fixture(scope="module")
def checkpoint(state, tmp_path_factory):
    """What the original training script writes."""
    path = tmp_path_factory.mktemp("original") / "checkpoint.pth"
    settings = argparse.Namespace(
        model=VARIANT, lr=5e-4, input_size=224, data_path="/data", distributed=True, epochs=400
    )
    ema = {name: tensor * 2 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    torch.save({"model": state, "model_ema": ema, "optimizer": {"state": {}}, "epoch": 399, "args": settings}, path)
    return path


def convert(*arguments):
    """The command as a user runs it."""
    return fresh("import sys; from sima_hf.cli import main; main(['convert', *sys.argv[1:]])", *arguments)


def test_every_original_key_has_its_place(fixture):
    with torch.device("meta"):
        ours = SimAForImageClassification(SimAConfig.from_variant(VARIANT)).state_dict()
    names = [original_name(key) for key in ours]
    assert set(names) == {name for name, _, _ in fixture["entries"]}
    assert {name for name in names if names.count(name) == 3} == {name for name in names if ".qkv." in name}
    assert all(names.count(name) in (1, 3) for name in names)


def test_projections_are_the_rows_of_the_fused_one(state):
    converted = convert_original_state_dict(state)
    fused = state["blocks.3.attn.qkv.weight"]
    for rows, part in zip(fused.split(128), "qkv", strict=True):
        assert torch.equal(converted[f"sima.layers.3.attention.{part}_proj.weight"], rows)


@pytest.mark.parametrize("with_config", [False, True], ids=["sizes-read", "config-given"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("blocks.5.norm1.weight"), r"1 missing: blocks\.5\.norm1\.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (
            lambda s: s.update({"norm.bias": torch.zeros(64)}),
            r"1 of another shape: norm\.bias \(expected \(128,\), got \(64,\)\)",
        ),
        (lambda s: s.pop("blocks.0.local_mp.bn.running_var"), r"missing: blocks\.0\.local_mp\.bn\.running_var"),
    ],
    ids=["missing", "unexpected", "shape", "buffer"],
)
def test_it_is_strict(state, change, words, with_config):
    state = dict(state)
    change(state)
    with pytest.raises(ConversionError, match=words):
        convert_original_state_dict(state, SimAConfig.from_variant(VARIANT) if with_config else None)


def test_a_missing_last_block_is_noticed_with_a_config(state):
    state = {name: tensor for name, tensor in state.items() if not name.startswith("blocks.11.")}
    assert len(convert_original_state_dict(state)) > 0
    with pytest.raises(ConversionError, match=r"missing: blocks\.11\.gamma1.* and \d+ more"):
        convert_original_state_dict(state, SimAConfig.from_variant(VARIANT))


@pytest.mark.parametrize("content", [{}, {"vit.cls": torch.zeros(1)}], ids=["empty", "another-model"])
def test_something_else_altogether(content):
    with pytest.raises(ConversionError, match="no state_dict of an original SimA model"):
        convert_original_state_dict(content)


def test_labels():
    labels = imagenet_1k_labels()
    assert len(labels) == len(set(labels)) == 1000
    assert (labels[0], labels[281], labels[999]) == (
        "tench, Tinca tinca",
        "tabby, tabby cat",
        "toilet tissue, toilet paper, bathroom tissue",
    )


@pytest.fixture(scope="module")
def converted(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "sima-nano"
    run = convert(checkpoint, "--variant", VARIANT, folder)
    assert run.returncode == 0, run.stderr
    return folder, run


def test_the_command_makes_a_complete_folder(converted, fixture):
    folder, run = converted
    assert str(folder) in run.stdout
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"]["0"] == "tench, Tinca tinca"
    assert config["label2id"]["tabby, tabby cat"] == 281
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    assert dict(processor.size) == {"shortest_edge": 256}
    pixels = fixture_recipe.pixel_values(fixture["inputs"][0])
    with torch.no_grad():
        error = fixture_recipe.relative_error(model(pixels).logits, fixture["tensors"]["logits/224x224"])
    assert error < 1e-4


def test_the_folder_works_in_a_pipeline(converted):
    folder, _ = converted
    image = Image.effect_mandelbrot((320, 260), (-2, -1.5, 1, 1.5), 60).convert("RGB")
    answers = pipeline("image-classification", model=str(folder))(image, top_k=3)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    pixels = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")
    with torch.no_grad():
        probabilities = model(**pixels).logits[0].softmax(-1)
    assert answers[0]["label"] == model.config.id2label[probabilities.argmax().item()]
    assert answers[0]["score"] == pytest.approx(probabilities.max().item(), rel=1e-4)


def test_variant_from_the_file_and_averaged_weights(checkpoint, state, tmp_path):
    convert_original_checkpoint(checkpoint, tmp_path / "out", weights="model_ema")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert torch.equal(model.sima.class_token, 2 * state["cls_token"])


@pytest.mark.parametrize("form", ["bare", "distributed", "model_ema only"])
def test_other_forms_of_checkpoint(form, state, tmp_path):
    content = {
        "bare": state,
        "distributed": {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
        "model_ema only": {"model_ema": state},
    }[form]
    torch.save(content, tmp_path / "c.pth")
    config = convert_original_checkpoint(tmp_path / "c.pth", tmp_path / "out", variant=VARIANT)
    assert config.num_labels == 1000
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert torch.equal(model.sima.class_token, state["cls_token"])


def test_fewer_classes_get_plain_labels_and_other_resolutions_their_processor(state, tmp_path):
    state = {**state, "head.weight": state["head.weight"][:7], "head.bias": state["head.bias"][:7]}
    torch.save({"model": state, "args": argparse.Namespace(model=VARIANT, input_size=384)}, tmp_path / "c.pth")
    config = convert_original_checkpoint(tmp_path / "c.pth", tmp_path / "out")
    assert (config.num_labels, config.id2label[6], config.image_size) == (7, "LABEL_6", 384)
    assert dict(AutoImageProcessor.from_pretrained(tmp_path / "out").crop_size) == {"height": 384, "width": 384}


class RunsCode:
    """A pickle of this would touch a file when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.system, (f"touch {self.marker}",))


def _code(path, state):
    torch.save({"model": state, "args": RunsCode(path.with_suffix(".ran"))}, path)


def _truncated(path, state):
    torch.save({"model": state}, path)
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda path, state: None, "There is no file"),
        (lambda path, state: path.mkdir(), "is a folder, but what is converted is an original checkpoint"),
        (
            lambda path, state: path.write_text("hello"),
            r"as tensors and plain values: it is not what torch\.save writes, or d",
        ),
        (lambda path, state: path.write_bytes(b""), "could not be read as tensors and plain values"),
        (_truncated, "could not be read as tensors and plain values"),
        (_code, "Objects that would need code to be run are not loaded"),
        (lambda path, state: torch.save([1, 2], path), "holds a list, not a state_dict"),
        (lambda path, state: torch.save({"epoch": 3}, path), "holds no state_dict under 'model' or 'model_ema'"),
        (lambda path, state: torch.save({"model": {"x": torch.zeros(1)}}, path), "1 unexpected: x"),
        (
            lambda path, state: torch.save({"model": {**state, "cls_token": torch.zeros(2)}}, path),
            r"cls_token \(expected",
        ),
    ],
    ids=["no-file", "folder", "text", "empty", "truncated", "code", "list", "no-state", "another-model", "shape"],
)
def test_bad_files_get_one_sentence(prepare, words, state, tmp_path):
    path = tmp_path / "bad.pth"
    prepare(path, state)
    before = {entry.name for entry in tmp_path.iterdir()}
    with pytest.raises((ConversionError, FileNotFoundError, IsADirectoryError)) as caught:
        convert_original_checkpoint(path, tmp_path / "out", variant=VARIANT)
    assert words.replace("\\", "") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {entry.name for entry in tmp_path.iterdir()} == before


def test_mistakes_on_the_command_line(checkpoint, tmp_path, monkeypatch, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    for arguments, words in (
        ((tmp_path / "none.pth", tmp_path / "out"), "There is no file"),
        ((checkpoint, tmp_path / "full"), "already exists and is not empty"),
        (
            (checkpoint, tmp_path / "out", "--variant", "sima_huge"),
            "There is no variant 'sima_huge'; there are sima_nano",
        ),
    ):
        monkeypatch.setattr(sys, "argv", ["sima-hf", "convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 1
        complaint = capsys.readouterr().err
        assert words in complaint
        assert complaint.count("\n") == 1
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "full" / "file").read_text() == "mine"


def test_another_variant_than_the_weights(checkpoint, tmp_path):
    with pytest.raises(
        ConversionError, match=r"of another shape: cls_token \(expected \(1, 1, 384\), got \(1, 1, 128\)\)"
    ):
        convert_original_checkpoint(checkpoint, tmp_path / "out", variant="sima_small_12_p16")


def test_a_file_that_does_not_say_what_it_is(state, tmp_path):
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(ConversionError, match="does not say which model it holds; name the variant: sima_nano_12_p16"):
        convert_original_checkpoint(tmp_path / "c.pth", tmp_path / "out")


@pytest.mark.parametrize("size", ["big", 0, -1, [224]], ids=str)
def test_a_resolution_that_is_none(size, state, tmp_path):
    torch.save({"model": state, "args": argparse.Namespace(model=VARIANT, input_size=size)}, tmp_path / "c.pth")
    if size:
        with pytest.raises(ConversionError, match=r"`input_size` .*, which is no number of pixels"):
            convert_original_checkpoint(tmp_path / "c.pth", tmp_path / "out")
    else:  # not given
        assert convert_original_checkpoint(tmp_path / "c.pth", tmp_path / "out").image_size == 224


def test_an_entry_that_is_not_there(checkpoint, tmp_path):
    with pytest.raises(ConversionError, match="has no entry 'ema'; it has model, model_ema, optimizer, epoch, args"):
        convert_original_checkpoint(checkpoint, tmp_path / "out", weights="ema")


def test_a_failure_in_the_middle_leaves_nothing_behind(checkpoint, tmp_path, monkeypatch):
    def fail(self, folder):
        (Path(folder) / "half").write_text("written")
        raise OSError("No space left on device")

    monkeypatch.setattr(convert_sima.SimAForImageClassification, "save_pretrained", fail)
    with pytest.raises(OSError, match="No space left"):
        convert_original_checkpoint(checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
