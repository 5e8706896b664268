"""Feature maps of chosen blocks, and a dense head on top of them."""

import pytest
import torch
from transformers import AutoBackbone, UperNetConfig, UperNetForSemanticSegmentation

from sima_hf import SimABackbone, SimAConfig, SimAForImageClassification


def tiny(**kwargs):
    return SimAConfig(**{"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, **kwargs})


@pytest.mark.parametrize(
    ("choice", "stages"),
    [
        ({}, ["stage4"]),
        ({"out_features": ["stem", "stage2", "stage4"]}, ["stem", "stage2", "stage4"]),
        ({"out_indices": [1, 3]}, ["stage1", "stage3"]),
        ({"out_indices": [-1]}, ["stage4"]),
    ],
    ids=["default", "names", "indices", "negative"],
)
@pytest.mark.parametrize("size", [(64, 96), (50, 67)], ids=str)
def test_feature_maps_are_the_blocks_outputs(choice, stages, size, tmp_path):
    classifier = SimAForImageClassification(tiny()).eval()
    classifier.save_pretrained(tmp_path)
    backbone, report = SimABackbone.from_pretrained(tmp_path, output_loading_info=True, **choice)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert backbone.out_features == stages
    assert backbone.channels == [32] * len(stages)
    images = torch.randn(2, 3, *size)
    hidden_states = classifier(images, output_hidden_states=True).hidden_states
    outputs = backbone.eval()(images)
    grid = [-(-side // 16) for side in size]
    assert len(outputs.feature_maps) == len(stages)
    for stage, feature_map in zip(stages, outputs.feature_maps, strict=True):
        expected = hidden_states[backbone.stage_names.index(stage)].transpose(1, 2).unflatten(-1, grid)
        assert feature_map.shape == (2, 32, *grid)
        assert torch.equal(feature_map, expected)
    assert outputs.hidden_states is None
    assert outputs.attentions is None


def test_hidden_states_and_attentions_on_request():
    outputs = SimABackbone(tiny()).eval()(torch.randn(2, 3, 64, 64), output_hidden_states=True, output_attentions=True)
    assert [tuple(h.shape) for h in outputs.hidden_states] == [(2, 16, 32)] * 5
    assert [tuple(a.shape) for a in outputs.attentions] == [(2, 4, 16, 16)] * 4


def test_auto_backbone():
    backbone = AutoBackbone.from_config(tiny(out_features=["stage1"]))
    assert type(backbone) is SimABackbone
    (feature_map,) = backbone(torch.randn(1, 3, 32, 32), return_dict=False)[0]
    assert feature_map.shape == (1, 32, 2, 2)


def test_upernet_trains_saves_and_loads(tmp_path):
    config = UperNetConfig(
        backbone_config=tiny(out_features=["stage1", "stage2", "stage3", "stage4"]),
        hidden_size=16,
        auxiliary_in_channels=32,
        auxiliary_channels=8,
        num_labels=3,
    )
    model = UperNetForSemanticSegmentation(config)
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(3, (2, 64, 64))
    model(images, labels=labels).loss.backward()
    assert model.backbone.layers[0].attention.q_proj.weight.grad.abs().max() > 0
    model.eval().save_pretrained(tmp_path)
    again = UperNetForSemanticSegmentation.from_pretrained(tmp_path).eval()
    assert type(again.backbone) is SimABackbone
    saved = model.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in again.state_dict().items())
    # Loaded weights lie in the file's memory, at addresses for which convolutions may add up in another order.
    for tensor in [*again.parameters(), *again.buffers()]:
        tensor.data = tensor.data.clone()
    assert torch.equal(again(images).logits, model(images).logits)
