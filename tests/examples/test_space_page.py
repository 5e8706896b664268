"""The Space's page in a real browser: headless Chromium drops files on it, turns its knobs, and looks at what it draws.

Needs Gradio and Selenium, and Debian's packages chromium and chromium-driver; skipped without, with what to install.
"""

import contextlib
import json
import shutil
import socket
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil


CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = [
    pytest.mark.slow,
    # Looked up and not imported, which takes seconds of whoever collects the tests.
    *(
        pytest.mark.skipif(find_spec(name) is None, reason=f"the page needs {name}: pip install {name}")
        for name in ("gradio", "selenium")
    ),
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="needs Chromium and its driver: apt-get install chromium chromium-driver",
    ),
]

SPACE = Path(__file__).resolve().parents[2] / "examples" / "space"
MODULES = sorted(path.stem for path in SPACE.glob("*.py"))
# As root in a container, and without calls of its own to anywhere.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LABELS = {0: "owl", 1: "ox", 2: "otter"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The page of a tiny ViT and its twin on a free port of 127.0.0.1, in threads of this process: (address, page's module)."""
    sys.path.insert(0, str(SPACE))
    for name in MODULES:
        sys.modules.pop(name, None)
    import loaded_models
    import page

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=16,
        patch_size=4,
        hidden_size=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        intermediate_size=16,
        initializer_range=0.3,
        id2label=LABELS,
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    pair = loaded_models.load_pair(str(folder))
    (folder / "examples").mkdir()
    photo().save(folder / "examples" / "noise.png")
    pair.examples = (folder / "examples" / "noise.png",)
    page.SECONDS_OF_TIMING = 1.0
    blocks = page.build_page(pair)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = page.launch(blocks, pair, "127.0.0.1", port, block=False)
    yield address, page, pair
    blocks.close(verbose=False)
    sys.path.remove(str(SPACE))
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}", "--window-size=1280,1400"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(served, browser):
    """The page, loaded afresh."""
    return Opened(browser, served[0])


def photo(size=(40, 40)):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


class Opened:
    """The page in the browser, with the few things that the tests do to it."""

    def __init__(self, browser, address, query=""):
        self.browser = browser
        browser.get(address + query)
        self.wait(lambda: self.all("#image input[type=file]"), "the page to load")

    def wait(self, condition, what, seconds=40):
        from selenium.common import StaleElementReferenceException

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            # An element may be drawn anew between being found and being read.
            with contextlib.suppress(StaleElementReferenceException):
                if found := condition():
                    return found
            time.sleep(0.05)
        raise AssertionError(f"waited {seconds} s for {what}; the page says: {self.text('body')[:2000]}")

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def text(self, selector):
        script = "const one = document.querySelector(arguments[0]); return one ? one.innerText : ''"
        return self.browser.execute_script(script, selector).strip()

    def drop(self, path):
        self.all("#image input[type=file]")[0].send_keys(str(path))

    def choose(self, choice):
        """Click on an entry of the list that is open; False where there is none such yet."""
        option = next((one for one in self.all("ul[role=listbox] li") if choice in one.text), None)
        if option is not None:
            option.click()
        return option is not None

    def maps(self):
        """`alt` and pixels `(h, w, 3)` of every picture in the maps, as the browser decoded them."""
        script = """
        return [...document.querySelectorAll('#maps img')].map(img => {
            const canvas = document.createElement('canvas');
            [canvas.width, canvas.height] = [img.naturalWidth, img.naturalHeight];
            const context = canvas.getContext('2d');
            context.drawImage(img, 0, 0);
            return [img.alt, canvas.width, canvas.height, img.clientWidth,
                    [...context.getImageData(0, 0, canvas.width, canvas.height).data]];
        })"""
        return {
            alt: (np.array(data, dtype=np.uint8).reshape(height, width, 4)[..., :3], shown)
            for alt, width, height, shown, data in self.browser.execute_script(script)
        }


@pytest.fixture
def noise(tmp_path):
    photo().save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_loads_and_says_what_it_shows(opened):
    assert opened.browser.title == "Where SimA looks"
    assert "was not calibrated" in opened.text("#model")
    assert "Drop an image" in opened.text("#message")


def test_classifies_and_draws(opened, served, noise):
    _, page, pair = served
    opened.drop(noise)
    opened.wait(lambda: len(opened.all("#maps img")) == 7, "the picture, two large maps and four small ones")
    shown, _ = page.examine(pair, noise)
    for kind, seen in shown.seen.items():
        best = {LABELS[int(seen.probabilities.argmax())], f"{round(100 * seen.probabilities.max())}%"}
        opened.wait(lambda b=best, k=kind: b <= set(opened.text(f"#classes-{k.lower()}").split()), f"{best} of {kind}")
    maps = opened.maps()
    np.testing.assert_array_equal(maps["What the model saw"][0], shown.picture)
    assert shown.picture.shape == (16, 16, 3)
    for kind in ("softmax", "SimA"):
        drawn, width = maps[f"{kind}: block 2, mean over heads"]
        weights = shown.seen[kind].layers[1].shown("class token", None)[0]
        assert drawn.shape == (4, 4, 3)  # one pixel for each patch, enlarged by the browser
        assert width > 150
        strongest = np.unravel_index(np.abs(weights).argmax(), weights.shape)
        away_from_gray = np.abs(drawn.astype(int) - 0xF2).sum(-1)
        assert away_from_gray[strongest] == away_from_gray.max() > 200
        if kind == "SimA":
            clear = np.abs(weights) > 0.1 * np.abs(weights).max()
            redder = drawn[..., 0].astype(int) > drawn[..., 2]
            np.testing.assert_array_equal(redder[clear], (weights > 0)[clear])
    assert opened.text("#message") == ""


def test_knobs_redraw(opened, noise):
    opened.drop(noise)
    opened.wait(lambda: opened.all("#maps img"), "maps")

    def title():
        return opened.text("#maps .look:nth-child(3) .title")

    assert title() == "SimA: block 2, mean over heads"
    for knob, choice, expected in (
        ("#layer", "block 1", "SimA: block 1, mean over heads"),
        ("#head", "head 2", "SimA: block 1, head 2"),
    ):
        opened.all(f"{knob} input")[0].click()
        opened.wait(lambda c=choice: opened.choose(c), choice)
        opened.wait(lambda expected=expected: title() == expected, expected)
    before = opened.text("#maps")
    next(one for one in opened.all("#looker label") if "all patches" in one.text).click()
    opened.wait(
        lambda: "Looked from: mean over all patches" in opened.text("#maps") != before, "another row of the map"
    )
    opened.all("#overlay input")[0].click()
    opened.wait(lambda: opened.maps()["SimA: block 1, head 2"][0].shape[0] > 100, "the map over the picture")


def test_time_curves_appear(opened):
    opened.all("#measure")[0].click()
    opened.wait(lambda: opened.all("#times .chart .progress"), "progress")
    opened.wait(lambda: "Done in" in opened.text("#times") or "left out" in opened.text("#times"), "the end")
    said = opened.text("#times")
    assert "Measured on this machine just now" in said
    for fact in (
        f"torch {torch.__version__}",
        f"{torch.get_num_threads()} thread",
        "float32",
        "batch 1",
        "transformers",
        "sima_hf",
    ):
        assert fact in said
    curves = opened.all("#times svg path[stroke-width='2.5']")
    assert len(curves) == 2
    assert all("L" in curve.get_attribute("d") for curve in curves)
    assert opened.all("#times svg")[0].rect["height"] > 200


@pytest.mark.parametrize(
    ("make", "name", "sentence"),
    [
        (lambda path: path.write_text("Dear model"), "letter.txt", "letter.txt is not an image that can be read here"),
        (
            lambda path: Image.new("1", (20000, 20000)).save(path),
            "enormous.png",
            "far more pixels than the 50 million",
        ),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\nno more"), "cut.png", "not an image that can be read here"),
        (lambda path: path.write_bytes(b""), "empty.png", "empty"),
    ],
)
def test_what_cannot_be_shown_is_answered(opened, tmp_path, make, name, sentence):
    make(tmp_path / name)
    opened.drop(tmp_path / name)
    opened.wait(lambda: sentence in opened.text("body"), sentence)
    assert not opened.all("#maps img")
    assert "Traceback" not in opened.text("body")
    opened.wait(lambda: not opened.all(".generating, .pending"), "the spinner to stop")


def test_one_pixel_is_classified(opened, tmp_path):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "one.png")
    opened.drop(tmp_path / "one.png")
    opened.wait(lambda: "1 x 1 pixels" in opened.text("#message"), "a word on its size")
    opened.wait(lambda: opened.all("#maps img"), "maps")
    assert set(opened.text("#classes-sima").split()) & set(LABELS.values())


def test_after_a_bad_file_a_good_one_works(opened, tmp_path, noise):
    (tmp_path / "letter.txt").write_text("Dear model")
    opened.drop(tmp_path / "letter.txt")
    opened.wait(lambda: "not an image" in opened.text("#message"), "the refusal")
    opened.all("#examples button.gallery-item, #examples img")[0].click()
    opened.wait(lambda: opened.all("#maps img"), "the example's maps")
    assert opened.text("#message") == ""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_can_be_read_on_a_narrow_screen(served, browser, noise, theme):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        opened = Opened(browser, served[0], f"?__theme={theme}")
        opened.drop(noise)
        opened.wait(lambda: opened.all("#maps img"), "maps")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        text, ground = browser.execute_script(
            """
            const sum = color => color.match(/[0-9.]+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0);
            let one = document.querySelector('#maps .look figcaption');
            const text = sum(getComputedStyle(one).color);
            while (one && /, 0\\)$/.test(getComputedStyle(one).backgroundColor)) one = one.parentElement;
            return [text, one ? sum(getComputedStyle(one).backgroundColor) : 765];
            """
        )
        assert abs(text - ground) > 400  # of 765
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_was_asked_of_another_host(opened, noise):
    """All requests since the browser started, those of the tests before included."""
    opened.drop(noise)
    opened.wait(lambda: opened.all("#maps img"), "maps")
    hosts = set()
    for entry in opened.browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            url = message["params"].get("request", message["params"])["url"]
            if urlsplit(url).scheme in ("http", "https", "ws", "wss"):
                hosts.add(urlsplit(url).hostname)
    assert hosts == {"127.0.0.1"}
    severe = [entry["message"] for entry in opened.browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []
