"""Encoders of every kind: which part of a model runs, which vector is read, and what is refused."""

import pytest
import torch
from transformers import AutoModel, CLIPModel, ViTForImageClassification, ViTModel

import sima_hf
from sima_hf.embedding.encoder import ImageEncoder, load_encoder
from sima_hf.errors import CheckpointError, UnsupportedModelError
from tests.helpers.hosts.at_hand import UNKNOWN, make


PIXELS = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def outputs(model, **inputs):
    with torch.no_grad():
        return model(pixel_values=PIXELS, **inputs)


def test_each_kind_has_its_convention():
    """As written out by hand: the host's own output, and which of its numbers are meant."""
    for case, name, pooling, wanted in (
        ("vit", "ViTForImageClassification", "cls", lambda model: outputs(model.vit).last_hidden_state[:, 0]),
        ("vit", "ViTModel", "cls", lambda model: outputs(model).last_hidden_state[:, 0]),
        ("dinov2", "Dinov2Model", "cls", lambda model: outputs(model).pooler_output),
        ("dinov2_with_registers", "Dinov2WithRegistersModel", "cls", lambda model: outputs(model).pooler_output),
        ("ijepa", "IJepaModel", "mean", lambda model: outputs(model).last_hidden_state.mean(dim=1)),
        ("beit", "BeitForImageClassification", "pooler", lambda model: outputs(model.beit).pooler_output),
        ("swin", "SwinForImageClassification", "pooler", lambda model: outputs(model.swin).pooler_output),
        ("segformer", "SegformerModel", "mean", lambda model: outputs(model).last_hidden_state.mean(dim=(2, 3))),
        ("dinov2", "Dinov2Backbone", "mean", lambda model: outputs(model).feature_maps[-1].mean(dim=(2, 3))),
        ("clip_vision_model", "CLIPVisionModel", "pooler", lambda model: outputs(model).pooler_output),
        (
            "clip_vision_model",
            "CLIPVisionModelWithProjection",
            "projection",
            lambda model: outputs(model).image_embeds,
        ),
        ("siglip_vision_model", "SiglipVisionModel", "pooler", lambda model: outputs(model).pooler_output),
    ):
        if case in UNKNOWN:
            continue
        model = make(case, name)
        encoder = ImageEncoder(model)
        assert encoder.pooling == pooling, name
        torch.testing.assert_close(encoder(PIXELS), wanted(model), rtol=1e-5, atol=1e-5, msg=name)
        assert encoder.size == encoder(PIXELS).shape[1]


@pytest.mark.parametrize("case", ["vit", "deit", "dinov2_with_registers", "dinov3_vit", "yolos", "pixio", "ijepa"])
def test_the_mean_is_that_of_the_patches_alone(case):
    """Prefix and suffix counted from the grid: 16 patches of 8 pixels, five detection tokens at the end of YOLOS."""
    if case in UNKNOWN:
        pytest.skip("not in this Transformers")
    name = {"vit": "ViTModel", "deit": "DeiTModel", "dinov3_vit": "DINOv3ViTModel", "yolos": "YolosModel"}.get(case)
    name = name or {"pixio": "PixioModel", "ijepa": "IJepaModel"}.get(case, "Dinov2WithRegistersModel")
    model = make(case, name)
    hidden = outputs(model).last_hidden_state
    behind = 5 if case == "yolos" else 0
    patches = hidden[:, hidden.shape[1] - behind - 16 : hidden.shape[1] - behind]
    torch.testing.assert_close(ImageEncoder(model, "mean")(PIXELS), patches.double().mean(dim=1).float())


def test_native_and_swapped_models_and_other_resolutions():
    config = sima_hf.SimAConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_class_attention_layers=1, patch_size=8
    )
    torch.manual_seed(0)
    native = sima_hf.SimAForImageClassification(config).eval()
    encoder = ImageEncoder(native)
    assert encoder.pooling == "cls"
    torch.testing.assert_close(encoder(PIXELS), outputs(native.sima).pooler_output)
    torch.testing.assert_close(
        ImageEncoder(native, "mean")(PIXELS), outputs(native.sima).last_hidden_state[:, 1:].mean(1)
    )
    swapped = sima_hf.patch_model(make("vit", "ViTForImageClassification"))
    larger = torch.randn(2, 3, 48, 40)
    found = ImageEncoder(swapped)(larger)
    with torch.no_grad():
        expected = swapped.vit(pixel_values=larger, interpolate_pos_encoding=True).last_hidden_state[:, 0]
    torch.testing.assert_close(found, expected)
    assert sima_hf.certify(ImageEncoder(swapped).model, PIXELS).softmax_free


def test_the_space_that_images_and_texts_share():
    model = make("clip", "CLIPModel")
    with torch.no_grad():
        pooled = model.vision_model(pixel_values=PIXELS).pooler_output
    encoder = ImageEncoder(model)
    assert encoder.pooling == "projection"
    torch.testing.assert_close(encoder(PIXELS), pooled @ model.visual_projection.weight.detach().T)
    torch.testing.assert_close(ImageEncoder(model, "pooler")(PIXELS), pooled)
    assert ImageEncoder(sima_hf.patch_model(model)).pooling == "projection"
    assert ImageEncoder(make("siglip", "SiglipModel")).size == 32


def test_a_masked_autoencoder_sees_all_patches_and_gives_the_same_each_time():
    model = make("vit_mae", "ViTMAEForPreTraining")
    encoder = ImageEncoder(model)
    first = encoder(PIXELS)
    assert torch.equal(first, encoder(PIXELS))
    changed = PIXELS.clone()
    changed[:, :, 24:, 24:] += 1  # the last patch
    assert not torch.allclose(first, encoder(changed))
    order = torch.arange(16.0).expand(3, -1)
    torch.testing.assert_close(first, outputs(model.vit, noise=order).last_hidden_state[:, 0])


def test_what_yields_no_features_is_refused():
    for case, name, words in (
        ("upernet", "UperNetForSemanticSegmentation", "yields no features of an image.* got logits"),
        ("detr", "DetrForObjectDetection", "decodes what its encoder gives"),
        ("llava", "LlavaForConditionalGeneration", "must take `pixel_values` and no text"),
        ("vivit", "VivitModel", "takes videos"),
        ("hiera", "HieraForPreTraining", "other features of the same image each time"),
        ("pixtral", "PixtralVisionModel", "one vector for each image"),
        ("siglip2_vision_model", "Siglip2VisionModel", "which needs `pixel_values` and nothing else"),
    ):
        if case not in UNKNOWN:
            with pytest.raises(UnsupportedModelError, match=words):
                ImageEncoder(make(case, name))
    with pytest.raises(UnsupportedModelError, match="allows the pooling mean, got 'cls'"):
        ImageEncoder(make("ijepa", "IJepaModel"), "cls")
    with pytest.raises(ValueError, match=r"one of 'auto', .*, got 'max'"):
        ImageEncoder(make("vit", "ViTModel"), "max")


def test_load_by_name_and_a_pooler_that_nobody_trained(tmp_path):
    make("vit", "ViTForImageClassification").save_pretrained(tmp_path / "classifier")
    config = tmp_path / "classifier" / "config.json"
    config.write_text(config.read_text().replace("ViTForImageClassification", "ViTModel"))
    encoder, model, place = load_encoder(str(tmp_path / "classifier"))
    assert (encoder.pooling, type(model), place) == ("cls", ViTModel, str(tmp_path / "classifier"))
    with pytest.raises(UnsupportedModelError, match=r"has no weights \(pooler.dense.*Choose cls or mean"):
        load_encoder(str(tmp_path / "classifier"), "pooler")
    make("beit", "BeitForMaskedImageModeling").save_pretrained(tmp_path / "beit")
    config = tmp_path / "beit" / "config.json"
    config.write_text(config.read_text().replace("BeitForMaskedImageModeling", "BeitModel"))
    assert load_encoder(str(tmp_path / "beit"))[0].pooling == "cls"
    with pytest.raises(CheckpointError, match="There is no folder"):
        load_encoder(str(tmp_path / "nowhere"))
    sima_hf.patch_model(make("vit", "ViTForImageClassification")).save_pretrained(tmp_path / "swapped")
    encoder, _, _ = load_encoder(str(tmp_path / "swapped"), "mean", dtype=torch.bfloat16)
    assert encoder(PIXELS).dtype == torch.float32
    plain = ViTForImageClassification.from_pretrained(tmp_path / "classifier", num_labels=3)
    assert not torch.allclose(encoder(PIXELS), ImageEncoder(plain, "mean")(PIXELS), rtol=0.05, atol=0.05)
    make("clip", "CLIPModel").save_pretrained(tmp_path / "clip")
    assert isinstance(load_encoder(str(tmp_path / "clip"))[1], CLIPModel)
    assert ImageEncoder(AutoModel.from_pretrained(tmp_path / "clip")).pooling == "projection"
