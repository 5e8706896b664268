"""The state of a run, as a loop on Accelerate keeps it: saved once a step, restored exactly, and who is evaluated."""

import pytest
import torch
from accelerate import Accelerator

from sima_hf.errors import CheckpointError, TrainingError
from sima_hf.folders.manifest import checkpoints, damage
from sima_hf.training.arguments import LoopArguments
from sima_hf.training.checkpoints.state import RunState
from sima_hf.training.recipe.optimization import cosine_schedule
from tests.helpers.digit_trainer import native, same


class Loop:
    """A model, its optimizer and a state, without data."""

    def __init__(self, folder, **changes):
        self.args = LoopArguments(output_dir=str(folder), ema_decay=0.5, ema_warmup=False, **changes)
        self.accelerator, self.model = Accelerator(cpu=True), native()
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        _, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        self.schedule = cosine_schedule(optimizer, 10)
        self.accelerator.register_for_checkpointing(self.schedule)
        self.state = RunState(self.args, self.accelerator, self.model, self.model.save_pretrained)
        self.state.describe_data(None, 5, 32)
        self.state.start(10)

    def step(self):
        for parameter in self.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()
        self.schedule.step()
        self.state.step += 1
        self.state.update_average()

    def save(self):
        return self.state.save(lambda folder: self.accelerator.save_state(str(folder)))

    def restore(self, checkpoint):
        load = lambda folder: self.accelerator.load_state(str(folder))  # noqa: E731
        self.state.restore(checkpoint, load, self.optimizer, self.schedule)


def test_a_run_goes_on_where_it_was_saved(tmp_path):
    whole, first, second = Loop(tmp_path / "whole"), Loop(tmp_path / "run"), Loop(tmp_path / "run")
    for step in range(4):
        whole.step()
        if step < 3:
            first.step()
            assert first.save()
    assert not first.save()  # has been
    (*_, newest) = checkpoints(tmp_path / "run")
    assert [path.name for path in checkpoints(tmp_path / "run")] == [f"checkpoint-{step}" for step in (1, 2, 3)]
    assert damage(newest) is None
    second.restore(newest)
    assert second.state.progress == first.state.progress
    second.step()
    assert same(second.model.state_dict(), whole.model.state_dict())
    assert same(second.state.ema.averages, whole.state.ema.averages)
    assert second.schedule.get_last_lr() == whole.schedule.get_last_lr()


@pytest.mark.parametrize(("kind", "prefixes"), [("raw", ["eval"]), ("ema", ["eval"]), ("both", ["eval", "eval_raw"])])
def test_the_weights_that_are_evaluated(kind, prefixes, tmp_path):
    loop = Loop(tmp_path, eval_weights=kind)
    loop.step()
    raw, seen = loop.model.classifier.bias.clone(), {}

    def measure(prefix):
        seen[prefix] = torch.equal(loop.model.classifier.bias, raw)
        return {f"{prefix}_draw": torch.rand(1).item()}

    before = torch.get_rng_state()
    assert list(loop.state.evaluate(measure)) == [f"{prefix}_draw" for prefix in prefixes]
    assert torch.equal(torch.get_rng_state(), before)
    assert list(seen.values()) == ([True] if kind == "raw" else [False, True][: len(prefixes)])
    assert torch.equal(loop.model.classifier.bias, raw)


def test_what_is_not_finite_is_never_saved(tmp_path):
    loop = Loop(tmp_path)
    loop.step()
    with pytest.raises(TrainingError, match="The loss is nan at step 1"):
        loop.state.mean_loss([torch.tensor(1.0), torch.tensor(float("nan"))])
    with torch.no_grad():
        loop.model.classifier.bias[0] = float("inf")
    with pytest.raises(TrainingError, match="at step 1: the run has diverged"):
        loop.save()
    assert not checkpoints(tmp_path)


def test_a_run_with_an_average_does_not_go_on_without(tmp_path):
    loop = Loop(tmp_path)
    loop.state.ema = None
    loop.step()
    loop.save()
    other = Loop(tmp_path)
    with pytest.raises(CheckpointError, match="--ema_decay 0"):
        other.restore(tmp_path / "checkpoint-1")
