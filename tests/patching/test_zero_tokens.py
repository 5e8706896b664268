"""Models from weights as they are initialized: what starts at zero is drawn where SimA would keep it, and every host trains."""

import copy
import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sima_hf
from sima_hf.training.arguments import ModelArguments
from sima_hf.training.models import build_model
from tests.helpers.hosts.at_hand import TYPES, find, fresh, given, tensors


ROOT = Path(__file__).resolve().parents[2]
# A class of each host, and other heads of those whose tokens start at zero.
ONCE = [
    *TYPES,
    ("deit", "DeiTForImageClassificationWithTeacher"),
    ("beit", "BeitForMaskedImageModeling"),
    ("swin", "SwinForMaskedImageModeling"),
    ("upernet/beit", "UperNetForSemanticSegmentation"),
    ("dpt/beit", "DPTForDepthEstimation"),
]
IDS = [f"{case}-{name}" for case, name in ONCE]
# May stay zero: biases of positions, which learn from there; layers that begin as nothing on purpose; ViT-MAE's frozen tables; and
# tokens that softmax reads, in parts that are not swapped.
LEFT = (
    "_bias_table",
    "attention_biases",
    "rel_pos_h",
    "rel_pos_w",
    "sampling_offsets.weight",
    "attention_weights.weight",
    "layers.2.weight",  # of RT-DETR's heads for boxes
    "query_tokens",
    "multimodal_model.cls_token",
)
FROZEN = ("vit_mae", ("position_embeddings", "decoder_pos_embed"))
# Parents whose tower draws while the rest is still to be drawn, so that the rest differs from softmax's of the same seed.
DRAWN_BETWEEN = ("sam2_vision_model", "upernet/beit", "dpt/dinov2", "dpt/beit", "depth_anything", "zoedepth")

# Batch norms after each layer, on two images: softmax's own gradients go from 1e3 to 1e7.
BATCH_NORM = ("levit", "mobilevit")


def deit(**changes):
    return fresh("deit", "DeiTForImageClassification", **changes)


def trained(model):
    """As if it had been trained: norms have moved, and nothing that is zero has."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight += 0.1 * torch.randn(module.weight.shape)
    return model


def values(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def zeros(model):
    """Names of parameters of two dimensions or more that are zero throughout."""
    return {name for name, value in model.named_parameters() if value.dim() > 1 and value.numel() and not value.any()}


@pytest.mark.parametrize(("case", "name"), ONCE, ids=IDS)
def test_fresh_weights_are_the_hosts_but_for_what_started_at_zero(case, name):
    """Swapped or made as SimA; the softmax model of the same seed is what they are compared with."""
    model = fresh(case, name)
    softmax, zero = values(model), zeros(model)
    sima_hf.patch_model(model)
    left = zeros(model)
    assert {key for key, value in values(model).items() if not torch.equal(value, softmax[key])} == zero - left
    assert all(key.endswith(LEFT) or (case == FROZEN[0] and key.endswith(FROZEN[1])) for key in left)

    torch.manual_seed(0)
    made = type(model)(copy.deepcopy(model.config))
    assert zeros(made) == left
    if case not in DRAWN_BETWEEN:
        assert all(torch.equal(value, softmax[key]) for key, value in values(made).items() if key not in zero)


def steps(model, inputs, count):
    """Losses and lengths of the gradients of a few steps towards random targets, by AdamW, with clipped gradients."""
    for module in model.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    learning = [value for value in model.parameters() if value.numel() < 500_000]  # vocabularies would only cost time
    optimizer = torch.optim.AdamW(learning, 1e-3)
    targets, losses, lengths = None, [], []
    for _ in range(count):
        torch.manual_seed(2)
        found = [value for value in tensors(model(**inputs)) if value.requires_grad and value.numel()]
        if targets is None:
            targets = [torch.randn(value.shape, generator=torch.Generator().manual_seed(5)) for value in found]
        loss = sum((value - target).square().mean() for value, target in zip(found, targets, strict=True))
        loss.backward()
        losses.append(loss.item())
        lengths.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
    return losses, lengths


def trains(model, inputs, count=3, falls=True):
    """Whether a swapped model learns as its softmax twin does, from gradients of like length."""
    softmax, softmax_lengths = steps(copy.deepcopy(model), inputs, count)
    sima, lengths = steps(sima_hf.patch_model(model), inputs, count)
    assert torch.tensor([*sima, *lengths]).isfinite().all(), (sima, lengths)
    assert lengths[0] < 100 * softmax_lengths[0]
    assert max(lengths) < 100 * max(softmax_lengths)
    assert not falls or min(sima[1:]) < sima[0] or min(softmax[1:]) >= softmax[0]


@pytest.mark.parametrize(("case", "name"), ONCE, ids=IDS)
def test_every_host_trains_from_weights_as_they_are_initialized(case, name):
    trains(fresh(case, name), given(case, name), falls=case not in BATCH_NORM)


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("deit", "DeiTForImageClassification"),
        ("vit_msn", "ViTMSNForImageClassification"),
        ("vivit", "VivitForVideoClassification"),
        ("beit", "BeitForMaskedImageModeling"),
        ("data2vec-vision", "Data2VecVisionForImageClassification"),
        ("dinov2_with_registers", "Dinov2WithRegistersForImageClassification"),
        ("internvl_vision", "InternVLVisionModel"),
    ],
)
def test_twelve_blocks_train_from_weights_as_they_are_initialized(case, name):
    trains(fresh(case, name, num_hidden_layers=12), given(case, name))


def test_the_recipe_of_deit_as_shipped_has_gradients():
    recipe = json.loads((ROOT / "examples/configs/sima-deit-tiny.json").read_text(encoding="utf-8"))
    fields = {key: recipe[key] for key in ("model_type", "config_overrides", "attention_gain")}
    torch.manual_seed(0)
    model = build_model(ModelArguments(**fields), [str(index) for index in range(10)]).model.train()
    out = model(torch.randn(2, 3, 224, 224), labels=torch.tensor([3, 5]))
    out.loss.backward()
    assert out.logits.any()
    lengths = [value.grad.norm() for value in model.parameters() if value.grad is not None]
    assert torch.stack(lengths).norm() < 100


def test_it_is_said_what_was_drawn_and_undone_to_the_bit(caplog):
    model = deit()
    before = values(model)
    with caplog.at_level(logging.WARNING, "sima_hf"):
        sima_hf.patch_model(model)
    assert "deit.embeddings.cls_token, deit.embeddings.position_embeddings" in caplog.text
    drawn = {key for key, value in values(model).items() if not torch.equal(value, before[key])}
    assert len(drawn) == 3
    sima_hf.patch_model(model, gain="none")  # SimA already: nothing is drawn again
    sima_hf.unpatch_model(copy.deepcopy(model))
    assert model.deit.embeddings.cls_token.any()
    sima_hf.unpatch_model(model)
    assert all(torch.equal(value, before[key]) for key, value in values(model).items())
    with sima_hf.patched(model):
        assert model.deit.embeddings.cls_token.any()
    assert all(torch.equal(value, before[key]) for key, value in values(model).items())


def test_what_was_trained_since_stays_when_it_is_undone():
    model = sima_hf.patch_model(deit())
    with torch.no_grad():
        model.deit.embeddings.cls_token += 1
    kept = model.deit.embeddings.cls_token.clone()
    sima_hf.unpatch_model(model.to(torch.bfloat16))
    assert torch.equal(model.deit.embeddings.cls_token, kept.bfloat16())
    assert not model.deit.embeddings.distillation_token.any()


def test_a_swap_that_fails_its_check_leaves_the_zeros():
    model = deit()
    with pytest.raises(AttributeError):
        sima_hf.patch_model(model, verify={"no_such_argument": 1})
    assert len(zeros(model)) == 3
    assert type(model).__name__ == "DeiTForImageClassification"


@pytest.mark.parametrize(
    ("case", "name", "warned"),
    [
        (
            "dinov2",
            "Dinov2ForImageClassification",
            None,
        ),  # a mask token that was never used, with positions added to it
        ("vit", "ViTForMaskedImageModeling", None),
        ("beit", "BeitForImageClassification", "beit.embeddings.cls_token"),
        ("dinov2_with_registers", "Dinov2WithRegistersModel", "embeddings.register_tokens"),
    ],
)
def test_a_trained_model_keeps_every_parameter(case, name, warned, caplog):
    model = trained(fresh(case, name))
    before = values(model)
    with caplog.at_level(logging.WARNING, "sima_hf"):
        sima_hf.patch_model(model)
    assert all(torch.equal(value, before[key]) for key, value in values(model).items())
    assert (warned in caplog.text) if warned else ("zero" not in caplog.text)


def test_tokens_that_a_checkpoint_lacks_are_drawn_and_those_that_it_has_are_kept(tmp_path):
    model = trained(sima_hf.patch_model(deit()))
    with torch.no_grad():
        model.deit.embeddings.cls_token.zero_()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["deit.embeddings.distillation_token"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = type(model).from_pretrained(tmp_path)
    assert not loaded.deit.embeddings.cls_token.any()
    assert loaded.deit.embeddings.distillation_token.any()
    assert torch.equal(loaded.deit.embeddings.position_embeddings, model.deit.embeddings.position_embeddings)


def test_on_the_meta_device_nothing_is_drawn():
    with torch.device("meta"):
        model = find("deit", "DeiTForImageClassification")(deit().config)
    assert sima_hf.patch_model(model).deit.embeddings.cls_token.is_meta
    sima_hf.unpatch_model(model)
