"""The page of onnxruntime-web in headless Chromium: an image gets the logits that the model gives it in Python.

Needs Selenium, Debian's packages chromium and chromium-driver, and onnxruntime-web of npm; skipped without, with what to install.
"""

import contextlib
import functools
import json
import re
import shutil
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DeiTConfig, DeiTForImageClassification
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil

from sima_hf import SimAConfig, SimAForImageClassification, SimAImageProcessor, export, patch_model


PAGE = Path(__file__).resolve().parents[2] / "examples" / "browser"
CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = [
    pytest.mark.slow,
    *(
        pytest.mark.skipif(find_spec(name) is None, reason=f"needs {name}: pip install {pip}")
        for name, pip in (
            ("selenium", "selenium"),
            ("onnx", "'sima-hf[onnx]'"),
            ("transformers.exporters", "'transformers>=5.23'"),
        )
    ),
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs Chromium and its driver: apt-get install chromium chromium-driver"
    ),
    pytest.mark.skipif(
        not (PAGE / "node_modules" / "onnxruntime-web").is_dir(),
        reason="needs onnxruntime-web: npm install --prefix examples/browser",
    ),
]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
LABELS = {0: "owl", 1: "ox", 2: "otter"}


def native():
    """The class of model that `make demo` trains; shorter side and crop."""
    config = SimAConfig(
        **SIZES,
        image_size=32,
        patch_size=8,
        num_class_attention_layers=1,
        attention_gain="tokens",
        initializer_range=0.5,
        id2label=LABELS,
    )
    return SimAForImageClassification(config).eval(), SimAImageProcessor.for_image_size(32)


def swapped():
    """Both sides given, other numbers, bilinear."""
    config = DeiTConfig(**SIZES, image_size=32, patch_size=8, initializer_range=0.5, id2label=LABELS)
    processor = DeiTImageProcessorPil(do_center_crop=False, size={"height": 32, "width": 32}, resample=2)
    return patch_model(DeiTForImageClassification(config).eval()), processor


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Address of the page, its folder, and model and processor by the name of their folder."""
    root = tmp_path_factory.mktemp("site")
    for name in ("index.html", "classify.js", "node_modules"):
        (root / name).symlink_to(PAGE / name)
    pairs = {}
    for name, make in (("model", native), ("swapped", swapped)):
        torch.manual_seed(0)
        pairs[name] = make()
        export(pairs[name][0], root / name, processor=pairs[name][1])
    with served(root, Quiet) as address:
        yield address, root, pairs


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class Isolating(Quiet):
    def end_headers(self):
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


@contextlib.contextmanager
def served(folder, handler):
    """Address of a folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def wait(browser, condition, what, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s for {what}; the page says: {text(browser, 'body')}")


def text(browser, selector):
    return browser.execute_script("return document.querySelector(arguments[0]).innerText", selector).strip()


def opened(browser, address):
    browser.get(address)
    wait(browser, lambda: text(browser, "#message") or "classes" in text(browser, "#model"), "the model")


def give(browser, path):
    browser.find_element("id", "file").send_keys(str(path))


def logits(browser):
    return browser.execute_script("return document.getElementById('classes').dataset.logits")


def photo(path, size):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.mark.parametrize("size", [(57, 41), (20, 33), (7, 90)], ids=str)
@pytest.mark.parametrize("folder", ["model", "swapped"])
def test_the_logits_are_the_models(site, browser, tmp_path, folder, size):
    address, _, pairs = site
    opened(browser, f"{address}?model={folder}")
    image = photo(tmp_path / "photo.png", size)
    give(browser, image)
    found = json.loads(wait(browser, lambda: logits(browser), "classes"))
    model, processor = pairs[folder]
    with torch.no_grad():
        expected = model(**processor(Image.open(image), return_tensors="pt")).logits[0]
    torch.testing.assert_close(torch.tensor(found), expected, rtol=0, atol=float(1e-4 * expected.abs().max()))
    first = text(browser, "#classes tr").split("\t")
    assert first == [LABELS[int(expected.argmax())], f"{100 * expected.softmax(0).max():.1f} %"]
    assert "ms for the model" in text(browser, "#time")
    assert browser.execute_script("return document.getElementById('preview').clientWidth") > 0
    assert text(browser, "#message") == ""


def test_says_what_it_runs(site, browser):
    opened(browser, site[0])
    said = text(browser, "#model")
    assert said.startswith("SimAForImageClassification, 3 classes, no softmax in its attention; onnxruntime-web 1.")
    assert said.endswith("1 thread")


def test_has_more_threads_where_the_server_isolates_it(site, browser, tmp_path):
    with served(site[1], Isolating) as address:
        opened(browser, address)
        count = browser.execute_script("return navigator.hardwareConcurrency")
        assert text(browser, "#model").endswith(f"{count} thread{'' if count == 1 else 's'}")
        give(browser, photo(tmp_path / "photo.png", (40, 40)))
        assert len(json.loads(wait(browser, lambda: logits(browser), "classes"))) == 3


def test_after_a_bad_file_a_good_one_works(site, browser, tmp_path):
    opened(browser, site[0])
    (tmp_path / "letter.png").write_text("Dear model")
    give(browser, tmp_path / "letter.png")
    wait(browser, lambda: "letter.png is not an image" in text(browser, "#message"), "the refusal")
    assert logits(browser) is None
    give(browser, photo(tmp_path / "photo.png", (40, 40)))
    wait(browser, lambda: logits(browser), "classes")
    assert text(browser, "#message") == ""


def test_a_model_that_is_not_there_is_a_sentence(site, browser):
    opened(browser, f"{site[0]}?model=nowhere")
    assert text(browser, "#message").startswith("There is no nowhere/sima_export.json. Export a model to that folder:")
    assert not browser.find_element("id", "file").is_enabled()


def test_weights_that_are_not_there_are_a_sentence(site, browser):
    address, root, _ = site
    shutil.copytree(root / "swapped", root / "torn")
    (root / "torn" / "model.onnx.data").unlink()
    opened(browser, f"{address}?model=torn")
    assert text(browser, "#message").startswith("There is no torn/model.onnx.data.")


def test_nothing_is_asked_of_another_host(site, browser, tmp_path):
    """All requests since the browser started, those of the tests before included."""
    opened(browser, site[0])
    give(browser, photo(tmp_path / "photo.png", (40, 40)))
    wait(browser, lambda: logits(browser), "classes")
    hosts, asked = set(), set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = urlsplit(message["params"]["request"]["url"])
            hosts |= {url.hostname} if url.scheme in ("http", "https") else set()
            asked |= {Path(url.path).name} if "onnxruntime-web" in url.path else set()
    assert hosts == {"127.0.0.1"}
    readme = (PAGE / "README.md").read_text(encoding="utf-8")
    assert asked == set(re.findall(r"`(ort[\w.-]+\.\w+)`", readme))
