"""What the tests of the command line share: commands run in this process, small models, images."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import BertConfig, BertModel, DeiTConfig, DeiTForImageClassification

import sima_hf
from sima_hf import cli


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture
def run(capsys):
    """`run("certify", folder)` as the installed command would: exit code, stdout and stderr."""

    def call(*arguments: object) -> SimpleNamespace:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main([*map(str, arguments)])
        printed = capsys.readouterr()
        return SimpleNamespace(code=stopped.value.code or 0, out=printed.out, err=printed.err)

    return call


@torch.no_grad()
def as_trained(model):
    """Norms and tokens that are not as at the start: a swap draws the zero tokens of fresh models."""
    for name, value in model.named_parameters():
        if "norm" in name or "token" in name or "position" in name:
            value += 0.1 * torch.randn(value.shape)


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    """Folders `softmax` and `sima` of one DeiT for 16 pixels, `native`, `bert`, and `bare`, which has no image processor."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    processor = sima_hf.SimAImageProcessor.for_image_size(16)
    model = DeiTForImageClassification(
        DeiTConfig(image_size=16, patch_size=4, num_labels=10, initializer_range=0.2, **SIZES)
    )
    as_trained(model)
    for name in ("softmax", "bare"):
        model.save_pretrained(root / name)
    processor.save_pretrained(root / "softmax")
    sima_hf.patch_model(model).save_pretrained(root / "sima")
    processor.save_pretrained(root / "sima")
    BertModel(BertConfig(vocab_size=9, **SIZES)).save_pretrained(root / "bert")
    config = sima_hf.SimAConfig(image_size=16, patch_size=8, num_class_attention_layers=1, **SIZES)
    sima_hf.SimAForImageClassification(config).save_pretrained(root / "native")
    return root


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """90 digits as files, a part of them in a folder below, one file that is no image, and one hidden."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for index, pixels in enumerate(load_digits().images[:90]):
        place = folder / "more" if index % 3 else folder
        Image.fromarray((pixels * (255 / 16)).round().astype("uint8")).resize((20, 20)).save(place / f"{index}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / ".hidden.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    return folder
