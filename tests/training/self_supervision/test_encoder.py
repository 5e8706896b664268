"""The encoder under a head: which features, which parameters, which sizes; native, swapped and with softmax."""

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    ConvNextConfig,
    ConvNextModel,
    CvtConfig,
    CvtModel,
    Dinov2Config,
    Dinov2Model,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

import sima_hf
from sima_hf.errors import DataError, UnsupportedModelError
from sima_hf.training.self_supervision.encoder import EncoderWithHead
from sima_hf.training.self_supervision.multi_crop import MultiCrop


TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
SIZED = {**TINY, "image_size": 16, "patch_size": 4}
HEAD = {"out_dim": 9, "hidden_dim": 8, "bottleneck_dim": 5}
STAGES = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2, "patch_size": 2, "image_size": 16}
CVT = {"embed_dim": [8, 8, 8], "num_heads": [1, 1, 2], "depth": [1, 2, 3]}
MODELS = {
    "vit": lambda: ViTModel(ViTConfig(**SIZED)),
    "classifier": lambda: ViTForImageClassification(ViTConfig(**SIZED)),
    "swapped": lambda: sima_hf.patch_model(ViTModel(ViTConfig(**SIZED))),
    "native": lambda: sima_hf.SimAModel(sima_hf.SimAConfig(**{**SIZED, "patch_size": 8})),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SIZED)),
    "swin": lambda: sima_hf.patch_model(SwinModel(SwinConfig(**STAGES))),
    "cvt": lambda: CvtModel(CvtConfig(**CVT)),
    "convnext": lambda: ConvNextModel(ConvNextConfig(depths=[1, 1], hidden_sizes=[8, 8], num_stages=2)),
}


def crops_of(size=16, local=8, count=3):
    return MultiCrop((size, size), local, count)


@pytest.mark.parametrize("name", MODELS)
def test_every_trained_parameter_gets_a_gradient(name):
    torch.manual_seed(0)
    student = EncoderWithHead(MODELS[name](), crops_of(), **HEAD).train()
    pixels = torch.randn(2, 3, student.crops.num_pixels)
    out = student(pixels)
    assert out.shape == (5 * 2, 9)
    out.square().sum().backward()
    without = [name for name, one in student.named_parameters() if one.requires_grad and one.grad is None]
    assert without == []
    assert not any(name.startswith("backbone.pooler.dense") for name, _ in student.named_parameters())


def test_outputs_are_those_of_the_crops_one_by_one():
    torch.manual_seed(0)
    model = MODELS["vit"]()
    student = EncoderWithHead(model, crops_of(), **HEAD).eval()
    pixels = torch.randn(2, 3, student.crops.num_pixels)
    with torch.no_grad():
        out = student(pixels)
        large, small = student.crops.split(pixels)
        tokens = [model(large).last_hidden_state[:, 0]]
        tokens += [model(small, interpolate_pos_encoding=True).last_hidden_state[:, 0]]
        torch.testing.assert_close(out, student.head(torch.cat(tokens)), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(student(pixels, global_only=True), out[:4], rtol=1e-5, atol=1e-6)


def test_a_mask_token_is_not_trained():
    student = EncoderWithHead(MODELS["dinov2"](), crops_of(), **HEAD)
    frozen = [name for name, one in student.backbone.named_parameters() if not one.requires_grad]
    assert frozen == ["embeddings.mask_token"]


class FixedViT(ViTModel):
    """A ViT that cannot interpolate its position embeddings."""

    def forward(self, pixel_values=None, **kwargs):
        kwargs.pop("interpolate_pos_encoding", None)
        return super().forward(pixel_values, **kwargs)


def test_fixed_positions_get_a_sentence():
    model = FixedViT(ViTConfig(**SIZED))
    with pytest.raises(DataError, match=r"FixedViT cannot take crops of 8 x 8 pixels .*16 x 16.*--local_crop_size"):
        EncoderWithHead(model, crops_of(), **HEAD)
    student = EncoderWithHead(model, crops_of(local=16), **HEAD)
    assert student(torch.randn(1, 3, student.crops.num_pixels)).shape == (5, 9)


def test_models_that_read_text_are_refused():
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision = {**tower, "image_size": 16, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config={**tower, "vocab_size": 99}, vision_config=vision, projection_dim=8))
    with pytest.raises(UnsupportedModelError, match="got CLIPModel, which reads text as well: take its vision tower"):
        EncoderWithHead(model, crops_of(), **HEAD)
