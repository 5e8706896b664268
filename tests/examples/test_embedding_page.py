"""docs/embedding.md, run as it stands: its commands and its Python in order, in one folder, on handwritten digits."""

import re
import shlex
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import sima_hf
from sima_hf.cli import main


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "embedding.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", PAGE, flags=re.DOTALL)


def made_before(folder):
    """Digits as `photos`, and `my-sima-vit`, which was swapped and knows nothing yet."""
    bunch = load_digits()
    for index, (pixels, label) in enumerate(zip(bunch.images[:400], bunch.target, strict=False)):
        place = folder / "photos" / ("train" if index < 320 else "val") / f"digit {label}"
        place.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((pixels * (255 / 16)).round().astype("uint8"))
        image.convert("RGB").resize((32, 32)).save(place / f"{index}.png")
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 96}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=10))
    sima_hf.patch_model(model).save_pretrained(folder / "my-sima-vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "my-sima-vit")


@pytest.mark.slow
def test_the_page_runs(tmp_path, monkeypatch, capsys):
    made_before(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    printed = []
    for language, code in BLOCKS:
        capsys.readouterr()
        for one in code.strip().splitlines() if language == "bash" else [code]:
            if language == "python":
                exec(one, {})
                continue
            program, *words = shlex.split(one)
            assert program == "sima-hf"
            with pytest.raises(SystemExit) as stopped:
                main(words)
            assert not stopped.value.code, one
        printed.append(capsys.readouterr().out)
    embedded, nearest, colors, evaluated, by_hand = printed
    assert "images    320" in embedded
    assert nearest.startswith("1.000 digit 0/0.png\n")
    assert nearest.count(" digit ") == 5
    assert colors.startswith("3 48 ")
    accuracies = [float(share) / 100 for share in re.findall(r"top-1 accuracy +([\d.]+)%", evaluated)]
    accuracies += [float(share) / 100 for share in re.findall(r"([\d.]+)%", by_hand)]
    assert len(accuracies) == 4
    assert min(accuracies) > 0.4  # random weights
    assert (tmp_path / "probed" / "evaluation.json").is_file()
