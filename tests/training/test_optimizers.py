"""Every `--optim` of Trainer's: those that run here, stand-ins for those whose package is not installed, and what the rest say."""

import copy
import sys
import types

import pytest
import torch
from transformers.training_args import OptimizerNames

from sima_hf.errors import MissingDependencyError, TrainingError
from tests.helpers.digit_trainer import digit_views, losses, same, trainer_of


HERE = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")
LOW_RANK = {
    "galore_adamw": ("galore_torch", ("GaLoreAdamW", "GaLoreAdamW8bit", "GaLoreAdafactor")),
    "apollo_adamw": ("apollo_torch", ("APOLLOAdamW",)),
}


@pytest.fixture(scope="module")
def images():
    return digit_views()


def decaying(model):
    """By hand: matrices and convolutions, but the class token."""
    return {id(p) for name, p in model.named_parameters() if p.ndim > 1 and name != "sima.class_token"}


def check_groups(optimizer, model):
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.05 if id(parameter) in decaying(model) else 0.0)
    held = [id(one) for group in optimizer.param_groups for one in group["params"]]
    assert sorted(held) == sorted(id(one) for one in model.parameters() if one.requires_grad)


class Projected(torch.optim.AdamW):
    """AdamW that wants to be told which matrices it would project."""

    def __init__(self, params, **settings):
        super().__init__([dict(group) for group in params], **settings)


class Lomo(torch.optim.Optimizer):
    """Gradient descent in the backward pass, on a model: as the package's, in a few lines."""

    def __init__(self, model, lr):
        self.model = model
        super().__init__(model.parameters(), {"lr": lr})

    def optimizer_step(self, loss, lr):
        loss.backward()
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter -= lr * parameter.grad
                parameter.grad = None

    def step(self, closure=None):
        """Done."""


def install(monkeypatch, package, **names):
    module = types.ModuleType(package)
    vars(module).update(names)
    monkeypatch.setitem(sys.modules, package, module)
    word = package.removesuffix("_optim")
    monkeypatch.setattr(f"transformers.trainer_optimizer.is_{word}_available", lambda *version: True)


@pytest.mark.slow
@pytest.mark.parametrize("name", HERE)
def test_optimizers_of_torch_run_with_the_recipes_groups(name, images, tmp_path):
    trainer = trainer_of(tmp_path, images, optim=name, learning_rate=1e-3, scale_learning_rate=True, max_steps=3)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    check_groups(trainer.optimizer, trainer.model)
    assert {group["initial_lr"] for group in trainer.optimizer.param_groups} == {1e-3 * 16 / 512}
    assert trainer.args.learning_rate == 1e-3
    assert not same(before, trainer.model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("name", LOW_RANK)
def test_a_low_rank_optimizer_keeps_its_matrices_apart_and_decay_where_it_belongs(name, images, tmp_path, monkeypatch):
    package, classes = LOW_RANK[name]
    install(monkeypatch, package, **dict.fromkeys(classes, Projected))
    settings = {"optim": name, "optim_target_modules": ["mlp"], "optim_args": "rank=4"}
    trainer = trainer_of(tmp_path, images, **settings)
    trainer.train()
    check_groups(trainer.optimizer, trainer.model)
    ranks = {id(one): group.get("rank") for group in trainer.optimizer.param_groups for one in group["params"]}
    for key, module in trainer.model.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert ranks[id(module.weight)] == (4 if "mlp" in key else None), key
    again = trainer_of(tmp_path, images, **settings)
    again.train(str(tmp_path / "checkpoint-3"))
    assert losses(again) == losses(trainer)


@pytest.mark.parametrize("name", ["lomo", "adalomo"])
def test_lomo_gets_the_model_and_the_rate_of_the_schedule(name, images, tmp_path, monkeypatch, caplog):
    install(monkeypatch, "lomo_optim", Lomo=Lomo, AdaLomo=Lomo)
    trainer = trainer_of(tmp_path, images, optim=name, save_strategy="no")
    assert trainer.create_optimizer().model is trainer.model
    assert f"--optim {name} takes no groups of parameters, so --weight_decay 0.05 is not used" in caplog.text
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [1e-2]


class MuonAndAdamW(torch.optim.Optimizer):
    """torch's Muon for a matrix, AdamW for the rest, made from the model: what a factory returns."""

    def __init__(self, model, lr):
        matrices = [next(one for one in model.parameters() if one.ndim == 2)]
        others = [one for one in model.parameters() if one is not matrices[0]]
        self.parts = torch.optim.Muon(matrices, lr=lr), torch.optim.AdamW(others, lr=lr)
        super().__init__([{"params": matrices}, {"params": others}], {"lr": lr})
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups = [{**part.param_groups[0], **group}]

    def step(self, closure=None):
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups[0]["lr"] = group["lr"]
            part.step()


class Factory:
    """As Trainer takes them: made first, then called with the model."""

    def __call__(self, model, lr):
        return MuonAndAdamW(model, lr)


def given(trainer, cls, **settings):
    trainer.optimizer_cls_and_kwargs = cls, settings
    return trainer


@pytest.mark.slow
def test_muon_given_by_a_factory_trains(images, tmp_path):
    trainer = given(trainer_of(tmp_path, images, save_strategy="no", max_steps=2), Factory, lr=3e-3)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    assert isinstance(trainer.optimizer.optimizer, MuonAndAdamW)
    assert {group["initial_lr"] for group in trainer.optimizer.param_groups} == {3e-3}
    assert not same(before, trainer.model.state_dict())


def test_a_class_that_is_given_has_the_recipes_groups_and_its_own_rate(images, tmp_path):
    trainer = given(trainer_of(tmp_path, images, scale_learning_rate=True), torch.optim.NAdam, lr=2e-3)
    check_groups(trainer.create_optimizer(), trainer.model)
    assert isinstance(trainer.optimizer, torch.optim.NAdam)
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {2e-3}


@pytest.mark.parametrize("name", sorted(set(OptimizerNames) - {*HERE}, key=str))
def test_an_optimizer_that_is_not_installed_says_what_installs_it(name, images, tmp_path):
    trainer = trainer_of(tmp_path, images, optim=name, optim_target_modules="all-linear")
    if name.endswith("layerwise"):
        with pytest.raises(
            TrainingError, match=rf"its state is in no checkpoint; take {name[: -len('_layerwise')]}\."
        ):
            trainer.create_optimizer()
        return
    with pytest.raises(MissingDependencyError, match=rf"--optim {name.value} needs a package .*pip install \S+"):
        trainer.create_optimizer()
    assert trainer.args.learning_rate == 1e-2


def test_a_low_rank_optimizer_without_its_matrices_says_which_argument(images, tmp_path, monkeypatch):
    install(monkeypatch, "galore_torch", **dict.fromkeys(LOW_RANK["galore_adamw"][1], Projected))
    trainer = trainer_of(tmp_path, images, optim="galore_adamw")
    with pytest.raises(TrainingError, match=r"--optim galore_adamw cannot be made: .*optim_target_modules"):
        trainer.create_optimizer()
