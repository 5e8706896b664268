"""Position embeddings stretched to another grid."""

import pytest
import torch
from transformers import DeiTConfig, DeiTForImageClassification, SwinConfig, SwinForImageClassification

from sima_hf.training.recipe.resolution import resize, stretch


def test_rows_stay_rows_and_class_tokens_stay_themselves():
    grid = torch.arange(6.0)[:, None].expand(6, 6)
    embeddings = torch.cat([torch.tensor([100.0, 200.0]), grid.flatten()])[None, :, None].expand(1, 38, 3)
    found = stretch(embeddings, 2 + 12 * 12)
    assert found.shape == (1, 146, 3)
    assert torch.equal(found[0, :2, 0], torch.tensor([100.0, 200.0]))
    square = found[0, 2:, 1].reshape(12, 12)
    torch.testing.assert_close(square, square[:, :1].expand(12, 12))
    assert (square[:, 0].diff() > 0).all()
    torch.testing.assert_close(square.mean(), torch.tensor(2.5))


def test_the_same_size_changes_nothing_and_dtype_is_kept():
    embeddings = torch.randn(1, 17, 5, dtype=torch.bfloat16)
    found = stretch(embeddings, 17)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, embeddings)


def test_two_grids_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="17 position embeddings cannot be stretched to 38"):
        stretch(torch.randn(1, 17, 2), 38)


def deit(**changes):
    fields = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return DeiTForImageClassification(DeiTConfig(**{**fields, "image_size": 32, "patch_size": 8, **changes}))


def test_a_resized_model_is_the_interpolated_one():
    """Transformers interpolates on the fly; doing it once gives the same answer."""
    torch.manual_seed(0)
    model = deit().eval()
    torch.nn.init.normal_(model.deit.embeddings.position_embeddings)
    pixels = torch.randn(2, 3, 56, 56)
    wanted = model(pixels, interpolate_pos_encoding=True).logits
    new = resize(model, 56)
    assert new is not model
    assert new.config.image_size == 56
    assert model.config.image_size == 32
    torch.testing.assert_close(new(pixels).logits, wanted)


def test_models_that_take_any_size_are_returned_as_they_are():
    model = SwinForImageClassification(SwinConfig(depths=[1], num_heads=[1], embed_dim=8, image_size=32))
    assert resize(model, 64) is model or model.config.image_size != 64
    assert resize(deit(), 32).config.image_size == 32


def test_sizes_between_patches_are_refused():
    with pytest.raises(ValueError, match="multiple of the model's patches of 8 pixels, got 60"):
        resize(deit(), 60)
