"""The hash of a model's weights: the same however they are saved, another one as soon as a weight is."""

import json
import shutil

import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification

from sima_hf.folders.weights_hash import hash_of, weights_hash


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


def saved(folder, **how):
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**SIZES, image_size=16, patch_size=8, num_labels=3))
    model.to(how.pop("dtype", torch.float32)).save_pretrained(folder, **how)
    return folder


def test_it_does_not_depend_on_the_files(tmp_path):
    whole, shards = saved(tmp_path / "whole"), saved(tmp_path / "shards", max_shard_size="5KB")
    assert len(list(shards.glob("*.safetensors"))) > 2
    assert hash_of(whole) == hash_of(str(shards)) == weights_hash(sorted(shards.glob("*.safetensors"), reverse=True))
    assert len(hash_of(whole)) == 64
    weights = load_file(whole / "model.safetensors")
    save_file(weights, whole / "model.safetensors", metadata={"format": "pt", "note": "saved again"})
    assert hash_of(whole) == hash_of(shards)


def test_it_depends_on_every_weight_its_name_its_dtype_and_its_shape(tmp_path):
    def of(**weights):
        save_file(weights, tmp_path / "one.safetensors")
        return weights_hash([tmp_path / "one.safetensors"])

    a, b = torch.arange(6.0), torch.tensor(3)
    nudged = a.clone()
    nudged[5] = nudged[5].nextafter(torch.tensor(9.0))
    found = [
        of(a=a, b=b),
        of(a=nudged, b=b),
        of(a=a.bfloat16(), b=b),
        of(a=a.view(2, 3), b=b),
        of(a=a, c=b),
        of(a=a.view(torch.int32), b=b),
        of(a=a),
    ]
    assert len(set(found)) == len(found)
    assert of(b=b, a=a) == found[0]


def test_a_cast_model_is_another(tmp_path):
    assert hash_of(saved(tmp_path / "a")) != hash_of(saved(tmp_path / "b", dtype=torch.bfloat16))


def test_a_model_of_the_hub_is_hashed_where_it_was_downloaded_to(tmp_path, monkeypatch):
    """A cache as huggingface_hub lays it out, without a network."""
    from huggingface_hub import constants

    repository = tmp_path / "models--org--vit"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    folder = saved(repository / "snapshots" / ("a" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path), raising=False)
    assert hash_of("org/vit") == hash_of(folder)
    other = repository / "snapshots" / ("b" * 40)
    shutil.copytree(folder, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: -tensor for name, tensor in weights.items()}, other / "model.safetensors", {"format": "pt"})
    assert hash_of("org/vit", revision="b" * 40) == hash_of(other) != hash_of(folder)


def test_pickles_have_none(tmp_path):
    folder = saved(tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert hash_of(folder) is None


def test_the_file_that_the_config_names_is_the_one(tmp_path):
    folder = saved(tmp_path / "model")
    before = hash_of(folder)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"transformers_weights": "other.safetensors"}
    (folder / "config.json").write_text(json.dumps(config))
    assert hash_of(folder) == before


def test_the_index_that_the_config_names_is_the_one(tmp_path):
    folder = saved(tmp_path / "model", max_shard_size="5KB")
    before = hash_of(folder)
    (folder / "model.safetensors.index.json").rename(folder / "other.safetensors.index.json")
    config = json.loads((folder / "config.json").read_text()) | {
        "transformers_weights": "other.safetensors.index.json"
    }
    (folder / "config.json").write_text(json.dumps(config))
    assert hash_of(folder) == before
