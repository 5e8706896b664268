"""Both training scripts end to end on small real data, from every kind of source, and what they say about bad input."""

import contextlib
import functools
import importlib.util
import io
import json
import os
import runpy
import signal
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from safetensors.torch import load_file

from sima_hf.data.images import decode
from sima_hf.data.sources import digits
from sima_hf.folders.manifest import checkpoints
from sima_hf.training.checkpoints.folders import remove
from tests.helpers.script_runs import EXAMPLES, TINY_ARGUMENTS, Run, command, losses, run


pytestmark = pytest.mark.slow
TRAINER, LOOP = "run_image_classification.py", "run_image_classification_no_trainer.py"
QUIET = {TRAINER: {"disable_tqdm": True, "report_to": "none"}, LOOP: {}}
SHORT = {**TINY_ARGUMENTS, "max_train_images": None, "max_validation_images": None}
# Enough to be far above chance in seconds.
LEARNS = {
    **SHORT,
    "config_overrides": "hidden_size=48,num_hidden_layers=2,num_attention_heads=4,num_class_attention_layers=1,patch_size=8",
    "drop_path": 0.0,
    "rand_augment": "none",
    "color_jitter": 0.0,
    "random_erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "repeated_augmentation": 1,
    "num_train_epochs": 5,
    "learning_rate": 4e-3,
    "save_total_limit": 1,
}


# For a model that is there already, in place of the tiny one from fresh weights.
OWN_SHAPE = dict.fromkeys(("variant", "config_overrides", "attention_gain", "drop_path", "image_size"))


def pictures(count, start=0):
    """Real digits and their labels."""
    data = digits().select(range(start, start + count))
    return [(decode(row["image"]), row["label"]) for row in data]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """1,200 digits to train on and 200 to validate on, as `train/<class>/<number>.png` and `val/...`."""
    root = tmp_path_factory.mktemp("folder")
    for split, images in (("train", pictures(1200)), ("val", pictures(200, 1200))):
        for number, (image, label) in enumerate(images):
            place = root / split / f"digit {label}"
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory):
    """The same as parquet and as tar shards of the WebDataset kind."""
    root = tmp_path_factory.mktemp("shards")
    for split in ("train", "val"):
        data = load_dataset("imagefolder", data_dir=str(folder / split), split="train").shuffle(seed=0)
        parts = 4 if split == "train" else 1
        for part in range(parts):
            shard = data.shard(parts, part)
            shard.to_parquet(root / f"{split}-{part}.parquet")
            with tarfile.open(root / f"{split}-{part}.tar", "w") as tar:
                for number, row in enumerate(shard):
                    for kind, content in (("png", png(row["image"])), ("cls", str(row["label"]).encode())):
                        entry = tarfile.TarInfo(f"{part:02}{number:05}.{kind}")
                        entry.size = len(content)
                        tar.addfile(entry, io.BytesIO(content))
    return root


def png(image):
    stream = io.BytesIO()
    image.save(stream, format="png")
    return stream.getvalue()


@pytest.mark.parametrize("script", [TRAINER, LOOP])
def test_it_learns_from_a_folder_and_leaves_all_that_was_promised(script, folder, tmp_path):
    out = tmp_path / "out"
    results = run(script, out, train_dir=folder, **LEARNS, **QUIET[script])
    assert results["eval_accuracy"] > 0.6  # chance is 0.1
    assert results["eval_top_5_accuracy"] > 0.9
    for name in ("model.safetensors", "config.json", "preprocessor_config.json", "all_results.json", "curves.png"):
        assert (out / name).stat().st_size > 0, name
    if script == TRAINER:
        assert json.loads((out / "train_results.json").read_text())["train_loss"] == results["train_loss"]
        assert json.loads((out / "eval_results.json").read_text())["eval_accuracy"] == results["eval_accuracy"]
        assert (out / "trainer_state.json").exists()
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "sima"
    assert config["id2label"]["7"] == "digit 7"
    assert accuracy_through_pipeline(out, folder / "val") == pytest.approx(results["eval_accuracy"], abs=1e-9)
    log = out.with_suffix(".log").read_text()
    assert "Traceback" not in log


def accuracy_through_pipeline(model, validation):
    """What someone finds who only has the folder."""
    from transformers import pipeline

    import sima_hf  # noqa: F401

    classifier = pipeline("image-classification", model=str(model))
    files = sorted(validation.glob("*/*.png"))
    answers = classifier([str(path) for path in files], top_k=1, batch_size=50)
    return np.mean([answer[0]["label"] == path.parent.name for answer, path in zip(answers, files, strict=True)])


@pytest.mark.parametrize(("script", "kind"), [(TRAINER, "tar"), (LOOP, "parquet")])
def test_streams_of_shards_teach_too(script, kind, shards, tmp_path):
    results = run(
        script,
        tmp_path / "out",
        train_files=[shards / f"train-*.{kind}"],
        validation_files=[shards / f"val-*.{kind}"],
        streaming=True,
        shuffle_buffer_size=300,
        num_train_images=1200,
        dataloader_num_workers=2 if kind == "tar" else 0,
        **{
            **{name: value for name, value in LEARNS.items() if name != "dataloader_num_workers"},
            "num_train_epochs": 4,
        },
        **QUIET[script],
    )
    assert results["eval_accuracy"] > 0.4


@pytest.mark.parametrize("script", [TRAINER, LOOP])
def test_a_stream_goes_on_where_it_was(script, shards, tmp_path):
    """In the middle of the second epoch, with two workers: the same images, views and losses as without interruption."""
    settings = {
        **{**TINY_ARGUMENTS, **QUIET[script], "max_train_images": None, "dataloader_num_workers": 2},
        "train_files": [shards / "train-*.parquet"],
        "validation_files": [shards / "val-*.parquet"],
        "streaming": True,
        "shuffle_buffer_size": 100,
        "num_train_images": 192,
        "save_total_limit": None,
        **({"save_strategy": "steps", "save_steps": 4} if script == TRAINER else {"checkpointing_steps": 4}),
    }
    folder = tmp_path / "out"
    run(script, folder, **settings)
    expected = losses(folder)
    assert list(expected) == list(range(1, 13))
    for path in checkpoints(folder)[2:]:
        remove(path)
    (folder / "all_results.json").unlink()
    run(script, folder, **settings, resume_from_checkpoint=folder / "checkpoint-8")
    assert losses(folder) == expected


@pytest.fixture(scope="module")
def softmax_vit(folder, tmp_path_factory):
    """A ViT with softmax, trained by the script itself."""
    out = tmp_path_factory.mktemp("softmax") / "vit"
    overrides = "hidden_size=48,num_hidden_layers=2,num_attention_heads=4,intermediate_size=96,patch_size=8,initializer_range=0.1"
    changes = {
        "variant": None,
        "model_type": "vit",
        "config_overrides": overrides,
        "attention_gain": None,
        "drop_path": None,
    }
    settings = {**LEARNS, **QUIET[TRAINER], **changes, "learning_rate": 5e-3, "num_train_epochs": 10}
    return out, run(TRAINER, out, train_dir=folder, **settings)["eval_accuracy"]


@pytest.mark.parametrize("script", [TRAINER, LOOP])
def test_a_run_that_ruins_the_model_it_began_with_says_so(script, softmax_vit, folder, tmp_path):
    original, accuracy = softmax_vit
    changes = {**OWN_SHAPE, "model_name_or_path": original, "num_train_epochs": 1, "learning_rate": 0.5}
    run(script, tmp_path / "out", train_dir=folder, **{**LEARNS, **QUIET[script], **changes})
    history = "trainer_state.json" if script == TRAINER else "history.json"
    records = json.loads(next((tmp_path / "out").rglob(history)).read_text())
    records = records["log_history"] if script == TRAINER else records
    start = next(one for one in records if "eval_accuracy" in one)
    assert (start["step"], start["eval_accuracy"]) == (0, pytest.approx(accuracy))
    assert f"below the {accuracy:.1%} that the run began with" in (tmp_path / "out.log").read_text()


def test_a_run_does_not_write_among_its_images(folder, complaint):
    before = sorted(folder.rglob("*"))
    for place in (folder, folder / "run"):
        assert "would be taken for classes" in complaint(
            TRAINER, **TINY_MODEL, train_dir=folder, output_dir=place, overwrite_output_dir=True
        )
    assert sorted(folder.rglob("*")) == before


def test_a_softmax_model_is_swapped_calibrated_and_trained_on(softmax_vit, folder, tmp_path):
    original, accuracy = softmax_vit
    assert accuracy > 0.7
    settings = {
        **LEARNS,
        **QUIET[TRAINER],
        **OWN_SHAPE,
        "patch": original,
        "num_train_epochs": 1,
        "learning_rate": 1e-5,
    }
    calibrated = run(TRAINER, tmp_path / "calibrated", train_dir=folder, calibrate=1000, **settings)["eval_accuracy"]
    changes = {**settings, "disable_tqdm": None, "report_to": None}
    assert run(LOOP, tmp_path / "loop", train_dir=folder, calibrate=1000, **changes)["eval_accuracy"] == pytest.approx(
        calibrated, abs=0.03
    )
    bare = run(TRAINER, tmp_path / "bare", train_dir=folder, **settings)["eval_accuracy"]
    assert calibrated > bare + 0.15
    assert calibrated > 0.8 * accuracy
    assert json.loads((tmp_path / "calibrated" / "config.json").read_text())["model_type"] == "sima_vit"


def test_unreadable_images_are_named_and_passed_over_as_far_as_allowed(folder, tmp_path):
    data = tmp_path / "data"
    for index, path in enumerate(sorted(folder.glob("train/*/*.png"))[::12]):
        place = data / "train" / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        (place / path.name).write_bytes(path.read_bytes() if index else b"not an image")
        broken = broken if index else place / path.name  # noqa: F821
    (data / "val").symlink_to(folder / "val")
    settings = {**SHORT, **QUIET[TRAINER], "train_dir": data, "num_train_epochs": 1, "max_validation_images": 20}
    settings["repeated_augmentation"] = 1
    started = Run(TRAINER, command(output_dir=tmp_path / "strict", **settings), tmp_path / "strict.log")
    assert started.wait() == 1
    assert "1 images cannot be read, but at most 0 may be left out" in started.text
    assert str(broken) in started.text
    assert "Traceback" not in started.text
    assert run(TRAINER, tmp_path / "lenient", **settings, max_unreadable_images=1)
    assert f"Left out: {broken}" in (tmp_path / "lenient.log").read_text()


@pytest.mark.parametrize("script", [TRAINER, LOOP])
def test_trackers_get_the_numbers(script, tmp_path):
    settings = {**TINY_ARGUMENTS, **QUIET[script], "num_train_epochs": 1, "report_to": "tensorboard"}
    run(script, tmp_path / "out", **settings)
    files = list((tmp_path / "out").rglob("events.out.tfevents*"))
    assert files
    assert any(b"loss" in path.read_bytes() and b"accuracy" in path.read_bytes() for path in files)
    started = Run(
        script, command(output_dir=tmp_path / "none", **{**settings, "report_to": "trackio"}), tmp_path / "log"
    )
    if importlib.util.find_spec("trackio") is None:
        assert started.wait() == 1
        assert "pip install trackio" in started.text
        assert "Traceback" not in started.text


def test_the_full_imagenet_command_runs_on_random_images(tmp_path):
    """As the README has it: the paper's model at 224 pixels with the whole recipe, for one step."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        from random_imagenet import write
    finally:
        sys.path.remove(str(EXAMPLES))
    write(tmp_path / "random-imagenet", 8)
    words = [str(EXAMPLES / "configs" / "sima_small_12_p16.json"), "--dataset_name", str(tmp_path / "random-imagenet")]
    words += command(output_dir=tmp_path / "out", max_steps=1, per_device_train_batch_size=2, dataloader_num_workers=1)
    words += command(save_strategy="no")
    started = Run(TRAINER, words, tmp_path / "log")
    assert started.wait() == 0, started.text[-3000:]
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["train_loss"] == pytest.approx(np.log(1000), rel=0.15)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["hidden_size"], config["drop_path_rate"], len(config["id2label"])) == (384, 0.05, 1000)


@pytest.fixture
def complaint(monkeypatch, capsys, tmp_path):
    """Run a script in this process until it exits; the sentence it leaves."""

    def call(script, **arguments):
        words = command(**{"output_dir": tmp_path / "out", **arguments})
        monkeypatch.setattr(sys, "argv", [script, *words])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        assert stopped.value.code in (1, 2)
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said

    return call


TINY_MODEL = {name: TINY_ARGUMENTS[name] for name in ("variant", "config_overrides", "image_size")}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "exactly one of --variant"),
        ({"variant": "sima_huge"}, "There is no variant 'sima_huge'"),
        ({**TINY_MODEL, "train_dir": "/nowhere"}, "/nowhere"),
        ({**TINY_MODEL, "dataset_name": "digits", "train_dir": "/tmp"}, "exclude each other"),
        ({**TINY_MODEL, "mixup": -1}, "--mixup must not be negative"),
        ({**TINY_MODEL, "eval_crop_pct": 1.5}, "crop"),
        ({**TINY_MODEL, "resume_from_checkpoint": "last"}, "no checkpoint to go on from"),
        ({**TINY_MODEL, "per_device_train_batch_size": 5000}, "5000"),
        ({"patch": "/nowhere"}, "/nowhere"),
        ({**TINY_MODEL, "nonsense": 1}, "nonsense"),
        ({**TINY_MODEL, "image_size": 0}, "--image_size must be 1 or more, got 0"),
        ({**TINY_MODEL, "logging_steps": 0}, "--logging_steps must be 1 or more"),
        ({**TINY_MODEL, "output_dir": "/proc/nowhere/run"}, "/proc/nowhere"),
    ],
    ids=[
        "no-model",
        "variant",
        "folder",
        "two-sources",
        "mixup",
        "crop",
        "resume",
        "batch",
        "patch",
        "argument",
        "size",
        "logging",
        "output",
    ],
)
def test_mistakes_get_a_sentence(arguments, words, complaint):
    assert words in complaint(TRAINER, **arguments)


@pytest.mark.parametrize(("arguments", "words"), [({}, "exactly one of"), ({**TINY_MODEL, "mixup": -1}, "--mixup")])
def test_mistakes_get_a_sentence_from_the_loop_too(arguments, words, complaint):
    assert words in complaint(LOOP, **arguments)


def test_a_second_run_does_not_mix_with_the_first(tmp_path, complaint):
    settings = {**TINY_ARGUMENTS, "num_train_epochs": 1, "max_train_images": 64}
    run(LOOP, tmp_path / "out", **settings)
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert "holds a run already" in complaint(LOOP, **settings)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    run(LOOP, tmp_path / "out", **settings, overwrite_output_dir=True, seed=1)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != before


def test_a_lower_rate_counts_when_a_run_goes_on(tmp_path):
    settings = {**TINY_ARGUMENTS, "num_train_epochs": 1, "checkpointing_steps": 2, "save_total_limit": None}
    run(LOOP, tmp_path / "out", **settings)
    lower = {**settings, "learning_rate": 1e-5, "min_learning_rate": 0}
    run(LOOP, tmp_path / "out", **lower, resume_from_checkpoint=tmp_path / "out" / "checkpoint-4")
    history = json.loads((tmp_path / "out" / "checkpoint-6" / "history.json").read_text())
    rates = [entry["learning_rate"] for entry in history if "loss" in entry]
    assert min(rates[:4]) > 1e-5
    assert max(rates[4:]) < 1e-5
    assert (tmp_path / "out" / "abandoned-checkpoint-6").is_dir()


def test_a_compiled_model_is_saved_under_its_own_names(tmp_path):
    environment = {"ACCELERATE_DYNAMO_BACKEND": "EAGER"}
    run(LOOP, tmp_path / "out", environment, **{**TINY_ARGUMENTS, "num_train_epochs": 1})
    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-6" / "ema"):
        assert not [name for name in load_file(folder / "model.safetensors") if name.startswith("_orig_mod")]


@pytest.mark.parametrize("script", [TRAINER, LOOP])
def test_a_worker_that_dies_ends_the_run_with_a_sentence(script, tmp_path):
    save = {"save_strategy": "steps", "save_steps": 1} if script == TRAINER else {"checkpointing_steps": 1}
    settings = {**TINY_ARGUMENTS, **QUIET[script], **save, "dataloader_num_workers": 1, "num_train_epochs": 30}
    started = Run(script, command(output_dir=tmp_path / "out", **settings), tmp_path / "log")
    started.wait_for(lambda: checkpoints(tmp_path / "out"))
    while started.process.exitcode is None:
        for worker in Path(f"/proc/{started.process.pid}/task/{started.process.pid}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(worker), signal.SIGKILL)
        started.process.join(0.05)
    assert started.wait() == 1
    # Nothing follows it. Before it, torch may have printed what it ignores: a death while an epoch's workers are sent home.
    last = started.text.rstrip().splitlines()[-1]
    assert last.startswith(f"{Path(script).stem}: A process that loads images died"), started.text
    assert "go on with --resume_from_checkpoint last" in last
    assert started.text.count("Traceback") == started.text.count("Exception ignored in")


def test_validation_images_that_cannot_be_read_are_named_and_not_measured(folder, tmp_path):
    data = tmp_path / "data"
    (data / "train").mkdir(parents=True)
    for place in sorted((folder / "train").iterdir()):
        (data / "train" / place.name).symlink_to(place)
    for path in sorted(folder.glob("val/*/*.png"))[::20]:
        (data / "val" / path.parent.name).mkdir(parents=True, exist_ok=True)
        (data / "val" / path.parent.name / path.name).write_bytes(path.read_bytes())
    broken = sorted(data.glob("val/*/*.png"))[0]
    broken.write_bytes(b"no image")
    settings = {
        **TINY_ARGUMENTS,
        "max_validation_images": None,
        "num_train_epochs": 1,
        "train_dir": data,
    }
    run(LOOP, tmp_path / "out", **settings)
    assert f"Not measured: {broken} " in (tmp_path / "out.log").read_text()


def test_a_run_that_diverges_ends_with_a_sentence_and_names_the_last_good_checkpoint(tmp_path):
    settings = {
        **TINY_ARGUMENTS,
        "warmup_epochs": 0.5,
        "warmup_learning_rate": 1e-3,
        "learning_rate": 1e30,
        "num_train_epochs": 3,
    }
    check = functools.partial(Run, LOOP, command(output_dir=tmp_path / "out", **settings, checkpointing_steps=1))
    started = check(tmp_path / "log")
    assert started.wait() == 1
    assert "the run has diverged" in started.text
    assert "; go on with --resume_from_checkpoint last" in started.text
    assert "Traceback" not in started.text
