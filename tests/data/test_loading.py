"""The training loader: the same global batches on any number of processes and workers, exact going on, unreadable files."""

import errno
import io
import multiprocessing
import os
import signal
import time

import accelerate
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from sima_hf.data.images import TrainImages
from sima_hf.data.loading import (
    GRACE_SECONDS,
    Unreadable,
    leaving_flag,
    lost_workers_as_errors,
    training_loader,
)
from sima_hf.data.sampling import EpochBatches
from sima_hf.data.streaming import StreamedImages
from sima_hf.data.views import TrainView
from sima_hf.errors import DataError, TrainingError


pytestmark = pytest.mark.slow


def dataset(count=48, broken=()):
    rows = []
    for index in range(count):
        buffer = io.BytesIO()
        PILImage.effect_noise((9 + index % 5, 8), 60 + index).save(buffer, "png")
        rows.append({"bytes": b"broken" if index in broken else buffer.getvalue(), "path": f"{index}.png"})
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=["a", "b", "c"])})
    return Dataset.from_dict({"image": rows, "label": [index % 3 for index in range(count)]}, features=features)


@pytest.fixture(scope="module")
def images():
    return TrainImages(dataset(), TrainView(6))


def listed(batches):
    return [(batch["pixel_values"].tolist(), batch["labels"].tolist(), batch["seeds"].tolist()) for batch in batches]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_those_of_the_sampler(images, num_workers):
    loader = training_loader(images, 5, num_workers, seed=3, repeats=2)
    assert len(loader) == 9
    for epoch in (0, 4):
        loader.set_epoch(epoch)
        sampler = EpochBatches(48, 5, seed=3, repeats=2)
        sampler.set_epoch(epoch)
        wanted = [[images[draw] for draw in draws] for draws in sampler]
        found = list(loader)
        assert len(found) == 9
        for batch, samples in zip(found, wanted, strict=True):
            assert torch.equal(batch["pixel_values"], torch.stack([sample["pixel_values"] for sample in samples]))
            assert batch["seeds"].tolist() == [sample["seeds"] for sample in samples]
            assert batch["labels"].tolist() == [sample["labels"] for sample in samples]
            assert batch["unreadable"] == []


@pytest.mark.parametrize("processes", [2, 4])
def test_global_batches_are_the_same_on_any_number_of_processes(images, processes):
    whole = list(training_loader(images, 8, repeats=3))
    parts = [
        list(training_loader(images, 8 // processes, repeats=3, process_index=index, num_processes=processes))
        for index in range(processes)
    ]
    for number, batch in enumerate(whole):
        together = torch.stack([part[number]["pixel_values"] for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(together, batch["pixel_values"])  # processes take turns


@pytest.mark.parametrize(("num_workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_going_on_in_the_middle_is_as_if_nothing_had_been(images, num_workers, persistent):
    def loader():
        return training_loader(images, 5, num_workers, repeats=3, persistent_workers=persistent)

    one = loader()
    wanted = {epoch: listed(one.batches(epoch)) for epoch in (2, 3)}
    assert wanted[2] != wanted[3]
    resumed = loader()
    assert listed(resumed.batches(2, start=4)) == wanted[2][4:]
    assert listed(resumed.batches(3)) == wanted[3]
    resumed.set_epoch(2)
    assert listed(accelerate.skip_first_batches(resumed, 4)) == wanted[2][4:]  # as Trainer does
    assert listed(resumed.batches(2, start=9)) == []


def test_passing_over_batches_loads_nothing():
    calls = []
    images = TrainImages(dataset(), lambda image, seed: calls.append(seed) or torch.zeros(3, 1, 1, dtype=torch.uint8))
    assert len(list(training_loader(images, 5).batches(0, start=7))) == 2
    assert len(calls) == 10


@pytest.mark.parametrize("num_workers", [0, 1])
def test_torch_s_own_random_numbers_are_left_alone(images, num_workers):
    before = torch.get_rng_state()
    list(training_loader(images, 8, num_workers))
    assert torch.equal(before, torch.get_rng_state())


def test_a_part_of_the_images(images):
    draws = [draw.index for batch in training_loader(images, 5, num_images=20).batch_sampler for draw in batch]
    assert sorted(draws) == list(range(20))


def test_too_few_images(images):
    with pytest.raises(DataError, match="48 images do not fill one batch of 30 on each of 2 processes"):
        training_loader(images, 30, num_processes=2)


def test_streams():
    def stream(**settings):
        data = dataset().to_iterable_dataset(num_shards=4)
        return StreamedImages(
            data, TrainView(6), **{"batch_size": 5, "seed": 0, "buffer_size": 9, "num_images": 48, **settings}
        )

    loader = training_loader(stream(), 5, 2)
    assert len(loader) == 9
    assert loader.streams
    assert len(list(loader)) == 9
    loader.set_epoch(6)
    assert loader.dataset.epoch == 6
    with pytest.raises(DataError, match="got batch_size=4 for 5, seed=2 for 0"):
        training_loader(stream(), 4, seed=2)
    with pytest.raises(DataError, match="num_images=20 for 48"):
        training_loader(stream(), 5, num_images=20)
    with pytest.raises(DataError, match="`persistent_workers`"):
        training_loader(stream(), 5, num_workers=2, persistent_workers=True)
    assert training_loader(stream(), 5, num_workers=0, persistent_workers=True).num_workers == 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unreadable_images_are_named_and_too_many_end_the_run(num_workers, caplog):
    images = TrainImages(dataset(broken=(3, 11)), TrainView(6), max_unreadable=2)
    unreadable = Unreadable(2)
    loader = training_loader(images, 8, num_workers)
    for epoch in range(2):  # met again, counted once
        for batch in loader.batches(epoch):
            assert batch["pixel_values"].shape == (8, 3, 6, 6)
            unreadable.note(batch["unreadable"])
    assert sorted(name.partition(" (")[0] for name in unreadable.names) == ["11.png", "3.png"]
    names = [name for batch in loader.batches(0) for name in batch["unreadable"]]
    with pytest.raises(DataError, match=r"2 images cannot be read, but at most 1 may be left out: .*\.png .*\.png"):
        Unreadable(1).note(names)
    with pytest.raises(DataError, match="1 images cannot be read, but at most 0"):
        Unreadable().note(["x.png (truncated)"])


def test_the_log_names_what_is_left_out(monkeypatch):
    from sima_hf.data import loading

    said = []
    monkeypatch.setattr(loading.logger, "warning", said.append)
    unreadable = Unreadable(30)
    for _ in range(2):
        unreadable.note(["a.png (truncated)", "b.png (empty)"])
    assert said == [
        "Left out: a.png (truncated) cannot be read (1 of at most 30).",
        "Left out: b.png (empty) cannot be read (2 of at most 30).",
    ]
    with pytest.raises(DataError, match=r"44 images .*: a.png \(truncated\), .*, 7 and 34 more\. Mend"):
        unreadable.note(map(str, range(42)))


class Range(torch.utils.data.Dataset):
    def __len__(self):
        return 10


def served(pipe, begin):
    begin(0)
    pipe.send("ready")
    while True:
        time.sleep(0.01)


@pytest.fixture
def worker():
    """A process that has begun as the loader's workers do, and the flag of its parent."""
    begin = training_loader(Range(), 2, num_workers=2).worker_init_fn
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    process = fork.Process(target=served, args=(there, begin), daemon=True)
    process.start()
    assert here.recv() == "ready"
    yield process
    process.kill()
    process.join()


def test_workers_leave_ctrl_c_to_the_main_process_and_outlive_the_first_sigterm(worker):
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
        worker.join(0.2)
        assert worker.is_alive()
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(5)
    assert worker.exitcode == 0  # which DataLoader does not take for a crash


def test_workers_obey_a_main_process_that_is_at_its_end(worker):
    leaving_flag().value = 1
    try:
        os.kill(worker.pid, signal.SIGTERM)
        worker.join(5)
    finally:
        leaving_flag().value = 0
    assert worker.exitcode == 0


def leaves_in_the_middle(images):
    torch.utils.data.kept = iterator = iter(training_loader(images, 2, num_workers=2))  # not collected before the end
    next(iterator)


def test_a_run_that_ends_in_the_middle_ends_at_once(images):
    run = multiprocessing.get_context("fork").Process(target=leaves_in_the_middle, args=(images,))
    begun = time.monotonic()
    run.start()
    run.join(20)
    assert run.exitcode == 0
    assert time.monotonic() - begun < GRACE_SECONDS / 2


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", TrainingError),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", TrainingError),
        ("Caught IndexError in DataLoader worker process 0.", RuntimeError),
    ],
)
def test_only_a_lost_worker_is_called_one(text, kind):
    """What a worker raises is a fault of its own, whose traceback is wanted."""
    with pytest.raises(RuntimeError) as caught, lost_workers_as_errors(lambda: "Go on."):
        raise RuntimeError(text)
    assert type(caught.value) is kind


def break_off(report_after: float = 0.0):
    """As what a worker was handing over does when it dies."""
    signal.setitimer(signal.ITIMER_REAL, report_after)
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    ours.recv()


def test_a_report_in_the_middle_of_the_handling_is_the_one_that_counts():
    """A worker's pipe breaks before DataLoader hears of its death, from a signal that interrupts any line."""

    def report(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    before = signal.signal(signal.SIGALRM, report)
    try:
        with pytest.raises(TrainingError) as caught, lost_workers_as_errors(lambda: "Go on."):
            break_off(report_after=0.05)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert "died (DataLoader worker (pid 7) is killed by signal: Killed.);" in str(caught.value)


def test_a_report_as_soon_as_the_break_is_looked_at(monkeypatch):
    def interrupted(error):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr("sima_hf.data.loading._broke_off", interrupted)
    with pytest.raises(TrainingError) as caught, lost_workers_as_errors(lambda: "Go on."):
        break_off()
    assert "died (DataLoader worker (pid 7) is killed by signal: Killed.);" in str(caught.value)


def test_a_break_without_a_report_is_a_lost_worker_too(monkeypatch):
    monkeypatch.setattr("sima_hf.data.loading.SECONDS_TO_REPORT", 0.01)
    with pytest.raises(TrainingError) as caught, lost_workers_as_errors(lambda: "Go on."):
        break_off()
    assert "A process that loads images died (EOFError);" in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EMFILE, "Too many open files"), RuntimeError("received 0 items of ancdata")],
    ids=["files", "descriptors"],
)
def test_running_out_of_descriptors_is_no_lost_worker(error, monkeypatch):
    """As the limit of open files shows itself while a batch is handed over: the workers live, and memory is not short."""

    def fail(*_):
        raise error

    monkeypatch.setattr("multiprocessing.connection.Connection._recv", fail)
    ours, _theirs = multiprocessing.Pipe()
    with pytest.raises(type(error)) as caught, lost_workers_as_errors(lambda: "Go on."):
        ours.recv()
    assert caught.value is error


def test_another_failure_in_the_middle_of_the_handling_comes_through(monkeypatch):
    def fail(seconds):
        raise RuntimeError("something else")

    monkeypatch.setattr("sima_hf.data.loading.time.sleep", fail)
    with pytest.raises(RuntimeError, match=r"^something else$"), lost_workers_as_errors(lambda: "Go on."):
        break_off()
