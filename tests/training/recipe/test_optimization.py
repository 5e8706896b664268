"""Groups of parameters for models of several families, and the learning rate step by step."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    CvtConfig,
    CvtForImageClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    Swinv2Config,
    Swinv2ForImageClassification,
)

import sima_hf
from sima_hf.training.recipe.optimization import cosine_schedule, parameter_groups


PLAIN = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}
STAGES = {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 1], "image_size": 32}


def native():
    config = sima_hf.SimAConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_class_attention_layers=1
    )
    return sima_hf.SimAForImageClassification(config)


def cvt():
    return CvtForImageClassification(CvtConfig(embed_dim=[8, 8, 8], num_heads=[1, 1, 1], depth=[1, 2, 3]))


MODELS = {
    "sima": native,
    "deit": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(intermediate_size=24, **PLAIN)),
    "swin": lambda: SwinForImageClassification(SwinConfig(**STAGES)),
    "swinv2": lambda: Swinv2ForImageClassification(Swinv2Config(**STAGES)),
    "cvt": cvt,
    "dinov2": lambda: Dinov2WithRegistersForImageClassification(Dinov2WithRegistersConfig(patch_size=16, **PLAIN)),
    "beit": lambda: BeitForImageClassification(
        BeitConfig(
            intermediate_size=24,
            use_mask_token=True,
            use_relative_position_bias=True,
            use_absolute_position_embeddings=True,
            **PLAIN,
        )
    ),
}

# Parameters of two and more dimensions that must not decay; all others of that many must.
SPARED = {
    "sima": {"sima.class_token"},
    "deit": {
        "deit.embeddings.cls_token",
        "deit.embeddings.distillation_token",
        "deit.embeddings.position_embeddings",
    },
    "swin": {
        f"swin.encoder.layers.{i}.blocks.0.attention.relative_position_bias.relative_position_bias_table"
        for i in range(2)
    },
    "swinv2": {
        f"swinv2.encoder.layers.{i}.blocks.0.attention.self.{name}"
        for i in range(2)
        for name in ("logit_scale", "continuous_position_bias_mlp.0.weight", "continuous_position_bias_mlp.2.weight")
    },
    "cvt": {"cvt.encoder.stages.2.cls_token"},
    "dinov2": {
        f"dinov2_with_registers.embeddings.{name}"
        for name in ("cls_token", "mask_token", "register_tokens", "position_embeddings")
    },
    "beit": {"beit.embeddings.cls_token", "beit.embeddings.mask_token", "beit.embeddings.position_embeddings"}
    | {f"beit.layers.{i}.relative_position_bias.relative_position_bias_table" for i in range(2)},
}


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("patched", [False, True])
def test_decay_is_for_matrices_and_convolutions(family, patched):
    model = MODELS[family]()
    if patched and family == "sima":
        pytest.skip("a SimA model of its own")
    if patched:
        sima_hf.patch_model(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = parameter_groups(model, 0.05)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    expected = {
        name for name, parameter in model.named_parameters() if parameter.ndim > 1 and name not in SPARED[family]
    }
    assert SPARED[family] <= set(names.values())
    assert {names[id(parameter)] for parameter in decayed["params"]} == expected
    everyone = [id(parameter) for group in (decayed, spared) for parameter in group["params"]]
    assert sorted(everyone) == sorted(names)
    if family == "sima":
        assert "sima.embeddings.position_encoding.projection.weight" in expected


def test_frozen_parameters_are_left_out_and_tied_ones_come_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3), nn.LayerNorm([2, 3]))
    model[1].weight = model[0].weight
    model[2].requires_grad_(False)
    decayed, spared = parameter_groups(model, 0.1)
    assert [id(parameter) for parameter in decayed["params"]] == [id(model[0].weight)]
    expected = [model[0].bias, model[1].bias, model[3].weight, model[3].bias]
    assert {id(parameter) for parameter in spared["params"]} == {id(parameter) for parameter in expected}
    torch.optim.AdamW([decayed, spared])


def test_names_decide_where_shapes_do_not():
    """Biases of many heads, relative positions of ViTDet and LeViT, CLIP's class and position embeddings, a token mixer."""
    names = ("weight", "bias", "rel_pos_h", "attention_biases", "class_embedding", "mask_tokens", "token_mixer")
    model = nn.Module()
    for name in names:
        model.register_parameter(name, nn.Parameter(torch.zeros(2, 2)))
    model.position_embedding = nn.Embedding(3, 2)
    decayed, spared = parameter_groups(model, 0.1)
    assert [id(parameter) for parameter in decayed["params"]] == [id(model.weight), id(model.token_mixer)]
    assert len(spared["params"]) == 6


def test_a_group_without_parameters_is_left_out():
    assert [group["weight_decay"] for group in parameter_groups(nn.Linear(2, 2, bias=False), 0.1)] == [0.1]
    assert [group["weight_decay"] for group in parameter_groups(nn.LayerNorm(2), 0.1)] == [0.0]
    with pytest.raises(ValueError, match="This Linear has no trainable parameter"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), 0.1)


def two_groups():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1e-3, 4e-4)]
    return torch.optim.SGD(groups, lr=1.0)


def rates(optimizer, schedule, steps):
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return found


def literal(step, peak, steps=100, warmup=10, cooldown=20, start=1e-6, end=1e-5):
    if step < warmup:
        return start + (peak - start) * step / warmup
    if step >= steps - cooldown:
        return end
    return end + (peak - end) / 2 * (1 + math.cos(math.pi * (step - warmup) / (steps - cooldown - warmup)))


def test_the_schedule_is_warm_up_cosine_and_cooldown_for_each_group():
    optimizer = two_groups()
    found = rates(optimizer, cosine_schedule(optimizer, 100, 10, 20, 1e-6, 1e-5), 105)
    for step, row in enumerate(found):
        assert row == pytest.approx([literal(step, 1e-3), literal(step, 4e-4)], rel=1e-9), step
    assert found[0] == pytest.approx([1e-6, 1e-6])
    assert found[10] == pytest.approx([1e-3, 4e-4])
    assert found[45] == pytest.approx([(1e-3 + 1e-5) / 2, (4e-4 + 1e-5) / 2])
    assert found[79][0] > 1e-5
    assert found[80:] == [pytest.approx([1e-5, 1e-5])] * 25


def test_a_cosine_over_the_warm_up_begins_with_the_run():
    """As timm has it without `warmup_prefix`: at the end of the warm-up the rate falls to where the cosine is by then."""
    optimizer = two_groups()
    found = rates(optimizer, cosine_schedule(optimizer, 100, 10, 20, 1e-6, 1e-5, warmup_prefix=False), 105)
    for step, row in enumerate(found):
        cosine = [1e-5 + (peak - 1e-5) / 2 * (1 + math.cos(math.pi * min(step / 80, 1))) for peak in (1e-3, 4e-4)]
        expected = cosine if step >= 10 else [literal(step, 1e-3), literal(step, 4e-4)]
        assert row == pytest.approx(expected, rel=1e-9), step


def test_without_warm_up_it_starts_at_the_top():
    optimizer = two_groups()
    found = rates(optimizer, cosine_schedule(optimizer, 4, min_lr=0.0), 5)
    assert [row[0] for row in found] == pytest.approx(
        [1e-3, literal(1, 1e-3, 4, 0, 0, 0, 0), 5e-4, 1e-3 * 0.1464466, 0]
    )


def test_a_group_with_rate_zero_stays_there():
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": 0.0}], lr=1.0)
    assert rates(optimizer, cosine_schedule(optimizer, 10, 2, 2), 10) == [[0.0]] * 10


@pytest.mark.parametrize("stop", [3, 10, 50, 85])
def test_it_goes_on_from_its_state(stop):
    whole = two_groups()
    expected = rates(whole, cosine_schedule(whole, 100, 10, 20), 100)
    first = two_groups()
    schedule = cosine_schedule(first, 100, 10, 20)
    rates(first, schedule, stop)
    saved = pickle.loads(pickle.dumps((first.state_dict(), schedule.state_dict())))
    second = two_groups()
    resumed = cosine_schedule(second, 100, 10, 20)
    second.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert rates(second, resumed, 100 - stop) == expected[stop:]
    pickle.dumps(copy.deepcopy(schedule))


def test_state_holds_numbers_only(tmp_path):
    """So that torch.load with weights_only reads it."""
    optimizer = two_groups()
    schedule = cosine_schedule(optimizer, 100, 10, 20)
    torch.save(schedule.state_dict(), tmp_path / "scheduler.pt")
    assert torch.load(tmp_path / "scheduler.pt", weights_only=True)["last_epoch"] == 0


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"steps": 30, "warmup_steps": 10, "cooldown_steps": 20}, "must leave at least one of the 30 steps"),
        ({"steps": 0}, "at least one of the 0 steps"),
        ({"steps": 5, "warmup_steps": -1}, "must not be negative"),
        ({"steps": 5, "min_lr": 5e-4}, r"min_lr \(0\.0005\) must not exceed .* got 0\.0004"),
    ],
)
def test_schedules_that_are_none_are_refused(settings, error):
    with pytest.raises(ValueError, match=error):
        cosine_schedule(two_groups(), **settings)
