"""Several processes train to the losses of one with the same global batch: DDP and FSDP2, both scripts, on the CPU over gloo."""

import io
import json
import shutil
import signal
import tarfile

import pytest
import torch
from safetensors.torch import load_file

from sima_hf.data.folders import digits
from sima_hf.data.images import decode
from sima_hf.folders.manifest import checkpoints, damage, step_of
from sima_hf.training.checkpoints.folders import remove
from tests.helpers.script_runs import (
    EXAMPLES,
    FSDP2,
    TINY_ARGUMENTS,
    Run,
    command,
    losses,
    run,
    run_together,
    start_together,
)


pytestmark = pytest.mark.slow
TRAINER, LOOP = "run_image_classification.py", "run_image_classification_no_trainer.py"
# Dropout and drop path are drawn by each process for itself, and mixup pairs images of one process.
ALIKE = {
    **TINY_ARGUMENTS,
    "config_overrides": TINY_ARGUMENTS["config_overrides"].replace(",hidden_dropout_prob=0.1", ""),
    "drop_path": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "max_validation_images": 41,
    # AdamW makes whole steps of rounding where a gradient vanishes; an average over the whole run makes little of them.
    "ema_warmup": False,
    "per_device_eval_batch_size": 16,
}
READ_ONCE = "it is read once for them"
QUIET = {TRAINER: {"disable_tqdm": True, "report_to": "none"}, LOOP: {}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Finished runs over batches of 32, each made once: folder and results of a script alone, or of two processes."""
    found = {}

    def of(script, kind="alone"):
        if (script, kind) not in found:
            folder = tmp_path_factory.mktemp(kind) / "run"
            found[script, kind] = folder, train(script, folder, kind)
        return found[script, kind]

    return of


def train(script, folder, kind, **more):
    settings = {**ALIKE, **QUIET[script], **more, "per_device_train_batch_size": 32 if kind == "alone" else 16}
    if kind == "alone":
        return run(script, folder, **settings)
    return run_together(script, folder, environment=FSDP2 if kind == "fsdp2" else None, **settings)


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_both_scripts_train_alike(finished):
    """Trainer and the loop on Accelerate: the same recipe, the same numbers."""
    (trainer, trainer_results), (loop, loop_results) = finished(TRAINER), finished(LOOP)
    assert losses(loop) == pytest.approx(losses(trainer), rel=1e-5)
    assert loop_results["eval_accuracy"] == trainer_results["eval_accuracy"]
    assert loop_results["eval_loss"] == pytest.approx(trainer_results["eval_loss"], rel=1e-5)
    found = weights(loop)
    for name, value in weights(trainer).items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.parametrize("script", [TRAINER, LOOP])
def test_two_processes_are_one(script, kind, finished):
    (one, results), (two, found) = finished(script), finished(script, kind)
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert found["eval_accuracy"] == results["eval_accuracy"]
    assert found["eval_loss"] == pytest.approx(results["eval_loss"], rel=1e-4)
    expected, together = weights(one), weights(two)
    assert together.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(together[name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert damage(checkpoints(two)[-1]) is None
    written = {path.name for path in checkpoints(two)[-1].iterdir()}
    assert ("pytorch_model_fsdp.bin" in written) == (kind == "fsdp2")
    assert {"model.safetensors", "config.json", "ema"} <= written


@pytest.mark.parametrize(
    ("script", "before", "after"),
    [
        (TRAINER, "fsdp2", "fsdp2"),  # optimizer, average and weights are shared out again
        (LOOP, "fsdp2", "fsdp2"),
        (TRAINER, "ddp", "alone"),
        (TRAINER, "alone", "ddp"),
    ],
)
def test_a_checkpoint_does_not_care_how_many_processes_made_it(script, before, after, finished, tmp_path):
    """Taken up in the middle, as if the run had been killed after its first checkpoint."""
    folder = shutil.copytree(finished(script, before)[0], tmp_path / "run")
    count = 1 if before == "alone" else 2
    assert json.loads((folder / "checkpoint-6" / "position.json").read_text())["num_processes"] == count
    forget_all_but_the_first(folder)
    (folder / "all_results.json").unlink()
    train(script, folder, after, resume_from_checkpoint="last")
    assert losses(folder) == pytest.approx(losses(finished(script)[0]), rel=1e-4)


def forget_all_but_the_first(folder):
    for path in checkpoints(folder)[1:]:
        remove(path)


def kill_after_the_first_checkpoint(started, folder):
    started[0].wait_for(lambda: checkpoints(folder))
    for kind in (signal.SIGSTOP, signal.SIGKILL):  # stopped, none sees that another is gone
        for one in started:
            one.send(kind)
    for one in started:
        assert one.wait() in (0, -signal.SIGKILL), one.text[-3000:]
    forget_all_but_the_first(folder)


def test_sigterm_to_one_of_two_stops_both_at_the_same_step(tmp_path):
    folder = tmp_path / "run"
    arguments = {**ALIKE, **QUIET[TRAINER], "per_device_train_batch_size": 16, "num_train_epochs": 50}
    started = start_together(TRAINER, folder, **arguments)
    started[0].wait_for(lambda: checkpoints(folder))
    started[1].send(signal.SIGTERM)
    for one in started:
        assert one.wait() == 0, one.text[-3000:]
    step = step_of(checkpoints(folder)[-1])
    assert step % 10 == 0
    assert f"Stopped by SIGTERM after step {step}." in started[0].text


# Writes down, process by process, what dropout and skipped branches made zero in each forward pass of the training.
RECORDER = """
import json, os, runpy, sys
import torch

def write(module, inputs, output):
    if module.training and type(module).__name__ in ("Dropout", "SimADropPath"):
        flat = (output == 0).flatten(1).double()
        kind = flat[0, :64].int().tolist() if type(module).__name__ == "Dropout" else (flat.mean(1) == 1).int().tolist()
        with open(os.path.join({folder!r}, "masks." + os.environ.get("RANK", "0")), "a") as file:
            file.write(json.dumps([type(module).__name__, kind]) + "\\n")

torch.nn.modules.module.register_module_forward_hook(write)
runpy.run_path({script!r}, run_name="__main__")
"""


def masks(folder, processes):
    """(process, kind of layer) -> what it dropped, one call after another; they are forgotten for the next run."""
    found = {}
    for rank in range(processes):
        path = folder / f"masks.{rank}"
        for kind, dropped in map(json.loads, path.read_text().splitlines()):
            found.setdefault((rank, kind), []).extend(dropped)
        path.unlink()
    return found


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)], ids=["two-then-one", "one-then-two"])
@pytest.mark.parametrize("script", [TRAINER, LOOP])
def test_each_process_drops_its_own_also_where_another_number_of_them_goes_on(script, before, after, tmp_path):
    """Dropout and drop path on: each process has masks of its own, and those of the beginning do not come again."""
    recorder, folder = tmp_path / "recorder.py", tmp_path / "run"
    recorder.write_text(RECORDER.format(folder=str(tmp_path), script=str(EXAMPLES / script)))
    settings = {**TINY_ARGUMENTS, **QUIET[script], "drop_path": 0.3}
    seen = []
    for processes in (before, after):
        settings |= {
            "per_device_train_batch_size": 32 // processes,
            "resume_from_checkpoint": "last" if seen else None,
        }
        if processes == 1:
            started = [Run(str(recorder), command(output_dir=folder, **settings), tmp_path / f"{len(seen)}.log")]
        else:
            started = start_together(str(recorder), folder, **settings)
        if not seen:
            kill_after_the_first_checkpoint(started, folder)
        else:
            assert [one.wait() for one in started] == [0] * processes, started[0].text[-3000:]
        seen.append(masks(tmp_path, processes))
    for found in seen:
        for kind in ("Dropout", "SimADropPath"):
            assert 0 < sum(found[0, kind]) < len(found[0, kind])
            others = [found[rank, kind] for rank, other in found if other == kind and rank]
            assert found[0, kind] not in others, kind
    fresh, resumed = (found[0, "Dropout"][:256] for found in seen)
    assert fresh != resumed
    if after == 2:
        assert seen[1][1, "Dropout"][:256] not in (fresh, resumed)


def shards_without_names(folder):
    """Tar shards whose classes are numbers, and which do not say how many images they hold."""
    for name, start, count in (("train-0", 0, 96), ("train-1", 96, 96), ("val-0", 192, 32)):
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for number, row in enumerate(digits().select(range(start, start + count))):
                stream = io.BytesIO()
                decode(row["image"]).save(stream, format="png")
                for kind, content in (("png", stream.getvalue()), ("cls", str(row["label"]).encode())):
                    entry = tarfile.TarInfo(f"{number:05}.{kind}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return {"train_files": [folder / "train-*.tar"], "validation_files": [folder / "val-*.tar"], "streaming": True}


@pytest.mark.parametrize("script", [TRAINER, LOOP])
def test_one_process_reads_a_stream_for_its_classes_and_none_does_when_the_run_goes_on(script, tmp_path):
    folder = tmp_path / "run"
    settings = {**ALIKE, **QUIET[script], "max_train_images": None, **shards_without_names(tmp_path)}
    settings |= {"per_device_train_batch_size": 16, "num_train_epochs": 2}

    started = start_together(script, folder, **settings)
    kill_after_the_first_checkpoint(started, folder)
    assert [READ_ONCE in one.text for one in started] == [True, False]
    started = start_together(script, folder, **settings, resume_from_checkpoint="last")
    for one in started:
        assert one.wait() == 0, one.text[-3000:]
        assert READ_ONCE not in one.text
    assert list(losses(folder)) == list(range(1, 13))
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {str(index): str(index) for index in range(10)}
