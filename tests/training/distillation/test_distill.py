"""`sima_hf.distill`: closer to the teacher than before, never further, from images of every kind, and nothing half done."""

import copy
import logging
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTForImageClassification, ViTModel

import sima_hf
from sima_hf.errors import CheckpointError, DataError, TrainingError
from sima_hf.training.checkpoints.interruption import StoppedBySignal
from sima_hf.training.distillation.images import Pixels
from sima_hf.training.distillation.step_size import TRIED_RATES


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
QUIET = {"progress": False, "num_images": 320, "learning_rate": 3e-3, "eval_steps": 10, "save_steps": 10}


@pytest.fixture
def teacher():
    torch.manual_seed(1)
    model = ViTForImageClassification(ViTConfig(**SIZES, image_size=32, patch_size=8, num_labels=4))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture
def student(teacher):
    return sima_hf.patch_model(copy.deepcopy(teacher))


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(2)
    shades = torch.randn(96, 3, 4, 4, generator=generator)
    return list(torch.nn.functional.interpolate(shades, size=32, mode="bilinear"))


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, two):
    return all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_rate_is_found_on_all_batches_that_are_held_out(student, teacher, images):
    """Of 35 held-out images in batches of 8 the last is short."""
    report = sima_hf.distill(student, teacher, images, batch_size=2, num_images=16, held_out=35 / 96, progress=False)
    assert report.held_out == 35
    assert report.learning_rate in TRIED_RATES
    assert report.after["loss"] <= report.before["loss"]


def test_the_student_comes_nearer_on_images_it_was_not_trained_on(student, teacher, images):
    report = sima_hf.distill(student, teacher, images, **QUIET)
    assert report.after["cosine"] > report.before["cosine"] + 0.1
    assert report.after["loss"] < 0.1 * report.before["loss"]
    assert report.after["agreement"] >= report.before["agreement"]
    assert (report.images, report.held_out) == (320, 32)
    assert "32 held-out" in str(report)
    with torch.no_grad():
        pixels = torch.stack(images)
        agreed = (student(pixels).logits.argmax(-1) == teacher(pixels).logits.argmax(-1)).float().mean()
    assert agreed > 0.8
    assert not student.training
    assert sima_hf.certify(student, {"pixel_values": pixels[:1]}).softmax_free


@pytest.mark.slow
def test_held_out_images_are_never_trained_on(student, teacher, images, monkeypatch):
    seen = {True: set(), False: set()}
    given = Pixels.__getitem__
    marks = {image.data_ptr(): index for index, image in enumerate(images)}

    def watched(self, draw):
        sample = given(self, draw)
        seen["seeds" in sample].add(marks[sample["pixel_values"].data_ptr()])
        return sample

    monkeypatch.setattr(Pixels, "__getitem__", watched)
    sima_hf.distill(student, teacher, images, **QUIET)
    assert not seen[True] & seen[False]
    assert seen[True] | seen[False] == set(range(96))


@pytest.mark.slow
def test_a_run_that_only_loses_ends_at_its_start(student, teacher, images, caplog):
    before = state_of(student)
    with caplog.at_level(logging.WARNING):
        report = sima_hf.distill(student, teacher, images, **{**QUIET, "learning_rate": 30.0, "warmup_steps": 0})
    assert report.after == report.before
    assert same(before, state_of(student))
    assert "least after step 0" in caplog.text
    assert "below" in caplog.text


@pytest.mark.slow
def test_the_same_images_and_seed_give_the_same_weights(teacher, images, tmp_path):
    once, again = (sima_hf.patch_model(copy.deepcopy(teacher)) for _ in range(2))
    for model in (once, again):
        sima_hf.distill(model, teacher, images, **QUIET)
    assert same(state_of(once), state_of(again))


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_stopped(teacher, images, tmp_path):
    whole, parts = (sima_hf.patch_model(copy.deepcopy(teacher)) for _ in range(2))
    sima_hf.distill(whole, teacher, images, **QUIET)

    class Stop(Exception):
        pass

    class Stops(list):
        left = 2 * 32 + 16 * 16  # what is measured on before the first step, and the images of 16 steps

        def __getitem__(self, index):
            Stops.left -= 1
            if Stops.left < 0:
                raise Stop
            return super().__getitem__(index)

    before = state_of(parts)
    with pytest.raises(Stop):
        sima_hf.distill(parts, teacher, Stops(images), output_dir=tmp_path, **QUIET)
    assert same(before, state_of(parts))
    assert any(tmp_path.glob("checkpoint-*"))
    report = sima_hf.distill(parts, teacher, images, output_dir=tmp_path, resume_from_checkpoint="auto", **QUIET)
    assert same(state_of(whole), state_of(parts))
    assert report.before["loss"] > report.after["loss"]


TWO = """
import sys, torch, sima_hf
from transformers import AutoModelForImageClassification

torch.set_num_threads(1)
teacher, student = (AutoModelForImageClassification.from_pretrained(sys.argv[1]) for _ in range(2))
sima_hf.patch_model(student)
report = sima_hf.distill(
    student, teacher, list(torch.load(sys.argv[2])), output_dir=sys.argv[3], num_images=320, batch_size=8, progress=False, use_cpu=True
)
torch.save((report.images, report.after, student.state_dict()), f"{sys.argv[3]}/{torch.distributed.get_rank()}.pt")
"""


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(teacher, student, images, tmp_path):
    teacher.save_pretrained(tmp_path / "teacher")
    torch.save(torch.stack(images), tmp_path / "images.pt")
    (tmp_path / "two.py").write_text(TWO)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(tmp_path / "two.py")]
    done = subprocess.run(
        [*launch, str(tmp_path / "teacher"), str(tmp_path / "images.pt"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    alone = sima_hf.distill(student, teacher, images, num_images=320, batch_size=16, progress=False)
    for rank in range(2):
        seen, after, state = torch.load(tmp_path / f"{rank}.pt")
        assert seen == alone.images == 320
        assert after["loss"] == pytest.approx(alone.after["loss"], rel=1e-3)
        for name, value in student.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_images_come_as_files_or_as_a_split(student, teacher, tmp_path):
    from datasets import load_dataset

    processor = sima_hf.SimAImageProcessor.for_image_size(32, crop_pct=1.0)
    generator = np.random.default_rng(0)
    for index in range(70):
        pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    again = copy.deepcopy(student)
    few = {**QUIET, "num_images": 64}
    sima_hf.distill(student, teacher, tmp_path, processor=processor, **few)
    sima_hf.distill(again, teacher, load_dataset("imagefolder", data_dir=str(tmp_path), split="train"), processor=processor, **few)  # fmt: skip
    assert all(value.isfinite().all() for value in state_of(again).values())
    with pytest.raises(DataError, match="`processor` must be"):
        sima_hf.distill(student, teacher, tmp_path, **few)


@pytest.mark.slow
def test_the_swapped_tower_of_a_larger_model_is_trained(images):
    torch.manual_seed(0)
    vision = {**SIZES, "image_size": 32, "patch_size": 8}
    text = {**SIZES, "vocab_size": 32, "max_position_embeddings": 8}
    teacher = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)).eval()
    student = sima_hf.patch_model(copy.deepcopy(teacher))
    before = state_of(student)
    report = sima_hf.distill(student, teacher, images, **{**QUIET, "num_images": 160})
    changed = {
        name.partition(".")[0] for name, value in state_of(student).items() if not torch.equal(value, before[name])
    }
    assert changed == {"vision_model"}
    assert report.after["loss"] < report.before["loss"]


@pytest.mark.slow
def test_a_rate_is_found_at_which_nothing_is_lost(student, teacher, images):
    report = sima_hf.distill(student, teacher, images, **{**QUIET, "learning_rate": None})
    assert 1e-7 <= report.learning_rate <= 1e-3
    losses = [entry["loss"] for entry in report.history]
    assert all(loss <= losses[0] for loss in losses)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda s, t, i: (s, copy.deepcopy(s), i), TrainingError, "must be the softmax model"),
        (lambda s, t, i: (s, t, i[:40]), DataError, "must be 64 or more, got 40"),
        (lambda s, t, i: (s, torch.nn.Linear(1, 1), i), TypeError, "`teacher` must be"),
        (lambda s, t, i: (s, t, [one.byte() for one in i]), DataError, "floating point"),
        (lambda s, t, i: (s, ViTModel(ViTConfig(**SIZES, image_size=32, patch_size=8)), i), TrainingError, "names and shapes"),
    ],
    ids=["a teacher that is SimA", "too few images", "no model", "bytes", "another head"],
)  # fmt: skip
def test_what_cannot_be_is_said_and_changes_nothing(student, teacher, images, change, error, words):
    before = state_of(student)
    with pytest.raises(error, match=words):
        sima_hf.distill(*change(student, teacher, images), **QUIET)
    assert same(before, state_of(student))


def test_sigterm_ends_it_with_the_weights_as_before(student, teacher, images, tmp_path):
    before = state_of(student)

    class Stops(list):
        left = 2 * 32 + 16 * 16

        def __getitem__(self, index):
            Stops.left -= 1
            if Stops.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__getitem__(index)

    with pytest.raises(StoppedBySignal, match="SIGTERM"):
        sima_hf.distill(student, teacher, Stops(images), output_dir=tmp_path, **QUIET)
    assert same(before, state_of(student))
    assert any(tmp_path.glob("checkpoint-*"))
    with pytest.raises(CheckpointError, match="holds a run already"):
        sima_hf.distill(student, teacher, images, output_dir=tmp_path, **QUIET)


@pytest.mark.slow
def test_options_of_the_trainer_are_kept(student, teacher, images):
    report = sima_hf.distill(
        student, teacher, images, num_images=320, gradient_accumulation_steps=2, eval_steps=4, progress=False
    )
    assert report.images == 320
    assert [entry["step"] for entry in report.history] == [0, 4, 8, 10]


@pytest.mark.slow
def test_images_that_cannot_be_read_are_not_measured(student, teacher, tmp_path):
    processor = sima_hf.SimAImageProcessor.for_image_size(32, crop_pct=1.0)
    for index in range(70):
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
            tmp_path / f"{index}.png"
        )
    for index in range(0, 70, 10):
        (tmp_path / f"{index}.png").write_bytes(b"no image")
    report = sima_hf.distill(student, teacher, tmp_path, processor=processor, **{**QUIET, "num_images": 64})
    assert all(np.isfinite(list(entry.values())).all() for entry in report.history)
