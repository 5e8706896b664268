"""The model of a run: fresh, loaded, swapped; and what cannot be built."""

import re

import pytest
import torch
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    SwiftFormerConfig,
    SwiftFormerForImageClassification,
    SwinConfig,
)

from sima_hf import SimAForImageClassification, certify
from sima_hf.errors import CalibrationError, DataError
from sima_hf.training.arguments import ModelArguments
from sima_hf.training.models import build_model, calibrate_model, parse_overrides


LABELS = ["ant", "bee", "cat"]
SMALL_DEIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture(scope="module")
def deit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deit")
    torch.manual_seed(0)
    model = DeiTForImageClassification(DeiTConfig(**SMALL_DEIT, num_labels=5, initializer_range=0.2))
    with torch.no_grad():  # as after training: a swap draws the zero tokens of fresh weights
        for name, value in model.named_parameters():
            if "norm" in name or "token" in name or "position" in name:
                value += 0.1 * torch.randn(value.shape)
    model.save_pretrained(folder)
    return str(folder)


def build(drop_path=None, **arguments):
    return build_model(ModelArguments(**arguments), LABELS, drop_path)


def test_a_variant_gets_labels_size_gain_and_drop_path():
    built = build(
        variant="sima_nano_12_p16", config_overrides="num_hidden_layers=1,hidden_size=32", attention_gain="tokens",
        image_size=64, drop_path=0.05,
    )  # fmt: skip
    config = built.model.config
    assert type(built.model) is SimAForImageClassification
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (1, 32, 4)
    assert (config.attention_gain, config.image_size, config.drop_path_rate) == ("tokens", 64, 0.05)
    assert config.id2label == {0: "ant", 1: "bee", 2: "cat"}
    assert built.image_size == 64
    assert built.original is None


def test_a_swapped_type_starts_fresh_without_softmax():
    overrides = ",".join(f"{name}={value}" for name, value in SMALL_DEIT.items())
    built = build(model_type="sima_deit", config_overrides=overrides)
    assert type(built.model).__name__ == "SimADeiTForImageClassification"
    assert built.model.config.attention_gain == "tokens"
    assert built.image_size == 32
    assert certify(built.model, torch.randn(1, 3, 32, 32)).softmax_free
    assert (
        build(model_type="sima_deit", config_overrides=overrides, attention_gain="none").model.config.attention_gain
        == "none"
    )


def test_without_labels_it_is_the_encoder(deit):
    """Fresh, trained and swapped; the classes of a trained model's config stay as they are."""
    overrides = ",".join(f"{name}={value}" for name, value in SMALL_DEIT.items())
    sources = {
        "SimADeiTModel": {"model_type": "sima_deit", "config_overrides": overrides},
        "DeiTModel": {"model_name_or_path": deit},
        "SimAModel": {"variant": "sima_nano_12_p16"},
    }
    for name, arguments in sources.items():
        assert type(build_model(ModelArguments(**arguments), None).model).__name__ == name
    built = build_model(ModelArguments(patch=deit, image_size=64), None)
    assert type(built.model).__name__ == "SimADeiTModel"
    assert type(built.original).__name__ == "DeiTModel"
    assert built.model.config.num_labels == 5
    assert certify(built.model, torch.randn(1, 3, 64, 64)).softmax_free


def test_a_type_that_is_a_head_alone_has_no_encoder():
    with pytest.raises(ValueError, match=r"'upernet' has no encoder in Transformers; give the type of one"):
        build_model(ModelArguments(model_type="upernet"), None)


def test_drop_path_of_stages_is_that_of_the_last():
    tiny = "embed_dim=[8,8,8],depth=[1,2,3],num_heads=[1,1,2]"
    built = build(model_type="sima_cvt", config_overrides=tiny, drop_path=0.3)
    assert list(built.model.config.drop_path_rate) == [0.0, 0.0, 0.3]


def test_a_trained_softmax_model_is_swapped_with_its_weights_and_kept(deit):
    built = build(patch=deit)
    assert type(built.model).__name__ == "SimADeiTForImageClassification"
    assert type(built.original) is DeiTForImageClassification
    assert not built.original.training
    trained = DeiTForImageClassification.from_pretrained(deit).state_dict()
    for name, value in built.model.state_dict().items():
        assert torch.equal(value, built.original.state_dict()[name])
        if not name.startswith("classifier"):
            assert torch.equal(value, trained[name])
    assert built.model.classifier.out_features == 3
    assert built.processor == deit


def test_a_trained_softmax_model_takes_another_attention(deit):
    built = build(patch=deit, attention="inline")
    assert built.model.config.attention_mechanism == "inline"
    with pytest.raises(CalibrationError, match="not linear in the values"):
        build(patch="nowhere", attention="rela", calibrate=8)
    overrides = ",".join(f"{name}={value}" for name, value in SMALL_DEIT.items())
    fresh = build(model_type="sima_deit", config_overrides=f"{overrides},attention_mechanism=inline")
    assert fresh.model.config._attn_implementation == "inline"


def test_calibration_brings_the_swapped_model_nearer_to_the_original(deit):
    built = build(patch=deit)
    pixels = torch.randn(64, 3, 32, 32)

    def apart():
        with torch.no_grad():
            streams = [
                model.eval()(pixels, output_hidden_states=True).hidden_states[-1]
                for model in (built.model, built.original)
            ]
        return (streams[0] - streams[1]).square().mean().item()

    before = apart()
    calibrate_model(built, pixels.split(32), progress=False)
    assert apart() < 0.7 * before


def test_a_saved_sima_model_goes_on(deit, tmp_path):
    first = build(patch=deit).model
    first.save_pretrained(tmp_path)
    built = build(model_name_or_path=str(tmp_path))
    assert type(built.model) is type(first)
    assert torch.equal(built.model.classifier.weight, first.classifier.weight)


def test_a_head_with_the_same_classes_in_another_order_is_reordered(tmp_path):
    torch.manual_seed(0)
    names = {0: "cat", 1: "ant", 2: "bee"}
    saved = DeiTForImageClassification(DeiTConfig(**SMALL_DEIT, id2label=names, initializer_range=0.2)).eval()
    saved.save_pretrained(tmp_path)
    built = build(model_name_or_path=str(tmp_path))
    pixels = torch.randn(2, 3, 32, 32)
    assert built.model.config.id2label == {0: "ant", 1: "bee", 2: "cat"}
    torch.testing.assert_close(built.model.eval()(pixels).logits, saved(pixels).logits[:, [1, 2, 0]])


def saved_with(names, folder, cls=DeiTForImageClassification, config=None):
    torch.manual_seed(0)
    config = config or DeiTConfig(**SMALL_DEIT, initializer_range=0.2)
    config.id2label = dict(enumerate(names))
    model = cls(config).eval()
    model.save_pretrained(folder)
    return model


def test_a_head_with_the_same_classes_in_another_spelling_follows_them(tmp_path):
    """As an evaluation finds them: "Bee" is "bee", so row 0 becomes row 1."""
    saved = saved_with(["Bee", "CAT", "Ant"], tmp_path)
    pixels = torch.randn(2, 3, 32, 32)
    built = build(model_name_or_path=str(tmp_path))
    torch.testing.assert_close(built.model.eval()(pixels).logits, saved(pixels).logits[:, [2, 0, 1]])


@pytest.mark.parametrize("names", [["Biene", "Katze", "Ameise"], ["bee", "cat", "dog"]])
def test_as_many_classes_of_other_names_are_not_taken_over_in_silence(names, tmp_path, caplog):
    saved = saved_with(names, tmp_path)
    pixels = torch.randn(2, 3, 32, 32)
    built = build(model_name_or_path=str(tmp_path))
    torch.testing.assert_close(built.model.eval()(pixels).logits, saved(pixels).logits)
    assert (
        "The model's 3 classes are not those of the data, of which there are as many: row i of its head" in caplog.text
    )
    assert f"from {names[0]!r} as 'ant' to {names[2]!r} as 'cat'" in caplog.text


def test_a_head_of_another_name_follows_its_classes_or_is_said_not_to(tmp_path, monkeypatch):
    """SwiftFormer's layers for logits are called `head` and `dist_head`."""
    config = SwiftFormerConfig(depths=[1, 1, 1, 1], embed_dims=[8, 8, 8, 8], image_size=32)
    saved = saved_with(["cat", "ant", "bee"], tmp_path, SwiftFormerForImageClassification, config)
    pixels = torch.randn(2, 3, 32, 32)
    built = build(model_name_or_path=str(tmp_path))
    torch.testing.assert_close(built.model.eval()(pixels).logits, saved(pixels).logits[:, [1, 2, 0]])
    monkeypatch.setattr("sima_hf.training.models._HEAD", re.compile("never"))
    with pytest.raises(
        DataError, match=r"this SwiftFormerForImageClassification come in another order .* --labels_file"
    ):
        build(model_name_or_path=str(tmp_path))


def test_another_resolution_stretches_the_positions(deit):
    built = build(patch=deit, image_size=48)
    assert built.image_size == 48
    assert built.model.config.image_size == 48
    assert built.model(torch.randn(1, 3, 48, 48)).logits.shape == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, r"exactly one of --variant.* got none"),
        ({"variant": "sima_nano_12_p16", "patch": "x"}, r"got --variant and --patch"),
        ({"variant": "sima_nano_12_p16", "calibrate": 5}, r"needs --patch"),
        ({"variant": "sima_nano_12_p16", "attention": "inline"}, r"got 'inline' without --patch"),
        ({"patch": "x", "attention": "inlin"}, r"got 'inlin'. Did you mean 'inline'"),
        ({"patch": "x", "attention": "inline", "attention_gain": "none"}, r"`gain` is an option of SimA alone"),
        ({"variant": "sima_nano_12_p32"}, r"There is no variant 'sima_nano_12_p32'"),
        ({"model_type": "sima_nothing"}, r"There is no model type 'sima_nothing'"),
        ({"model_type": "bert"}, r"'bert' has no image classifier"),
        (
            {"variant": "sima_nano_12_p16", "config_overrides": "width=3"},
            r"got 'width=3'. The fields are .*hidden_size",
        ),
        ({"model_type": "vit", "attention_gain": "tokens"}, r"'vit' has softmax attention"),
        ({"variant": "sima_nano_12_p16", "attention_gain": "many"}, r"must be 'none' or 'tokens'"),
    ],
)
def test_what_cannot_be_built_is_said(arguments, words):
    with pytest.raises(ValueError, match=words):
        build(**arguments)


def test_models_without_drop_path_refuse_it():
    with pytest.raises(ValueError, match="'sima_deit' has no drop_path_rate"):
        build(model_type="sima_deit", drop_path=0.1)


def test_overrides_are_values_in_pythons_notation():
    found = parse_overrides("depths=[1, 2],hidden_act=relu,qkv_bias=False,mlp_ratio=2.5", SwinConfig())
    assert found == {"depths": [1, 2], "hidden_act": "relu", "qkv_bias": False, "mlp_ratio": 2.5}
