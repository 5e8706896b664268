"""Weights that are not in a checkpoint: refused, or a warning where nothing reads them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DeiTConfig, DeiTForImageClassification, DeiTModel, DPTConfig, DPTForDepthEstimation

from sima_hf.errors import CheckpointError
from sima_hf.loading.by_name import load_model


SIZES = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def copied_without(folder, out, words):
    """A copy of a model's folder, from whose weights those with `words` in their names are gone."""
    shutil.copytree(folder, out)
    weights = load_file(out / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if words not in name}
    assert 0 < len(kept) < len(weights)
    save_file(kept, out / "model.safetensors", {"format": "pt"})
    return out


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    DeiTForImageClassification(DeiTConfig(**SIZES, num_labels=10)).save_pretrained(folder)
    return folder


def test_weights_that_are_missing_are_not_made_up(classifier, tmp_path, caplog):
    no_head = copied_without(classifier, tmp_path / "no-head", "classifier")
    with pytest.raises(CheckpointError, match=r"classifier\.bias, classifier\.weight"):
        load_model(str(no_head))
    load_model(str(no_head), whole=False)
    assert "no weights for classifier.bias, classifier.weight" in caplog.text


def test_a_missing_pooler_that_nothing_reads_is_a_warning(classifier, tmp_path, caplog):
    DeiTModel.from_pretrained(classifier).save_pretrained(tmp_path / "whole")
    no_pooler = copied_without(tmp_path / "whole", tmp_path / "no-pooler", "pooler")
    load_model(str(no_pooler))
    assert "no weights for pooler.dense.bias, pooler.dense.weight of DeiTModel" in caplog.text
    with pytest.raises(CheckpointError, match="layernorm"):
        load_model(str(copied_without(no_pooler, tmp_path / "less", "layernorm.weight")))


def test_missing_weights_that_no_forward_reads_are_a_warning(tmp_path, caplog):
    sizes = {**SIZES, "num_hidden_layers": 4, "neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8}
    DPTForDepthEstimation(DPTConfig(**sizes, backbone_out_indices=[0, 1, 2, 3])).save_pretrained(tmp_path / "whole")
    published = copied_without(tmp_path / "whole", tmp_path / "published", "layers.0.residual_layer1")
    model = load_model(str(published))
    assert "no weights for neck.fusion_stage.layers.0.residual_layer1" in caplog.text
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values() if torch.is_floating_point(tensor))
    with pytest.raises(CheckpointError, match=r"neck\.fusion_stage"):
        load_model(str(copied_without(tmp_path / "whole", tmp_path / "less", "layers.1.residual_layer1")))


@pytest.mark.parametrize("whole", [True, False])
def test_weights_of_other_shapes_than_the_config_says(classifier, whole, tmp_path):
    shutil.copytree(classifier, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "intermediate_size": 24}))
    with pytest.raises(CheckpointError, match=r"shape.*\(24,"):
        load_model(str(tmp_path / "other"), whole=whole)
