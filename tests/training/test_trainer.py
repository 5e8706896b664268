"""SimATrainer: one step by hand, the average of the weights, checkpoints, and ends of a run that are not its end."""

import copy
import json
import logging
import math
import os
import signal

import pytest
import torch
from transformers import EarlyStoppingCallback, ViTConfig, ViTForImageClassification

import sima_hf
from sima_hf.data.images import EvalImages, TrainImages
from sima_hf.errors import CheckpointError, TrainingError
from sima_hf.folders.manifest import checkpoints, damage
from sima_hf.training.checkpoints.folders import checkpoint_to_resume
from sima_hf.training.checkpoints.interruption import StoppedBySignal
from tests.helpers.digit_trainer import MEAN, STD, digit_views, losses, native, same, trainer_of


pytestmark = pytest.mark.slow
PLAIN = {
    "rand_augment": "none",
    "color_jitter": 0,
    "random_erasing": 0,
    "mixup": 0,
    "cutmix": 0,
    "repeated_augmentation": 1,
}


@pytest.fixture(scope="module")
def images():
    return digit_views()


def softmax_vit():
    torch.manual_seed(1)
    fields = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return ViTForImageClassification(ViTConfig(**fields, image_size=32, patch_size=8, num_labels=10))


def test_steps_by_hand(images, tmp_path):
    """The data order, normalization, smoothed targets, decay and rates of two steps, written out in float64."""
    model = native()
    by_hand = copy.deepcopy(model).double().train()
    trainer = trainer_of(
        tmp_path, images, model, **PLAIN, max_steps=2, save_strategy="no", lr_scheduler_type="constant"
    )
    batches = [batch for _, batch in zip(range(2), trainer.get_train_dataloader(), strict=False)]
    trainer.train()
    decayed = [p for name, p in by_hand.named_parameters() if p.ndim > 1 and name != "sima.class_token"]
    others = [p for name, p in by_hand.named_parameters() if not any(p is one for one in decayed)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0}], lr=1e-2
    )
    mean, std = (torch.tensor(numbers, dtype=torch.float64)[:, None, None] for numbers in (MEAN, STD))
    for batch, found in zip(batches, losses(trainer), strict=True):
        targets = torch.full((16, 10), 0.01, dtype=torch.float64)
        targets[torch.arange(16), batch["labels"]] = 0.91
        logits = by_hand((batch["pixel_values"].double() / 255 - mean) / std).logits
        loss = -(targets * logits.log_softmax(-1)).sum(-1).mean()
        assert found == pytest.approx(loss.item(), rel=2e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_accumulated_steps_are_those_of_the_whole_batch(images, tmp_path):
    """Without batch norm, two micro-batches of 8 are one batch of 16."""
    found = []
    for name, size, parts in (("whole", 16, 1), ("parts", 8, 2)):
        trainer = trainer_of(
            tmp_path / name, images, softmax_vit(), **PLAIN,
            per_device_train_batch_size=size, gradient_accumulation_steps=parts,
        )  # fmt: skip
        trainer.train()
        found.append(losses(trainer))
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_the_average_is_evaluated_and_comes_back_from_the_checkpoint(images, tmp_path):
    trainer = trainer_of(tmp_path, images, eval_weights="both")
    trainer.train()
    raw = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    metrics, named = trainer.evaluate(), trainer.evaluate({"a": images[1]})
    for one, other in (("eval_a_loss", "eval_loss"), ("eval_a_raw_loss", "eval_raw_loss")):
        assert named[one] == metrics[other]
    assert same(raw, trainer.model.state_dict())
    saved = sima_hf.SimAForImageClassification.from_pretrained(tmp_path / "checkpoint-6" / "ema")
    with trainer.ema.applied_to(trainer.model):
        assert same(saved.state_dict(), trainer.model.state_dict())
    assert not same(raw, saved.state_dict())
    assert same(raw, sima_hf.SimAForImageClassification.from_pretrained(tmp_path / "checkpoint-6").state_dict())
    for prefix, weights in (("eval", saved), ("eval_raw", trainer.model)):
        alone = trainer_of(tmp_path / prefix, images, copy.deepcopy(weights), ema_decay=0).evaluate()
        assert metrics[f"{prefix}_loss"] == pytest.approx(alone["eval_loss"], abs=1e-6)
        assert metrics[f"{prefix}_accuracy"] == alone["eval_accuracy"]


def test_the_average_is_the_formula(images, tmp_path):
    trainer = trainer_of(tmp_path, images)
    seen = [{name: p.detach().double().clone() for name, p in trainer.model.named_parameters()}]
    update = trainer.create_optimizer().step

    def step(*args, **kwargs):
        update(*args, **kwargs)
        seen.append({name: p.detach().double().clone() for name, p in trainer.model.named_parameters()})

    trainer.optimizer.step = step
    trainer.train()
    assert len(seen) == 7
    average = seen[0]
    for weights in seen[1:]:
        average = {name: 0.9 * value + 0.1 * weights[name] for name, value in average.items()}
    with trainer.ema.applied_to(trainer.model):
        for name, value in trainer.model.named_parameters():
            torch.testing.assert_close(value.double(), average[name], atol=1e-6, rtol=1e-5)


class Disturbed(EvalImages):
    """Asks for the end of the run when it is read."""

    def __getitems__(self, indices):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitems__(indices)


def test_sigterm_in_an_evaluation_ends_as_it_does_in_a_step(images, tmp_path, capsys):
    whole = trainer_of(tmp_path / "whole", images, native(hidden_dropout_prob=0.1))
    whole.train()
    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 6}
    disturbed = (images[0], Disturbed(images[1].data, images[1].view))
    trainer = trainer_of(tmp_path / "run", disturbed, native(hidden_dropout_prob=0.1), **settings)
    trainer.train()
    assert trainer.stopped_by_signal
    assert "Stopped by SIGTERM after step 2. The last good checkpoint is" in capsys.readouterr().out
    again = trainer_of(tmp_path / "run", images, native(hidden_dropout_prob=0.1))
    again.train(tmp_path / "run" / "checkpoint-2")
    assert losses(again) == losses(whole)
    assert same(whole.model.state_dict(), again.model.state_dict())
    with pytest.raises(StoppedBySignal, match="after step 6"):
        again.evaluate(disturbed[1])


def test_what_is_predicted_is_what_is_evaluated(images, tmp_path):
    trainer = trainer_of(tmp_path, images)
    evaluated, predicted = trainer.evaluate(), trainer.predict(images[1])
    logits, labels = torch.tensor(predicted.predictions), torch.tensor(predicted.label_ids)
    assert logits.shape == (50, 10)
    assert evaluated["eval_accuracy"] == (logits.argmax(-1) == labels).double().mean().item()
    assert evaluated["eval_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    for name in ("loss", "accuracy", "top_5_accuracy"):
        assert predicted.metrics[f"test_{name}"] == pytest.approx(evaluated[f"eval_{name}"], rel=1e-5), name
    own = trainer_of(tmp_path, images, compute_metrics=lambda found: {"shape": list(found.predictions.shape)})
    assert own.evaluate()["eval_shape"] == [50, 10]


def test_what_is_saved_in_the_end_is_chosen(images, tmp_path):
    for weights in ("ema", "raw"):
        trainer = trainer_of(tmp_path / weights, images, save_weights=weights)
        trainer.train()
        with trainer.weights_to_save():
            trainer.save_model()
        found = sima_hf.SimAForImageClassification.from_pretrained(tmp_path / weights).state_dict()
        assert same(found, trainer.model.state_dict()) == (weights == "raw")


@pytest.mark.parametrize(
    "make",
    [
        lambda: native(hidden_dropout_prob=0.1, drop_path_rate=0.2),
        softmax_vit,
        lambda: sima_hf.patch_model(softmax_vit()),
    ],
    ids=["native", "softmax", "swapped"],
)
def test_resuming_is_exact(make, images, tmp_path):
    """Also for a softmax model, which Transformers saves under other names than its own."""
    whole = trainer_of(tmp_path / "whole", images, make(), eval_strategy="steps", eval_steps=2)
    whole.train()
    again = trainer_of(tmp_path / "again", images, make(), eval_strategy="steps", eval_steps=2)
    again.train(str(tmp_path / "whole" / "checkpoint-3"))
    assert losses(again) == losses(whole)
    assert same(whole.model.state_dict(), again.model.state_dict())
    with whole.ema.applied_to(whole.model), again.ema.applied_to(again.model):
        assert same(whole.model.state_dict(), again.model.state_dict())
    evaluated = [
        [entry["eval_loss"] for entry in one.state.log_history if "eval_loss" in entry] for one in (whole, again)
    ]
    assert evaluated[0] == evaluated[1]


def test_evaluation_does_not_disturb_training(images, tmp_path):
    found = []
    for settings in ({"eval_strategy": "steps", "eval_steps": 1}, {}):
        trainer = trainer_of(tmp_path / str(len(found)), images, native(hidden_dropout_prob=0.2), **settings)
        trainer.train()
        found.append(losses(trainer))
    assert found[0] == found[1]


def test_a_loss_that_is_not_finite_ends_the_run_and_is_never_saved(images, tmp_path):
    trainer = trainer_of(tmp_path, images, logging_steps=100)

    def spoil(*args):
        if trainer.state.global_step == 4:
            with torch.no_grad():
                trainer.model.classifier.bias.fill_(float("nan"))

    trainer.model.register_forward_pre_hook(spoil)
    words = r"at step 6: the run has diverged\. .*The last good checkpoint is .*checkpoint-3; go on with"
    with pytest.raises(TrainingError, match=words):
        trainer.train()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-3"]


def test_a_logged_loss_that_is_not_finite_ends_the_run(images, tmp_path):
    trainer = trainer_of(tmp_path, images, learning_rate=1e30, save_strategy="no")
    with pytest.raises(
        TrainingError, match=r"The loss is (nan|inf) at step \d: the run has diverged.*no earlier checkpoint"
    ):
        trainer.train()


def test_a_disk_that_fills_up_leaves_the_earlier_checkpoint(images, tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path, images)
    save = torch.save

    def full(content, path, *args, **kwargs):
        if "checkpoint-6" in str(path):
            raise OSError(28, "No space left on device")
        return save(content, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        TrainingError, match=r"step 6 could not be written .*the disk is full.*checkpoint-3; go on with"
    ):
        trainer.train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]
    assert damage(tmp_path / "checkpoint-3") is None


class Deadly(TrainImages):
    """Kills the process that loads it, once the run is under way."""

    def __getitems__(self, draws):
        if draws[0].seed in self.deadly and os.getpid() != self.main:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitems__(draws)


def test_a_worker_that_dies_is_said_to_have(images, tmp_path):
    deadly = Deadly(images[0].data, images[0].view)
    trainer = trainer_of(tmp_path, (deadly, images[1]), dataloader_num_workers=1, dataloader_prefetch_factor=1)
    deadly.main = os.getpid()
    deadly.deadly = {draws[0].seed for draws in list(trainer.get_train_dataloader().batch_sampler)[5:]}
    with pytest.raises(
        TrainingError, match=r"A process that loads images died .*--dataloader_num_workers.*checkpoint-3"
    ):
        trainer.train()


def test_a_run_of_another_batch_size_does_not_go_on(images, tmp_path):
    trainer_of(tmp_path, images).train()
    other = trainer_of(tmp_path, images, per_device_train_batch_size=8)
    with pytest.raises(CheckpointError, match=r"must be that of .*checkpoint-3, 16, got 8"):
        other.train(str(tmp_path / "checkpoint-3"))
    trainer_of(tmp_path, images, per_device_train_batch_size=8, gradient_accumulation_steps=2).train(
        str(tmp_path / "checkpoint-3")
    )


def rates(trainer):
    return [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]


def test_rates_and_decay_given_anew_are_those_that_count(images, tmp_path):
    """As the advice after a divergence has it: go on with a lower rate."""
    first = trainer_of(tmp_path, images)
    first.train()
    lower = trainer_of(tmp_path, images, learning_rate=1e-3, min_learning_rate=1e-6, weight_decay=0.3)
    lower.train(str(tmp_path / "checkpoint-3"))
    cosine = [1e-6 + (1e-3 - 1e-6) * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    assert rates(lower)[:3] == rates(first)[:3]
    assert rates(lower)[3:] == pytest.approx(cosine[3:])
    assert {group["weight_decay"] for group in lower.optimizer.param_groups} == {0.3, 0.0}


def test_going_on_from_an_earlier_checkpoint_puts_the_later_ones_aside(images, tmp_path):
    trainer_of(tmp_path, images, save_steps=1, save_total_limit=None).train()
    trainer_of(tmp_path, images, save_steps=1, save_total_limit=2, max_steps=4).train(str(tmp_path / "checkpoint-3"))
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-4"]
    assert {path.name for path in tmp_path.glob("abandoned-*")} == {
        f"abandoned-checkpoint-{step}" for step in (4, 5, 6)
    }


def test_a_run_taken_up_at_its_end_does_not_go_past_it(images, tmp_path):
    """Also where the end lies in the middle of an epoch: six steps are one epoch here, four are not."""
    whole = trainer_of(tmp_path, images, max_steps=4, save_steps=4)
    whole.train()
    again = trainer_of(tmp_path, images, max_steps=4, save_steps=4)
    again.train(str(tmp_path / "checkpoint-4"))
    assert again.state.global_step == 4
    assert same(whole.model.state_dict(), again.model.state_dict())
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-4"]


def test_a_step_is_saved_once(images, tmp_path):
    """Else there were a moment without the newest checkpoint: asked for at the last step and at the end of its epoch."""
    trainer = trainer_of(tmp_path, images, save_steps=6)
    trainer.train()
    before = (tmp_path / "checkpoint-6").stat().st_ino
    trainer._save_checkpoint(trainer.model, None)
    assert (tmp_path / "checkpoint-6").stat().st_ino == before


def test_the_best_checkpoint_brings_its_average(images, tmp_path):
    trainer = trainer_of(
        tmp_path, images, eval_strategy="steps", eval_steps=3, load_best_model_at_end=True, metric_for_best_model="loss",
        greater_is_better=False, eval_weights="ema", save_weights="ema",
    )  # fmt: skip
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-3")  # with rates so high, the first is the better
    saved = sima_hf.SimAForImageClassification.from_pretrained(tmp_path / "checkpoint-3" / "ema").state_dict()
    with trainer.weights_to_save():
        assert same(saved, trainer.model.state_dict())


def test_changed_settings_are_said(images, tmp_path, caplog):
    trainer_of(tmp_path, images).train()
    logging.getLogger("transformers").propagate = True
    logging.getLogger("sima_hf").propagate = True
    fewer = (TrainImages(images[0].data.select(range(64)), images[0].view), images[1])
    trainer_of(tmp_path, fewer, seed=7).train(str(tmp_path / "checkpoint-3"))
    assert "was made with seed 42, this run has 7: the order of the images" in caplog.text
    assert "was made with steps_per_epoch 6, this run has 4: the data set has another size" in caplog.text


def test_early_stopping_keeps_its_patience(images, tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 3, "metric_for_best_model": "loss", "greater_is_better": False}
    trainer = trainer_of(tmp_path, images, **settings, eval_weights="ema")
    trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=3))
    trainer.train()
    state = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())["stateful_callbacks"]
    assert state["EarlyStoppingCallback"]["attributes"]["early_stopping_patience_counter"] == 1


def test_a_checkpoint_of_another_model_does_not_go_on(images, tmp_path):
    trainer_of(tmp_path, images).train()
    with pytest.raises(CheckpointError, match=r"holds another model than the one to be trained"):
        trainer_of(tmp_path, images, native(hidden_size=48, num_attention_heads=3)).train(
            str(tmp_path / "checkpoint-6")
        )


def test_models_saved_alone_are_refused_when_a_run_is_to_go_on(images, tmp_path):
    """As Trainer writes them: it would load the weights and begin anew with the optimizer and its warm-up."""
    trainer_of(tmp_path, images, save_only_model=True).train()
    with pytest.raises(CheckpointError, match=r"checkpoint-6 holds the model alone \(--save_only_model\)"):
        checkpoint_to_resume(tmp_path, "last")
    assert damage(tmp_path / "checkpoint-6") is None


def test_a_checkpoint_without_average_says_how_to_go_on(images, tmp_path):
    trainer_of(tmp_path, images, ema_decay=0).train()
    with pytest.raises(CheckpointError, match="has no average of the weights; go on with --ema_decay 0"):
        trainer_of(tmp_path, images).train(str(tmp_path / "checkpoint-3"))
    trainer_of(tmp_path, images, ema_decay=0).train(str(tmp_path / "checkpoint-3"))


def test_the_position_is_written_down(images, tmp_path):
    trainer_of(tmp_path, images).train()
    position = json.loads((tmp_path / "checkpoint-3" / "position.json").read_text())
    assert (position["step"], position["images_seen"], position["num_processes"]) == (3, 48, 1)
    assert position["epoch"] == pytest.approx(0.5)


def test_unused_fields_of_trainer_do_what_they_did(images, tmp_path):
    """A scheduler of Transformers' own, clipping, and keeping the best checkpoint."""
    trainer = trainer_of(
        tmp_path, images, lr_scheduler_type="linear", max_grad_norm=1e-3, eval_strategy="steps", eval_steps=3,
        metric_for_best_model="accuracy", save_total_limit=1,
    )  # fmt: skip
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert rates == pytest.approx([1e-2 * (6 - step) / 6 for step in range(6)], rel=1e-6)
    best = trainer.state.best_model_checkpoint
    assert best in {str(path) for path in checkpoints(tmp_path)}
