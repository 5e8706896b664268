"""Feature maps of chosen blocks, and a dense head on top of them."""

import math

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


def doubled(maps, layer):
    """A transposed convolution of stride 2 and size 2, written out: each pixel becomes a block of four."""
    blocks = torch.einsum("bchw,cokl->bohkwl", maps, layer.weight) + layer.bias[:, None, None, None, None]
    return blocks.flatten(4, 5).flatten(2, 3)


def normed_gelu(maps, norm):
    """Batch norm by its running statistics, then GELU by the error function."""
    column = (slice(None), None, None)
    maps = (maps - norm.running_mean[column]) / (norm.running_var[column] + norm.eps).sqrt()
    maps = maps * norm.weight[column] + norm.bias[column]
    return maps * (1 + torch.erf(maps / math.sqrt(2))) / 2


def pooled(maps, factor):
    """The maximum over whole blocks; rows and columns that fill none are left out."""
    height, width = (side // factor * factor for side in maps.shape[-2:])
    blocks = maps[..., :height, :width].unflatten(3, (-1, factor)).unflatten(2, (-1, factor))
    return blocks.amax(dim=(3, 5))


@pytest.mark.parametrize(
    ("patch_size", "strides", "size"),
    [
        (16, [4, 8, 16, 32], (80, 112)),
        (16, [4, 8, 16, 32], (50, 67)),
        (8, [4, 8, 16, 32], (72, 56)),
        (16, [8, 16, 32], (64, 48)),
    ],
    ids=str,
)
def test_pyramid_is_that_of_the_xcit_recipe(patch_size, strides, size):
    """Levels at four strides of maps that go through independent code: patches of 16 (two doublings) and of 8 (pooling by 4)."""
    torch.manual_seed(0)
    plain = {"num_hidden_layers": 6, "patch_size": patch_size}
    backbone = SimABackbone(tiny(**plain, pyramid_strides=strides)).double().eval()
    block = {4: 2, 8: 3, 16: 4, 32: 6}
    assert backbone.out_features == [f"stage{block[stride]}" for stride in strides]
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    same = SimABackbone(tiny(**plain, out_features=backbone.out_features)).double().eval()
    same.load_state_dict(backbone.state_dict(), strict=False)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    levels = backbone(images).feature_maps
    for index, (stride, maps) in enumerate(zip(strides, same(images).feature_maps, strict=True)):
        layers = backbone.feature_pyramid.levels[index]
        if stride >= patch_size:
            expected = pooled(maps, stride // patch_size)
        elif patch_size // stride == 2:
            expected = doubled(maps, layers[0])
        else:
            expected = doubled(normed_gelu(doubled(maps, layers[0]), layers[1]), layers[3])
        torch.testing.assert_close(levels[index], expected, rtol=1e-10, atol=1e-10)


def test_recipe_stages_of_the_original_depths():
    """Blocks 4, 6, 8, 12 of 12 and 8, 12, 16, 24 of 24, as XCiT's configs have them (from 0: 3, 5, 7, 11 and 7, 11, 15, 23)."""
    for variant, blocks in (("sima_small_12_p16", [4, 6, 8, 12]), ("sima_small_24_p8", [8, 12, 16, 24])):
        assert SimAConfig.from_variant(variant, pyramid_strides=[4, 8, 16, 32]).out_indices == blocks


def test_without_a_pyramid_nothing_is_new():
    """Names of parameters, and values that a classifier's checkpoint brings; a pyramid on top of it starts anew."""
    names = set(SimABackbone(tiny()).state_dict())
    assert not any("pyramid" in name for name in names)
    with_pyramid = SimABackbone(tiny(pyramid_strides=[4, 8, 16, 32]))
    assert {name for name in with_pyramid.state_dict() if "feature_pyramid." not in name} == names


def test_classifier_weights_into_a_pyramid(tmp_path):
    SimAForImageClassification(tiny()).save_pretrained(tmp_path)
    backbone, report = SimABackbone.from_pretrained(
        tmp_path, pyramid_strides=[4, 8, 16, 32], out_indices=[1, 2, 3, 4], output_loading_info=True
    )
    assert all(name.startswith("feature_pyramid.levels.") for name in report["missing_keys"])
    assert not report["unexpected_keys"]
    fresh = torch.nn.ConvTranspose2d(32, 32, kernel_size=2, stride=2)
    found = backbone.feature_pyramid.levels[0][0]
    assert found.weight.std().item() == pytest.approx(fresh.weight.std().item(), rel=0.1)
    assert 0 < found.bias.abs().max() <= 1 / math.sqrt(32 * 4)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (
            {"pyramid_strides": [4, 12]},
            r"`pyramid_strides` must be some of 4, 8, 16, 32, in that order, got \[4, 12\]",
        ),
        ({"pyramid_strides": [8, 4]}, r"in that order, got \[8, 4\]"),
        ({"pyramid_strides": []}, r"got \[\]"),
        (
            {"pyramid_strides": [8, 16], "out_features": ["stage4"]},
            r"one stride for each of `out_features`, got \[8, 16\]",
        ),
        ({"pyramid_strides": [4, 8, 16, 32], "num_hidden_layers": 2}, r"a model of only 2 blocks"),
        ({"pyramid_strides": [8], "reshape_hidden_states": False}, r"`reshape_hidden_states` must be True with `pyr"),
    ],
    ids=["unknown", "order", "none", "stages", "shallow", "tokens"],
)
def test_pyramids_that_cannot_be(choice, words):
    with pytest.raises(ValueError, match=words):
        tiny(**choice)


def test_stages_set_later_are_checked_again():
    config = tiny(pyramid_strides=[8, 16])
    config.out_features = ["stage4"]
    with pytest.raises(ValueError, match=r"one stride for each of `out_features`"):
        SimABackbone(config)


def test_image_too_small_for_its_pyramid():
    backbone = SimABackbone(tiny(pyramid_strides=[4, 8, 16, 32])).eval()
    with pytest.raises(
        ValueError, match=r"at least 17 pixels high and wide .* stride 32, got 1 x 2 patches of 16 pixels"
    ):
        backbone(torch.randn(1, 3, 16, 32))
    assert [tuple(level.shape[-2:]) for level in backbone(torch.randn(1, 3, 17, 32)).feature_maps] == [
        (8, 8),
        (4, 4),
        (2, 2),
        (1, 1),
    ]


def test_tokens_for_heads_that_read_them():
    maps = SimABackbone(tiny(out_indices=[2, 4])).eval()
    tokens = SimABackbone(tiny(out_indices=[2, 4], reshape_hidden_states=False)).eval()
    tokens.load_state_dict(maps.state_dict())
    images = torch.randn(2, 3, 48, 80)
    for one, expected in zip(tokens(images).feature_maps, maps(images).feature_maps, strict=True):
        assert one.shape == (2, 1 + 3 * 5, 32)
        torch.testing.assert_close(one[:, 1:].transpose(1, 2).unflatten(-1, (3, 5)), expected)
        torch.testing.assert_close(one[:, 0], expected.mean(dim=(2, 3)))
