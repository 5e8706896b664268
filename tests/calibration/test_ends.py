"""Which models have their patches read alone, and that a class token then weighs as a patch does."""

import copy

import pytest
import torch
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    BeitForSemanticSegmentation,
    Dinov2Backbone,
    Dinov2Config,
    Dinov2Model,
    DPTConfig,
    DPTForSemanticSegmentation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    ViTConfig,
    ViTForMaskedImageModeling,
)

import sima_hf
from sima_hf.calibration.ends import reads_patches_alone


SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
LEVELS = {"out_features": ["stage1", "stage2"], "reshape_hidden_states": True}
DINOV2 = Dinov2Config(**SIZES, mlp_ratio=2)


def dpt(readout_type):
    sizes = {**SIZES, "num_hidden_layers": 4, "intermediate_size": 32, "backbone_out_indices": [0, 1, 2, 3]}
    return DPTForSemanticSegmentation(
        DPTConfig(**sizes, readout_type=readout_type, neck_hidden_sizes=[8] * 4, fusion_hidden_size=8)
    )


def beit():
    sizes = {**SIZES, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]}
    return BeitForSemanticSegmentation(BeitConfig(**sizes, use_auxiliary_head=False, pool_scales=[1]))


def upernet():
    backbone = Dinov2Config(**SIZES, mlp_ratio=2, **LEVELS)
    return UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=backbone, hidden_size=8, auxiliary_in_channels=24, auxiliary_channels=8)
    )


MODELS = {
    "backbone": (lambda: Dinov2Backbone(Dinov2Config(**SIZES, mlp_ratio=2, **LEVELS)), True),
    "backbone in a model": (upernet, True),
    "segmentation": (beit, True),
    "masked images": (lambda: ViTForMaskedImageModeling(ViTConfig(**SIZES, intermediate_size=32)), True),
    "dpt, class token left out": (lambda: dpt("ignore"), True),
    "dpt, class token read": (lambda: dpt("project"), False),
    "encoder": (lambda: Dinov2Model(DINOV2), False),
    "classifier": (lambda: BeitForImageClassification(BeitConfig(**SIZES)), False),
}


@pytest.mark.parametrize("name", MODELS)
def test_softmax_and_swapped(name):
    build, expected = MODELS[name]
    model = build()
    assert reads_patches_alone(model) is expected
    assert reads_patches_alone(sima_hf.patch_model(model)) is expected


@pytest.mark.parametrize(("name", "weight"), [("backbone", 1.0), ("encoder", 16.0)])
def test_the_default_weight(name, weight):
    torch.manual_seed(0)
    teacher = MODELS[name][0]().eval()
    images = [torch.randn(40, 3, 32, 32)]
    found = []
    for options in ({}, {"class_token_weight": weight}, {"class_token_weight": 5.0}):
        model = sima_hf.patch_model(copy.deepcopy(teacher))
        sima_hf.calibrate(model, teacher, images, progress=False, **options)
        found.append(torch.cat([one.flatten() for one in model.state_dict().values()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
