"""The measurement of loading against training: it runs, it sees a loader that is too slow, and its results say what the README says."""

import csv
import statistics
import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from sima_hf.bench.tables import links_from


pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("benchmarks/results/training_speed_cpu.csv")
PARTS = ["RandAugment", "normalizing", "random erasing", "mixing"]
FED, REPEATED, STEP = "training from the loader", "training on a repeated batch", "training step"
# Two models of toy size, two rounds.
SHORT = (
    "--images 16 --batch_size 4 --augment_batch_size 4 --batches 2 --rounds 2 --steps 1 --fed_steps 1 --image_size 32 "
)
SHORT += "--num_workers 0 1 --repeats 3 --models sima_small_12_p16 deit-small "
SHORT += "--model_overrides hidden_size=32,num_hidden_layers=1,num_attention_heads=2"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(ROOT)
    import measure_training_speed

    return measure_training_speed


@pytest.fixture
def parts(script):
    import training_speed_loading
    import training_speed_steps
    import training_speed_table

    return SimpleNamespace(loading=training_speed_loading, steps=training_speed_steps, table=training_speed_table)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_cut_short(script, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- training-speed:start -->\nold\n<!-- training-speed:end -->\nafter\n")
    script.main([*SHORT.split(), "--output_dir", str(tmp_path), "--readme", str(readme)])
    printed = capsys.readouterr().out.strip()
    rows = rows_of(tmp_path / "training_speed_cpu.csv")
    assert [(row["what"], row["workers"], row["model"]) for row in rows] == [
        ("loading", "0", ""),
        ("loading", "1", ""),
        ("streaming", "1", ""),
        *((what, "", "") for what in ["augmenting", *PARTS]),
        (STEP, "", "sima_small_12_p16"),
        (STEP, "", "deit-small"),
        (FED, "1", "sima_small_12_p16"),
        (REPEATED, "", "sima_small_12_p16"),
    ]
    for row in rows:
        assert 0 < float(row["lower_quartile"]) <= float(row["images_per_second"]) <= float(row["upper_quartile"])
        assert (row["rounds"], row["batch"], row["image_size"], row["device"]) == ("2", "4", "32", "cpu")
        assert row["device_name"]
        assert row["revision"]
        assert 0 <= float(row["taken_by_others"]) <= 1
        assert row["torch"] == torch.__version__
        assert bool(row["waiting_share"]) == (row["what"] == FED)
    text = readme.read_text()
    assert text.startswith("before\n<!-- training-speed:start -->\n| | batch |")
    assert text.endswith("<!-- training-speed:end -->\nafter\n")
    assert printed in text
    # The same table from the file alone, with nothing measured.
    before = (tmp_path / "training_speed_cpu.csv").read_bytes()
    script.main(["--from_results", "--output_dir", str(tmp_path)])
    assert capsys.readouterr().out.strip() == printed
    assert (tmp_path / "training_speed_cpu.csv").read_bytes() == before


def test_images_are_of_imagenets_shape(parts, folder):
    mean = parts.loading.write_images(folder, 16)
    files = sorted((folder / "folder").glob("*/*.jpg"))
    assert len(files) == 16
    assert {file.parent.name for file in files} == {"china", "flower"}
    assert mean == statistics.mean(file.stat().st_size for file in files)
    assert 100_000 < mean < 120_000
    pixels = set()
    for file in files:
        with Image.open(file) as image:
            assert (image.size, image.mode, image.format) == ((500, 375), "RGB", "JPEG")
            pixels.add(np.asarray(image).tobytes())
    assert len(pixels) == 16  # no image twice
    shards = datasets.load_dataset(
        "parquet", data_files=str(folder / "shards" / "*.parquet"), split="train", cache_dir=str(folder / "cache")
    )
    shards = shards.cast_column("image", datasets.Image(decode=False))
    assert {row["image"]["bytes"] for row in shards} == {file.read_bytes() for file in files}


class Images(torch.utils.data.Dataset):
    """Training images that take `seconds` each of a clock that nothing else moves, in the process that reads the clock."""

    def __init__(self, count, clock, seconds):
        self.count, self.clock, self.seconds = count, clock, seconds

    def __len__(self):
        return self.count

    def __getitems__(self, draws):
        self.clock.now += self.seconds * len(draws)
        pixels = [torch.full((3, 4, 4), draw.seed % 256, dtype=torch.uint8) for draw in draws]
        return [
            {"pixel_values": one, "labels": 0, "seeds": draw.seed, "unreadable": []}
            for one, draw in zip(pixels, draws, strict=True)
        ]


@pytest.fixture
def clock(parts, monkeypatch):
    """The only time that the scripts know."""
    clock = SimpleNamespace(now=0.0)
    clock.perf_counter = lambda: clock.now
    for module in (parts.loading, parts.steps):
        monkeypatch.setattr(module, "time", clock)
        monkeypatch.setattr(module, "repeated", lambda images, count: Images(count, clock, images.seconds))
    return clock


def test_loading_rate(parts, clock):
    contestant = parts.loading.loading(Images(4, clock, 0.02), batch=2, workers=0, repeats=3, batches=6)
    assert contestant.about == {"what": "loading", "workers": 0, "repeats": 3, "batch": 2, "batches": 6}
    sample = contestant.measure(0)
    assert sample.images == 12
    assert sample.images / sample.seconds == pytest.approx(50)


@pytest.mark.parametrize("workers", [1, 2])
def test_all_workers_are_measured(parts, clock, workers):
    contestant = parts.loading.loading(Images(4, clock, 0.0), batch=2, workers=workers, repeats=1, batches=3)
    assert contestant.about["batches"] == 3 * workers
    assert [contestant.measure(number).images for number in range(2)] == [6 * workers] * 2


@pytest.mark.parametrize(("load", "step"), [(0.03, 0.01), (0.001, 0.1)])
def test_waiting_is_seen(parts, clock, load, step):
    taken = []

    def on_bytes(batch):
        taken.append(batch)
        clock.now += step

    model = SimpleNamespace(name="none", device="cpu", on_bytes=on_bytes)
    images = Images(4, clock, load)
    fed, on_one = parts.steps.training_on_bytes(model, images, batch=2, workers=0, steps=4, wait=lambda: None)
    found = fed.measure(0)
    assert (found.images, len(taken)) == (8, 5)  # the first is not measured
    assert found.waited == pytest.approx(4 * 2 * load)
    assert found.seconds == pytest.approx(4 * (2 * load + step))
    found = on_one.measure(0)
    assert found.waited == 0
    assert found.seconds == pytest.approx(4 * step)
    same = taken[6:]
    assert len(same) == 4
    assert all(torch.equal(one["pixel_values"], same[0]["pixel_values"]) for one in same)
    assert len({tuple(one["seeds"].tolist()) for one in same}) == 4  # other augmentation each time


def test_summed_up(parts):
    def contestant(what, **about):
        return SimpleNamespace(about={"what": what, "batch": 10, "batches": 1, **about})

    def samples(*seconds, waited=0.0):
        return [parts.loading.Sample(10, one, waited * one) for one in seconds]

    contestants = [
        contestant("loading", workers=2, repeats=3),
        contestant(STEP, model="slow"),
        contestant(STEP, model="quick"),
        contestant(FED, model="slow", workers=2, repeats=3),
    ]
    measured = [
        samples(0.1, 0.2, 0.4),
        samples(4, 5, 6),
        samples(2, 1, 4),
        samples(2, 4, 5, waited=0.25),
    ]
    rest = dict.fromkeys(parts.table.Row.__dataclass_fields__, "")
    rows = parts.table.summed_up(contestants, measured, {**rest, "dtype": "bfloat16", "compiled": True})
    loading, slow, quick, fed = rows
    assert (loading.images_per_second, loading.lower_quartile, loading.upper_quartile) == (50, 37.5, 75)
    assert loading.batch_ms == 200
    # Rates 5, 10 and 2.5 of the quick step against 100, 50 and 25, in each round; not the ratio of the medians.
    assert loading.times_the_step == 10
    assert {row.step_model for row in rows} == {"quick"}
    assert (loading.dtype, loading.compiled, quick.dtype, quick.compiled) == ("uint8", False, "bfloat16", True)
    assert (fed.waiting_share, fed.waiting_lower_quartile, fed.waiting_upper_quartile) == (0.25, 0.25, 0.25)
    assert (slow.waiting_share, slow.rounds) == (None, 3)


def test_models(parts):
    arguments, drop_path = parts.steps.configured("sima_small_12_p16", "hidden_size=32", 64)
    assert (arguments.variant, arguments.image_size, drop_path) == ("sima_small_12_p16", 64, 0.05)
    assert arguments.config_overrides == "hidden_size=32"
    sima, _ = parts.steps.configured("sima-deit-small", "", 224)
    softmax, _ = parts.steps.configured("deit-small", "", 224)
    assert (sima.model_type, softmax.model_type) == ("sima_deit", "deit")
    assert sima.config_overrides == softmax.config_overrides
    with pytest.raises(ValueError, match=r"There is no model 'deit-huge': there are .*sima-deit-small"):
        parts.steps.configured("deit-huge", "", 224)


def test_a_step_trains(parts):
    step = parts.steps.TrainingStep(
        "sima-deit-tiny",
        "hidden_size=32,num_hidden_layers=1,num_attention_heads=2",
        32,
        4,
        torch.bfloat16,
        False,
        "cpu",
    )
    assert type(step.model).__name__ == "SimADeiTForImageClassification"
    before = {name: value.clone() for name, value in step.model.named_parameters() if value.requires_grad}
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    for _ in range(3):  # DeiT's class token begins as zeros, which no attention sees
        step.on_bytes({"pixel_values": pixels, "labels": torch.arange(4), "seeds": torch.arange(4)})
    after = dict(step.model.named_parameters())
    assert all(not torch.equal(after[name], value) for name, value in before.items() if value.ndim > 1)
    assert step.average.num_updates == 3
    assert all(parameter.grad is None for parameter in after.values())


def test_processor_seconds(script):
    """What this process works is its own, and busy; what it sleeps is neither."""
    before = script.processor_seconds()
    stop = time.process_time() + 0.3
    while time.process_time() < stop:
        pass
    everything, busy, own = (after - start for after, start in zip(script.processor_seconds(), before, strict=True))
    assert 0.28 <= own <= 0.6
    assert own - 0.1 <= busy <= everything + 0.1


def test_mistakes(script, capsys):
    with pytest.raises(SystemExit):
        script.parse(["--rounds", "1"])
    assert "--rounds must be 2 or more" in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            script.parse(["--device", "cuda"])
        assert "needs a GPU" in capsys.readouterr().err


@pytest.mark.results
def test_committed_results():
    rows = rows_of(ROOT / RESULTS)
    (fed,) = (row for row in rows if row["what"] == FED)
    assert float(fed["waiting_share"]) < 0.1
    assert float(fed["waiting_upper_quartile"]) < 0.1
    steps = {row["model"]: float(row["images_per_second"]) for row in rows if row["what"] == STEP}
    assert set(steps) == {"sima_small_12_p16", "sima-deit-small", "deit-small"}
    assert rows[0]["step_model"] == max(steps, key=steps.get)
    loaders = {(row["what"], row["workers"], row["repeats"]): row for row in rows if row["workers"] and row != fed}
    assert set(loaders) == {
        *(("loading", workers, repeats) for workers in "012" for repeats in "13"),
        *(("streaming", "2", repeats) for repeats in "13"),
    }
    assert all(float(row["times_the_step"]) > 10 for row in loaders.values())
    assert {row["image_size"] for row in rows} == {"224"}
    assert all(int(row["rounds"]) >= 5 for row in rows)


@pytest.mark.results
def test_the_page_has_the_results(parts):
    page = Path("docs/benchmarks.md")
    text, table = (ROOT / page).read_text(encoding="utf-8"), links_from(page, parts.table.markdown_table(RESULTS))
    assert f"<!-- training-speed:start -->\n{table}\n<!-- training-speed:end -->" in text
