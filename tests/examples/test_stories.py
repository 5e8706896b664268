"""The four stories of docs/stories.md, run as they stand: in order, in one folder, against a Hub on loopback.

What takes days, gigabytes or GPUs has a stand-in. Files and folders that the stories start from are small ones of the same
name (`made_before`); STAND_INS are the only words of the commands that are exchanged.
"""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from sklearn.datasets import load_digits

from tests.fixtures import fixture_recipe
from tests.helpers.command_lines import BARE, COMMAND
from tests.helpers.hub.client import Client
from tests.helpers.hub.server import HubServer


pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "stories.md").read_text(encoding="utf-8")
STORIES = {
    story.split(":")[0]: text
    for story, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)[:4]
}

# As written -> as run, in this order.
STAND_INS = {
    # The smallest of the original models, for which there are answers of the original code.
    "--variant sima_small_12_p16": "--variant sima_nano_12_p16",
    # 1,000 folders of one small image each.
    "--validation-dir imagenet/val": "--validation-dir imagenet/val --image-size 32",
    # One process, and the same configuration with a smaller model, scikit-learn's digits, and a few steps.
    "accelerate launch --config_file examples/configs/accelerate_8_gpus.yaml": "python",
    "examples/configs/sima_small_12_p16.json": "small.json",
    # The recipe as it is written, on the CPU, without what takes time besides, and without flips: a mirrored digit is none.
    "examples/configs/small_sets/swapped.json": (
        "examples/configs/small_sets/swapped.json --horizontal_flip 0 --use_cpu True --eval_strategy no "
        "--save_strategy no --dataloader_num_workers 0"
    ),
    "--pixels 512": "--pixels 64 --seconds 0.1",
}

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_class_attention_layers": 1}


def blocks(story):
    """(language, code) of each block, stand-ins put in and lines of the shell put together."""
    for language, code in re.findall(r"```(\w+)\n(.*?)```", STORIES[story], flags=re.DOTALL):
        if language == "bash":
            code = re.sub(r"\s*\\\n\s*", " ", code)
            for written, run in STAND_INS.items():
                code = code.replace(written, run)
        yield language, code


def made_before(folder):
    """What the stories start from: a checkpoint of the original code, ImageNet, digits as `photos`, and a ViT that knows them."""
    fixture = fixture_recipe.load("sima_nano_12_p16", ROOT / "tests" / "fixtures")
    torch.save({"model": fixture_recipe.state_dict(fixture)}, folder / "checkpoint.pth")
    bunch = load_digits()
    images, labels = bunch.images / 16, bunch.target
    picture = folder / "photo.jpg"
    save(images[0], picture)
    for index in range(1000):
        place = folder / "imagenet" / "val" / f"n{index:08d}"
        place.mkdir(parents=True)
        (place / "0.jpg").hardlink_to(picture)
    for index in range(500):
        place = folder / "photos" / ("train" if index < 400 else "val") / f"digit {labels[index]}"
        place.mkdir(parents=True, exist_ok=True)
        save(images[index], place / f"{index}.png")
    save_vit(folder / "my-vit", torch.tensor(images[:400]), torch.tensor(labels[:400]))
    settings = json.loads((ROOT / "examples" / "configs" / "sima_small_12_p16.json").read_text())
    settings |= {
        "variant": "sima_nano_12_p16",
        "config_overrides": ",".join(f"{name}={value}" for name, value in TINY.items()),
        "dataset_name": None,
        "max_train_images": 128,
        "max_validation_images": 64,
        "image_size": 32,
        "per_device_train_batch_size": 64,
        "num_train_epochs": 2,
        "warmup_epochs": 0,
        "cooldown_epochs": 0,
        "dataloader_num_workers": 0,
        "use_cpu": True,
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    (folder / "small.json").write_text(json.dumps(settings))
    (folder / "examples").symlink_to(ROOT / "examples")


def save(image, path):
    from PIL import Image

    Image.fromarray((image * 255).astype("uint8")).convert("RGB").resize((32, 32)).save(path)


def save_vit(folder, images, labels):
    """A ViT with softmax, trained for a second or two on digits as their image files look to it."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    config = ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=10)
    config.id2label = {index: f"digit {index}" for index in range(10)}
    config.label2id = {name: index for index, name in config.id2label.items()}
    model = ViTForImageClassification(config)
    pixels = torch.nn.functional.interpolate(images[:, None].float(), size=(32, 32), mode="bicubic")
    pixels = (pixels.clamp(0, 1).expand(-1, 3, -1, -1) - 0.5) / 0.5
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(30):
        for chosen in torch.randperm(len(pixels)).split(50):
            loss = model(pixels[chosen], labels=labels[chosen]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server
        assert server.failures == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stories")
    made_before(folder)
    return folder


@pytest.fixture(scope="module")
def user(hub, folder):
    """A process with sima_hf, in the folder, with a token."""
    environment = hub.environment(folder / "home", token=hub.token, HF_HUB_DISABLE_PROGRESS_BARS="1")
    with Client(environment, folder / "log", COMMAND) as process:
        yield process


def tell(story, user):
    """Run a story's blocks; what they printed, one text for each."""
    printed = []
    for language, code in blocks(story):
        start = len(user.printed)
        for one in code.strip().splitlines() if language == "bash" else [code]:
            user.apart(f"command({one!r})" if language == "bash" else one, empty=False)
        printed.append(user.printed[start:])
    return printed


def accuracies(printed):
    """What `sima-hf evaluate` printed, in percent."""
    return [float(percent) for percent in re.findall(r"top-1 accuracy +([\d.]+)%", printed)]


def test_there_are_four_stories_and_every_stand_in_stands_for_something():
    assert list(STORIES) == ["Reproduce", "Swap", "Ship", "Just use"]
    commands = "".join(re.sub(r"\s*\\\n\s*", " ", text) for text in STORIES.values())
    assert all(written in commands for written in STAND_INS)
    lines = [
        line
        for story in STORIES
        for language, code in blocks(story)
        if language == "bash"
        for line in code.splitlines()
    ]
    assert {shlex.split(line)[0] for line in lines} == {"sima-hf", "python"}
    links = re.findall(r"\]\((?!https?://)([^)]+)\)", PAGE)
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", PAGE, re.M)
    }
    for link in links:
        assert link[1:] in anchors if link.startswith("#") else (ROOT / "docs" / link.partition("#")[0]).exists(), link


def test_reproduce(user, folder):
    tell("Reproduce", user)
    from sima_hf import SimAForImageClassification

    fixture = fixture_recipe.load("sima_nano_12_p16", ROOT / "tests" / "fixtures")
    model = SimAForImageClassification.from_pretrained(folder / "sima-small").eval()
    spec = fixture["inputs"][0]
    with torch.no_grad():
        found = model(fixture_recipe.pixel_values(spec)).logits
    expected = fixture["tensors"][f"logits64/{spec['id']}"]
    assert fixture_recipe.relative_error(found, expected) < 1e-4
    assert json.loads((folder / "sima-small-evaluated" / "evaluation.json").read_text())["num_images"] == 1000
    assert (folder / "sima-small-12-p16" / "model.safetensors").exists()


def test_swap(user, folder):
    listed_and_swapped, trained = tell("Swap", user)
    assert "plain ViT" in listed_and_swapped
    assert "no softmax ran" in listed_and_swapped
    original, calibrated = accuracies(listed_and_swapped)
    (tuned,) = accuracies(trained)
    assert original > 60
    assert calibrated > 50  # 10 would be chance
    assert tuned >= calibrated
    report = json.loads((folder / "my-sima-vit-evaluated" / "evaluation.json").read_text())
    assert report["accuracy"] == pytest.approx(tuned / 100, abs=1e-4)
    assert "times faster" in trained
    assert list((folder / "my-vit-speed").glob("*.csv"))


def test_ship(user, hub, folder):
    exported, pushed = tell("Ship", user)
    assert "no softmax ran" in exported
    assert (folder / "my-sima-vit.pt2").exists()
    assert "org/my-sima-vit" in pushed
    assert len(hub.commits("org/my-sima-vit")) == 2  # the Hub's own, and one with everything
    sent = hub.files("org/my-sima-vit")
    assert sent["model.safetensors"] == (folder / "my-sima-vit-tuned" / "model.safetensors").read_bytes()
    card = yaml.safe_load(sent["README.md"].decode().split("---\n")[1])
    assert card["license"] == "apache-2.0"
    measured = {one["name"]: one["value"] for one in card["model-index"][0]["results"][0]["metrics"]}
    report = json.loads((folder / "my-sima-vit-evaluated" / "evaluation.json").read_text())
    assert measured["Top-1 accuracy"] == pytest.approx(report["accuracy"])


def test_just_use(user, hub, folder):
    (_, with_sima), (_, without) = blocks("Just use")
    answer = "\n(classifier.model.config.model_type, classifier('photo.jpg'))"
    kind, expected = user.apart(with_sima + answer)
    assert kind == "sima_vit"
    environment = hub.environment(folder / "other-home", HF_HUB_DISABLE_PROGRESS_BARS="1")
    with Client(environment, folder / "bare", BARE) as bare:
        _, found = bare.run(without + answer)
        assert "sima_hf" not in bare.run("list(__import__('sys').modules)")
    assert [one["label"] for one in found] == [one["label"] for one in expected]
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected], rel=1e-3)
    assert expected[0]["score"] > 0.5
