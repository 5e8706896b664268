"""The configuration: the fourteen originals, validation, documentation, round trips."""

import itertools

import pytest
import torch

from sima_hf import SIMA_VARIANTS, SimAConfig, SimAForImageClassification


# width, blocks, heads, LayerScale, whether the second norm of class attention covers all tokens: as in the original code.
ORIGINALS = {
    "nano_12": (128, 12, 4, 1.0, False),
    "tiny_12": (192, 12, 4, 1.0, True),
    "small_12": (384, 12, 8, 1.0, True),
    "tiny_24": (192, 24, 4, 1e-5, True),
    "small_24": (384, 24, 8, 1e-5, True),
    "medium_24": (512, 24, 8, 1e-5, True),
    "large_24": (768, 24, 16, 1e-5, True),
}
NAMES = [f"sima_{size}_p{patch}" for size in ORIGINALS for patch in (16, 8)]


def count_parameters(width, blocks, patch):
    """Parameters of the original architecture with 1000 classes, summed layer by layer."""
    stem = [3] + [width // 2**step for step in reversed(range(4 if patch == 16 else 3))]
    total = sum(9 * inside * outside + 2 * outside for inside, outside in itertools.pairwise(stem))
    total += 64 * width + width  # positions
    attention_and_mlp = 12 * width * width + (3 + 1 + 4 + 1) * width
    local = 2 * (9 * width + width) + 2 * width
    total += blocks * (attention_and_mlp + local + 3 * 2 * width + 3 * width)
    total += 2 * (attention_and_mlp + 2 * 2 * width + 2 * width)
    return total + width + 2 * width + 1000 * width + 1000  # class token, last norm, classifier


@pytest.mark.parametrize("name", NAMES)
def test_variants(name):
    size, _, patch = name.removeprefix("sima_").rpartition("_p")
    width, blocks, heads, scale, all_tokens = ORIGINALS[size]
    config = SimAConfig.from_variant(name)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (width, blocks, heads)
    assert (config.patch_size, config.layer_scale_init_value) == (int(patch), scale)
    assert config.class_attention_norm_all_tokens is all_tokens
    assert (config.num_class_attention_layers, config.mlp_ratio, config.qkv_bias, config.num_labels) == (
        2,
        4,
        True,
        1000,
    )
    assert (config.attention_gain, config.drop_path_rate) == ("none", 0)
    with torch.device("meta"):
        model = SimAForImageClassification(config)
    assert model.num_parameters() == count_parameters(width, blocks, int(patch))


def test_there_are_fourteen():
    assert sorted(SIMA_VARIANTS) == sorted(NAMES)


def test_known_counts():
    """The three that the original implementation itself was asked for."""
    known = {(128, 12, 16): 3_053_176, (192, 12, 8): 6_706_456, (384, 24, 16): 47_671_192}
    assert {sizes: count_parameters(*sizes) for sizes in known} == known


def test_defaults_are_sima_small_12_p16():
    assert SimAConfig().to_diff_dict() == SimAConfig.from_variant("sima_small_12_p16", num_labels=2).to_diff_dict()


def test_unknown_variant_lists_all():
    with pytest.raises(ValueError, match="There is no variant 'sima_huge'") as caught:
        SimAConfig.from_variant("sima_huge")
    assert all(name in str(caught.value) for name in NAMES)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("num_attention_heads", 5, "must divide `hidden_size`.*5 heads.*384"),
        ("patch_size", 14, "must be 8 or 16.*got 14"),
        ("patch_size", 32, "must be 8 or 16.*got 32"),
        ("hidden_size", 0, "`hidden_size` must be greater than 0"),
        ("hidden_size", 4, "`num_attention_heads` must divide|at least 8"),
        ("num_hidden_layers", -1, "greater than 0, got -1"),
        ("num_class_attention_layers", 0, "greater than 0"),
        ("mlp_ratio", 0, "greater than 0"),
        ("position_encoding_hidden_size", 33, "must be even.*got 33"),
        ("position_encoding_temperature", 0, "greater than 0"),
        ("layer_norm_eps", -1.0, "greater than 0"),
        ("image_size", 0, "`image_size` must be at least 1, got 0"),
        ("hidden_dropout_prob", 1.0, "less than 1, got 1.0"),
        ("drop_path_rate", -0.1, "at least 0"),
        ("attention_gain", "heads", "'none' or 'tokens', got 'heads'"),
    ],
)
def test_wrong_values_are_refused_at_once_and_when_saved(field, value, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        SimAConfig(**{field: value})
    config = SimAConfig()
    setattr(config, field, value)
    with pytest.raises(Exception, match=words):
        config.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_round_trip(tmp_path):
    config = SimAConfig.from_variant(
        "sima_tiny_24_p8", num_labels=7, attention_gain="tokens", out_features=["stem", "stage3"]
    )
    config.save_pretrained(tmp_path)
    again = SimAConfig.from_pretrained(tmp_path)
    assert again.to_diff_dict() == config.to_diff_dict()
    assert again.out_indices == [0, 3]
    assert SimAConfig.from_pretrained(tmp_path, attention_gain="none").attention_gain == "none"
