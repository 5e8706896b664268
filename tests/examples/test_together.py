"""Several processes train to the losses of one with the same global batch: DDP and FSDP2, both scripts, on the CPU over gloo."""

import io
import json
import signal
import tarfile

import pytest
import torch
from safetensors.torch import load_file

from sima_hf.data.folders import digits
from sima_hf.data.images import decode
from sima_hf.folders.manifest import checkpoints, damage, step_of
from sima_hf.training.checkpoints.folders import remove
from tests.helpers.script_runs import EXAMPLES, FSDP2, TINY_ARGUMENTS, losses, run, run_together, start_together


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
QUIET = {TRAINER: {"disable_tqdm": True, "report_to": "none"}, LOOP: {}}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process with batches of 32: results, losses, weights."""
    found = {}

    def of(script):
        if script not in found:
            folder = tmp_path_factory.mktemp("alone") / "run"
            results = run(script, folder, **ALIKE, **QUIET[script], per_device_train_batch_size=32)
            found[script] = folder, results, losses(folder), load_file(folder / "model.safetensors")
        return found[script]

    ALIKE.pop("per_device_train_batch_size", None)
    return of


def test_both_scripts_train_alike(alone):
    """Trainer and the loop on Accelerate: the same recipe, the same numbers."""
    _, trainer_results, trainer_losses, trainer_weights = alone(TRAINER)
    _, loop_results, loop_losses, loop_weights = alone(LOOP)
    assert loop_losses == pytest.approx(trainer_losses, rel=1e-5)
    assert loop_results["eval_accuracy"] == trainer_results["eval_accuracy"]
    assert loop_results["eval_loss"] == pytest.approx(trainer_results["eval_loss"], rel=1e-5)
    for name, value in trainer_weights.items():
        torch.testing.assert_close(loop_weights[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.parametrize("script", [TRAINER, LOOP])
def test_two_processes_are_one(script, kind, alone, tmp_path):
    _, results, expected, weights = alone(script)
    found = run_together(
        script,
        tmp_path / "run",
        environment=FSDP2 if kind == "fsdp2" else None,
        **ALIKE,
        **QUIET[script],
        per_device_train_batch_size=16,
    )
    assert losses(tmp_path / "run") == pytest.approx(expected, rel=1e-4)
    assert found["eval_accuracy"] == results["eval_accuracy"]
    assert found["eval_loss"] == pytest.approx(results["eval_loss"], rel=1e-4)
    together = load_file(tmp_path / "run" / "model.safetensors")
    assert together.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(together[name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert damage(checkpoints(tmp_path / "run")[-1]) is None
    written = {path.name for path in checkpoints(tmp_path / "run")[-1].iterdir()}
    assert ("pytorch_model_fsdp.bin" in written) == (kind == "fsdp2")
    assert {"model.safetensors", "config.json", "ema"} <= written


def forget_all_but_the_first(folder):
    """As if the run had been killed after its first checkpoint."""
    for path in checkpoints(folder)[1:]:
        remove(path)
    (folder / "all_results.json").unlink()


@pytest.mark.parametrize("script", [TRAINER, LOOP])
def test_what_was_shared_out_goes_on(script, alone, tmp_path):
    """FSDP2, taken up in the middle: optimizer, average and weights are shared out again."""
    _, _, expected, _ = alone(script)
    folder, settings = tmp_path / "run", {**ALIKE, **QUIET[script], "per_device_train_batch_size": 16}
    run_together(script, folder, environment=FSDP2, **settings)
    forget_all_but_the_first(folder)
    run_together(script, folder, environment=FSDP2, **settings, resume_from_checkpoint="last")
    assert losses(folder) == pytest.approx(expected, rel=1e-4)


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


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)], ids=["two-then-one", "one-then-two"])
def test_a_checkpoint_does_not_care_how_many_processes_made_it(before, after, alone, tmp_path):
    _, _, expected, _ = alone(TRAINER)
    folder = tmp_path / "run"
    for processes in (before, after):
        start = run if processes == 1 else run_together
        resume = "last" if (folder / "checkpoint-6").exists() else None
        start(
            TRAINER,
            folder,
            **ALIKE,
            **QUIET[TRAINER],
            per_device_train_batch_size=32 // processes,
            resume_from_checkpoint=resume,
        )
        if resume is None:
            assert json.loads((folder / "checkpoint-6" / "position.json").read_text())["num_processes"] == before
            forget_all_but_the_first(folder)
    assert losses(folder) == pytest.approx(expected, rel=1e-4)


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
    settings = {**TINY_ARGUMENTS, **QUIET[script], "drop_path": 0.3, "num_train_epochs": 2}
    seen = []
    for processes in (before, after):
        start = run if processes == 1 else run_together
        resume = "last" if seen else None
        start(
            str(recorder), folder, **{**settings, "per_device_train_batch_size": 32 // processes},
            resume_from_checkpoint=resume,
        )  # fmt: skip
        seen.append(masks(tmp_path, processes))
        if resume is None:
            forget_all_but_the_first(folder)
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

    def readers(**more):
        started = start_together(script, folder, **settings, **more)
        codes = [one.wait() for one in started]
        assert codes == [0, 0], "".join(one.text[-3000:] for one in started)
        return [rank for rank, one in enumerate(started) if "it is read once for them" in one.text]

    assert readers() == [0]
    forget_all_but_the_first(folder)
    assert readers(resume_from_checkpoint="last") == []
    assert list(losses(folder)) == list(range(1, 13))
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {str(index): str(index) for index in range(10)}
