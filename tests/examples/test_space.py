"""The Space without a browser: what it reads, which maps it draws, what it loads and measures, and that its folder is whole."""

import ast
import re
import sys
import types
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import SwinConfig, SwinForImageClassification, ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import sima_hf


SPACE = Path(__file__).resolve().parents[2] / "examples" / "space"
MODULES = sorted(path.stem for path in SPACE.glob("*.py"))
TINY = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 16,
    "num_labels": 3,
    "initializer_range": 0.3,
}


@pytest.fixture
def space(monkeypatch):
    """The Space's modules but the page, by name; they leave with the test."""
    monkeypatch.syspath_prepend(str(SPACE))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import app
    import attention_maps
    import chart
    import digits_model
    import drawing
    import loaded_models
    import pictures
    import timing

    yield types.SimpleNamespace(
        app=app,
        maps=attention_maps,
        chart=chart,
        digits=digits_model,
        drawing=drawing,
        models=loaded_models,
        pictures=pictures,
        timing=timing,
    )
    for name in MODULES:
        sys.modules.pop(name, None)


def save(model, folder, side=16):
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A softmax ViT, the same one swapped, a native SimA model, a Swin, and the ViT with weights cut short."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    vit = ViTForImageClassification(ViTConfig(**TINY))
    native = sima_hf.SimAConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=8, image_size=16, num_labels=3
    )
    swin = SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
    cut = Path(save(vit, root / "cut")) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-500])
    return {
        "cut": str(cut.parent),
        "vit": save(vit, root / "vit"),
        "swapped": save(sima_hf.patch_model(vit), root / "swapped"),
        "native": save(sima_hf.SimAForImageClassification(native), root / "native"),
        "swin": save(SwinForImageClassification(swin), root / "swin"),
        "root": root,
    }


def test_classes_are_those_of_the_models_themselves(space, folders):
    pair = space.models.load_pair(folders["vit"])
    pixel_values = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        model = ViTForImageClassification.from_pretrained(folders["vit"]).eval()
        expected = model(pixel_values).logits.softmax(-1)[0]
        swapped = sima_hf.patch_model(model)(pixel_values).logits.softmax(-1)[0]
    np.testing.assert_allclose(space.maps.look(pair.softmax, pixel_values).probabilities, expected, atol=1e-6)
    np.testing.assert_allclose(space.maps.look(pair.sima, pixel_values).probabilities, swapped, atol=1e-6)
    assert space.models.UNCALIBRATED in pair.notes
    assert list(pair.timed) == ["softmax", "SimA"]
    assert pair.softmax.config._attn_implementation == "sdpa"  # "eager" for the maps alone


def test_maps_are_the_formulas(space, folders):
    """Both maps of the first block, from its queries and keys in float64."""
    pair = space.models.load_pair(folders["vit"])
    pixel_values = torch.randn(1, 3, 16, 16)
    caught = {}

    def keep(module, args, output, name):
        caught[name] = output.detach()[0].double().unflatten(-1, (2, 8)).transpose(0, 1)  # (H, N, D)

    names = dict(pair.softmax.named_modules())
    query_name = next(name for name in names if name.endswith(("q_proj", "query")))
    key_name = next(name for name in names if name.endswith(("k_proj", "key")))
    for name, kind in ((query_name, "q"), (key_name, "k")):
        names[name].register_forward_hook(lambda m, a, o, kind=kind: keep(m, a, o, kind))
    softmax, sima = space.maps.look(pair.softmax, pixel_values), space.maps.look(pair.sima, pixel_values)
    query, key = caught["q"], caught["k"]
    expected = {
        "softmax": (query @ key.mT / 8**0.5).softmax(-1),
        "SimA": 17 * (query / query.abs().sum(1, keepdim=True)) @ (key / key.abs().sum(1, keepdim=True)).mT,
    }
    for kind, seen in (("softmax", softmax), ("SimA", sima)):
        assert [layer.name for layer in seen.layers] == ["block 1", "block 2"]
        found, special, who = seen.layers[0].shown(space.maps.CLASS_TOKEN, 1)
        assert who == "class token"
        np.testing.assert_allclose(found.ravel(), expected[kind][1, 0, 1:], atol=1e-5)
        assert special == pytest.approx(expected[kind][1, 0, 0].item(), abs=1e-5)
        found, _, _ = seen.layers[0].shown(space.maps.ALL_PATCHES, None)
        np.testing.assert_allclose(found.ravel(), expected[kind][:, 1:, 1:].mean((0, 1)), atol=1e-5)


def test_windows_have_no_map_and_say_so(space, folders):
    seen = space.maps.look(space.models.load_pair(folders["swin"]).sima, torch.randn(1, 3, 16, 16))
    assert not seen.layers
    assert "Maps are not drawn for this model" in seen.missing
    shown = space.drawing.maps_html({"SimA": seen}, np.zeros((4, 4, 3), np.uint8), 3, None, "class token", False)
    assert "windows" in shown
    assert shown.count("<img") == 1


def test_layers_that_do_not_fit_are_counted(space):
    layers, missing = space.maps.layer_maps([torch.rand(1, 2, 5, 5), torch.rand(4, 2, 4, 4)], (2, 2))
    assert len(layers) == 1
    assert missing == "1 of 2 attentions have no map on the grid of patches."
    assert space.maps.layer_maps(None, (2, 2))[1].startswith("No maps")


def test_signed_maps_are_colored_around_zero(space):
    weights = np.array([[-1.0, 0.0], [0.5, 4.0]])
    colors, low, high = space.drawing.scale_of(weights, signed=True)
    assert (low, high) == (-4.0, 4.0)
    image = np.asarray(space.drawing.map_image(weights, signed=True)).astype(int)
    gray = tuple(colors[len(colors) // 2])
    assert tuple(image[0, 1]) == gray
    assert image[0, 0, 2] > image[0, 0, 0]  # blue for negative
    assert image[1, 0, 0] > image[1, 0, 2]  # red for positive
    assert tuple(image[1, 1]) == tuple(colors[-1])
    _, low, _ = space.drawing.scale_of(np.abs(weights), signed=False)
    positive = np.asarray(space.drawing.map_image(np.abs(weights), signed=False))
    assert low == 0
    assert tuple(positive[0, 1]) == gray  # zero looks alike in both


def test_overlay_leaves_what_was_not_looked_at(space):
    picture = np.full((16, 16, 3), 200, np.uint8)
    drawn = np.asarray(space.drawing.map_image(np.array([[0.0, -1.0]]), signed=True, picture=picture))
    assert (drawn[:, 10] == 200).all()
    assert (drawn[:, -10, 2] > drawn[:, -10, 0]).all()


def test_all_zero_maps_are_drawn(space):
    assert (np.asarray(space.drawing.map_image(np.zeros((2, 2)), signed=True)) == 0xF2).all()


def test_a_swapped_model_alone_and_with_its_counterpart(space, folders):
    alone = space.models.load_pair(folders["swapped"])
    assert list(alone.models) == ["SimA"]
    assert list(alone.timed) == ["softmax", "SimA"]
    original = ViTForImageClassification.from_pretrained(folders["vit"]).eval()
    pixel_values = torch.randn(1, 3, 16, 16)
    with torch.no_grad():  # the same weights with softmax, found without being told where they came from
        torch.testing.assert_close(alone.timed["softmax"](pixel_values).logits, original(pixel_values).logits)
    both = space.models.load_pair(folders["swapped"], counterpart=folders["vit"])
    assert list(both.models) == ["softmax", "SimA"]
    with pytest.raises(space.models.LoadError, match="SimA too"):
        space.models.load_pair(folders["swapped"], counterpart=folders["swapped"])
    with pytest.raises(space.models.LoadError, match="has softmax itself"):
        space.models.load_pair(folders["vit"], counterpart=folders["vit"])


def test_the_base_that_a_folder_names(space, folders, tmp_path):
    model = sima_hf.patch_model(ViTForImageClassification.from_pretrained(folders["vit"]))
    folder = save(model, tmp_path / "named")
    record = tmp_path / "named" / "sima_provenance.json"
    record.write_text('{"base_model": "' + folders["vit"] + '"}', encoding="utf-8")
    assert list(space.models.load_pair(folder).models) == ["softmax", "SimA"]
    record.write_text('{"base_model": "somebody/not-here"}', encoding="utf-8")
    pair = space.models.load_pair(folder)
    assert list(pair.models) == ["SimA"]
    assert any("somebody/not-here, which could not be loaded" in note for note in pair.notes)


def test_a_native_model_is_timed_against_plain_operations(space, folders):
    pair = space.models.load_pair(folders["native"])
    assert list(pair.models) == ["SimA"]
    assert list(pair.timed) == [space.models.PLAIN, "SimA"]
    assert pair.timed[space.models.PLAIN].config._attn_implementation == "eager"
    assert pair.sima.config._attn_implementation == "sima"
    seen = space.maps.look(pair.sima, torch.randn(1, 3, 16, 16))
    assert [layer.name for layer in seen.layers] == ["block 1", "block 2", "class attention 1", "class attention 2"]
    assert seen.layers[0].shown(space.maps.CLASS_TOKEN, None)[2] == space.maps.ALL_PATCHES
    assert seen.layers[2].shown(space.maps.ALL_PATCHES, None)[2] == space.maps.CLASS_TOKEN


def test_calibration_with_a_folder(space, folders, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    with pytest.raises(space.models.LoadError, match="No image could be read"):
        space.models.load_pair(folders["vit"], calibrate_with=tmp_path)
    (tmp_path / "deeper").mkdir()
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "deeper" / f"{index}.png")
    fresh = space.models.load_pair(folders["vit"])
    pair = space.models.load_pair(folders["vit"], calibrate_with=tmp_path, say=lambda text: None)
    assert any("calibrated with 12 images" in note for note in pair.notes)
    assert space.models.UNCALIBRATED not in pair.notes
    pixel_values = torch.cat(space.models.calibration_images(pair, tmp_path))
    with torch.no_grad():
        wanted, before, after = (model(pixel_values).logits for model in (pair.softmax, fresh.sima, pair.sima))
    assert (after - wanted).norm() < 0.5 * (before - wanted).norm()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["./not-there"], "space: There is no folder ./not-there."),
        (["{native}", "--calibrate_with", "x"], "SimA already; only the fresh twin"),
        (["{root}"], "cannot be loaded as an image classifier"),
        (["{vit}/config.json"], "config.json is a file; give the folder"),
        (["{cut}"], "cannot be read, perhaps half-written"),
        (["org/none-of-this-name"], "There is no folder org/none-of-this-name, and no model of that name"),
    ],
)
def test_mistakes_on_the_command_line_get_a_sentence(space, folders, monkeypatch, arguments, sentence):
    pytest.importorskip("gradio", reason="the page needs Gradio: pip install gradio")
    monkeypatch.setattr(sys, "argv", ["app.py", *(argument.format(**folders) for argument in arguments)])
    with pytest.raises(SystemExit) as stopped:
        space.app.main()
    assert sentence in str(stopped.value)


class Sleeper(torch.nn.Module):
    """Pretends to be a model; its forward only moves a clock by the square of the patches, times `factor`."""

    def __init__(self, clock, factor, largest=10**9):
        super().__init__()
        self.config = types.SimpleNamespace(image_size=16, patch_size=4, num_channels=3, model_type="vit")
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.clock, self.factor, self.largest = clock, factor, largest

    def forward(self, pixel_values):
        if pixel_values.shape[-1] > self.largest:
            raise ValueError(f"takes at most {self.largest} pixels\nand more lines")
        self.clock[0] += self.factor * ((pixel_values.shape[-1] // 4) ** 2) ** 2


@pytest.fixture
def clock(space, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(space.timing.time, "perf_counter", lambda: now[0])
    return now


def test_time_is_the_median_of_turns(space, clock):
    contestants = {"softmax": Sleeper(clock, 2e-7), "SimA": Sleeper(clock, 1e-7)}
    *_, last = space.timing.measure(contestants, seconds=1000)
    assert last.done
    assert [point.pixels for point in last.points] == [16, 24, 32, 48, 64, 96, 128]
    for point in last.points:
        assert point.tokens == (point.pixels // 4) ** 2
        assert point.seconds["softmax"] == pytest.approx(2e-7 * point.tokens**2, rel=1e-6)
        assert point.seconds["SimA"] == pytest.approx(1e-7 * point.tokens**2, rel=1e-6)
        assert point.rounds == 30


def test_time_keeps_to_its_budget_and_says_what_is_left_out(space, clock):
    *_, last = space.timing.measure({"softmax": Sleeper(clock, 1e-3)}, seconds=20)
    assert clock[0] < 30
    assert "px and more are left out" in last.text
    assert 1 <= len(last.points) < 7


def test_a_size_that_the_model_refuses_ends_the_measurement(space, clock):
    *_, last = space.timing.measure({"softmax": Sleeper(clock, 1e-6, largest=24)}, seconds=1000)
    assert [point.pixels for point in last.points] == [16, 24]
    assert last.text == "Stopped at 32 px: takes at most 24 pixels"


def test_chart_draws_what_was_measured(space):
    points = tuple(space.timing.Point(size, size, {"softmax": size / 1e3, "SimA": 0.01}, 3) for size in (16, 32, 64))
    text = space.chart.chart_html(points, "a <machine>, 2 threads", "Done.", 1.0)
    assert "Measured on this machine just now: a &lt;machine&gt;, 2 threads" in text
    svg = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    curves = [path.get("d") for path in svg.iter("path") if path.get("stroke-width") == "2.5"]
    heights = [[float(place.split()[1]) for place in curve[1:].split("L")] for curve in curves]
    assert heights[0][0] > heights[0][1] > heights[0][2]  # slower is higher
    assert heights[0][0] - heights[0][1] == pytest.approx(
        heights[0][1] - heights[0][2], abs=0.2
    )  # a power law is straight
    assert len(set(heights[1])) == 1
    assert re.findall(r"<td>([^<]*)</td>", text)[-5:] == ["64", "64", "64", "10", "6.40"]
    assert "<svg" not in space.chart.chart_html((), "here", "warming up", 0.0)


@pytest.mark.parametrize(
    "files",
    [
        {"mine/weights.bin": "precious", "notes.txt": ""},
        {"results.json": '{"accuracy": 0.9}'},
        {"results.json": '{"made_with": {"mod'},
        {"results.json": '{"made_with": {"model": 1, "recipe": 2, "sima_hf": "0"}}', "notes.txt": "mine"},
    ],
    ids=["a model", "other results", "half a file", "something beside"],
)
def test_a_folder_of_something_else_is_left_as_it_is(files, space, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(space.digits, "_make", None)
    with pytest.raises(FileExistsError, match=r"holds something other than .* with --cache"):
        space.digits.digits_folder(tmp_path, lambda text: None)
    assert {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.*")} == files


def test_digits_of_another_recipe_are_made_anew(space, tmp_path, monkeypatch):
    cache = tmp_path / "digits"
    monkeypatch.setattr(space.digits, "_make", lambda folder, say, recipe: {"epochs": recipe["epochs"]})
    for epochs in (1, 2):
        recipe = {**space.digits.RECIPE, "epochs": epochs}
        folder = space.digits.digits_folder(cache, lambda text: None, recipe)
        assert f'"epochs": {epochs}\n' in (folder / "results.json").read_text()


def test_classes_of_the_same_name_get_their_number(space):
    pytest.importorskip("gradio")
    import page

    names = {0: "crane", 1: "cat", 2: "crane"}
    pair = types.SimpleNamespace(main=types.SimpleNamespace(config=types.SimpleNamespace(id2label=names)))
    seen = types.SimpleNamespace(probabilities=np.array([0.5, 0.3, 0.2]))
    assert page.classes_of(pair, seen) == {"crane (0)": 0.5, "cat": 0.3, "crane (2)": 0.2}


@pytest.mark.slow
def test_digits_are_made_once_and_whole(space, tmp_path, monkeypatch):
    recipe = {**space.digits.RECIPE, "epochs": 1}
    monkeypatch.setattr(space.digits, "CALIBRATION_IMAGES", 128)
    with monkeypatch.context() as patch:
        patch.setattr(sima_hf, "calibrate", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            space.digits.digits_folder(tmp_path / "digits", lambda text: None, recipe)
        assert list(tmp_path.iterdir()) == []
    threads = torch.get_num_threads()
    folder = space.digits.digits_folder(tmp_path / "digits", lambda text: None, recipe)
    assert torch.get_num_threads() == threads
    assert len(list((folder / "examples").glob("*.png"))) == 10
    with monkeypatch.context() as patch:
        patch.setattr(space.digits, "_make", None)
        assert space.digits.digits_folder(tmp_path / "digits", lambda text: None, recipe) == folder
        patch.setattr(space.digits, "RECIPE", recipe)
        patch.setattr(space.digits.digits_folder, "__defaults__", (lambda text: None, recipe))
        pair = space.app.digits_pair(folder)
    assert list(pair.models) == ["softmax", "SimA"]
    read = space.pictures.read_picture(pair.examples[3]).image
    assert pair.pixel_values(read).shape == (1, 1, 12, 12)
    paper = Image.eval(read, lambda value: 255 - value)
    turned, note = pair.prepare(paper)
    assert "inverted" in note
    torch.testing.assert_close(pair.pixel_values(turned.convert("RGB")), pair.pixel_values(read))


def test_the_folder_needs_nothing_but_its_requirements(space):
    provided = {"sima_hf": "sima-hf", "gradio": "gradio", "sklearn": "scikit-learn"}
    with_sima = {"torch", "transformers", "safetensors", "PIL", "numpy"}
    lines = (SPACE / "requirements.txt").read_text(encoding="utf-8").split()
    listed = {re.split(r"[<>=]", line)[0] for line in lines}
    for path in SPACE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in {one.split(".")[0] for one in names} - set(MODULES) - sys.stdlib_module_names - with_sima:
                assert provided.get(name) in listed, f"{path.name} imports {name}, which no requirement installs"


def test_the_readme_is_what_a_space_needs():
    text = (SPACE / "README.md").read_text(encoding="utf-8")
    facts = yaml.safe_load(text.split("---")[1])
    assert facts["sdk"] == "gradio"
    assert (SPACE / facts["app_file"]).is_file()
    assert facts["license"] == "apache-2.0"
    assert len(facts["short_description"]) <= 60
    assert {facts["colorFrom"], facts["colorTo"]} <= {
        "red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"
    }  # fmt: skip
    gradio = pytest.importorskip("gradio", reason="pip install gradio")
    assert facts["sdk_version"] == gradio.__version__
    for name in re.findall(r"`(\w+\.py)`", text):
        assert (SPACE / name).is_file(), name
