"""A collection's embeddings from the options to the folder: against a plain forward, killed, shared, of every source, bad input."""

import json
import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from datasets import load_dataset
from PIL import Image

from sima_hf.embedding import EmbeddingOptions, embed_images
from sima_hf.errors import CheckpointError, DataError
from sima_hf.loading.processors import load_processor
from sima_hf.loading.saved_class import load_saved_class
from tests.helpers.joined_processes import run_joined


def embed(images, folder, model, **options):
    """In files of 16 images, batches of 6."""
    options = {"images_per_file": 16, "batch_size": 6, "progress": False, **options}
    return embed_images(EmbeddingOptions(str(images), folder, str(model), **options))


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


@pytest.fixture(scope="module")
def uninterrupted(images, sima_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features") / "whole"
    return folder, embed(images / "folder" / "train", folder, sima_folder)


def test_embeddings_are_those_of_a_plain_forward(uninterrupted, images, sima_folder, tmp_path):
    folder, record = uninterrupted
    data = load_dataset(str(folder), split="train", cache_dir=str(tmp_path)).with_format("numpy")
    files = sorted((images / "folder" / "train").glob("*/*.png"))
    assert [str(path) for path in data["path"][:]] == [f"{file.parent.name}/{file.name}" for file in files]
    assert [data.features["label"].names[label] for label in data["label"][:]] == [file.parent.name for file in files]
    assert data["index"][:].tolist() == list(range(50))
    processor, model = load_processor(str(sima_folder)), load_saved_class(str(sima_folder)).double()
    pixels = processor([Image.open(file).convert("RGB") for file in files], return_tensors="pt").pixel_values
    with torch.no_grad():
        wanted = model.sima(pixels.double()).pooler_output.numpy()
    assert np.abs(data["embedding"][:] - wanted).max() < 1e-4 < np.abs(wanted).max()
    assert json.loads((folder / "embedding.json").read_text()) == json.loads(json.dumps(record))
    settings = record["settings"]
    assert record["complete"]
    assert (record["num_images"], record["size"], record["files"]) == (50, 24, 4)
    assert (settings["pooling"], settings["encoder"], settings["data"]) == ("cls", "SimAModel", "folder, train")
    assert len(settings["weights_sha256"]) == 64
    assert settings["processor"]["crop_size"] == {"height": 24, "width": 24}
    (session,) = record["sessions"]
    assert record["images_per_second"] == session["images"] / session["seconds"] > 0
    assert session["versions"]["torch"] == torch.__version__


def _killed(images, folder, model, after):
    """A process that is killed while it puts the file after `after` others in its place."""
    torch.set_num_threads(1)
    replace, calls = os.replace, []

    def kill(source, target):
        if str(target).endswith(".parquet"):
            calls.append(target)
            if len(calls) > after:
                os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = kill
    embed(images, folder, model)


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 2])
def test_a_killed_run_goes_on_to_the_same_bytes(after, uninterrupted, images, sima_folder, tmp_path):
    folder = tmp_path / "killed"
    process = multiprocessing.get_context("fork").Process(
        target=_killed, args=(images / "folder" / "train", folder, sima_folder, after)
    )
    process.start()
    process.join(100)
    assert process.exitcode == -signal.SIGKILL
    assert len(contents(folder)) == after
    assert len(list(folder.glob(".part-*"))) == 1
    assert json.loads((folder / "embedding.json").read_text())["complete"] is False
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("part-*.parquet")}
    record = embed(images / "folder" / "train", folder, sima_folder, num_workers=2)
    assert contents(folder) == contents(uninterrupted[0])
    assert record["sessions"][0]["images"] == 50 - 16 * after
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert not list(folder.glob(".part-*"))
    again = embed(images / "folder" / "train", folder, sima_folder)
    assert again == json.loads(json.dumps(record))  # nothing left to do


def _in_processes(images, folder, model, options):
    return embed(images, folder, model, **options)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_files_and_write_the_same_bytes(processes, uninterrupted, images, sima_folder, tmp_path):
    for name, source, options in (
        ("folder", images / "folder" / "train", {}),
        ("stream", images / "int" / "train-*.parquet", {"streaming": True}),
    ):
        arguments = (source, tmp_path / name, sima_folder, options)
        codes, (record, *others) = run_joined(_in_processes, *arguments, processes=processes, folder=tmp_path / "told")
        assert codes == [0] * processes
        assert others == [None] * (processes - 1)
        assert (record["sessions"][0]["processes"], record["num_images"]) == (processes, 50)
        alone = uninterrupted[0]
        if options:
            alone = tmp_path / "alone"
            embed(source, alone, sima_folder, **options)
        assert contents(tmp_path / name) == contents(alone)


@pytest.mark.slow
def test_where_one_process_fails_the_others_keep_theirs_and_all_say_so(images, sima_folder, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(images / "folder" / "train", folder)
    sorted(folder.glob("*/*.png"))[3].write_bytes(b"broken")  # in the first file, that of the first process
    arguments = (folder, tmp_path / "out", sima_folder, {"max_unreadable": 0})
    codes, told = run_joined(_in_processes, *arguments, processes=2, folder=tmp_path / "told")
    assert codes == [1, 1]
    assert "1 images cannot be read, but at most 0" in told[0]
    assert told[1].startswith("DataError: Process 0 failed: 1 images cannot be read")
    assert set(contents(tmp_path / "out")) == {"part-00001.parquet", "part-00003.parquet"}
    record = embed(folder, tmp_path / "out", sima_folder, max_unreadable=1)
    assert (record["num_images"], len(record["unreadable"])) == (49, 1)
    assert record["unreadable"] == ["eight/40.png (cannot identify image file)"]


@pytest.mark.slow
def test_shards_and_streams_hold_the_same_embeddings(uninterrupted, images, sima_folder, tmp_path):
    def by_vector(folder):
        data = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "c")).with_format("numpy")
        return sorted(np.round(data["embedding"][:], 4).tolist())

    wanted = by_vector(uninterrupted[0])
    for name, source, options in (
        ("parquet", images / "named" / "train-*.parquet", {}),
        ("tar", images / "json-text" / "train-*.tar", {"streaming": True}),
        ("set", images / "named", {"streaming": True, "num_workers": 2}),
    ):
        record = embed(source, tmp_path / name, sima_folder, **options)
        assert record["num_images"] == 50
        assert np.allclose(by_vector(tmp_path / name), wanted, atol=2e-4)
    assert record["settings"]["shards"] == 3


def test_unreadable_images_are_left_out_by_name(images, sima_folder, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(images / "folder" / "train" / "one", folder)
    files = sorted(folder.glob("*.png"))
    files[1].write_bytes(files[1].read_bytes()[:50])
    record = embed(folder, tmp_path / "out", sima_folder)
    assert record["num_images"] == len(files) - 1
    assert record["unreadable"][0].startswith(files[1].name)
    data = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "c"))
    assert data["path"][:] == [file.name for file in files if file != files[1]]
    assert data["index"][:] == [number for number in range(len(files)) if number != 1]
    assert data.column_names == ["index", "path", "embedding"]
    with pytest.raises(DataError, match=f"{files[1].name}.*allow more"):
        embed(folder, tmp_path / "strict", sima_folder, max_unreadable=0)
    for file in files:
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match="holds no image that can be read"):
        embed(folder, tmp_path / "none", sima_folder)


def test_bad_input_is_explained(uninterrupted, images, sima_folder, tmp_path):
    folder, train = uninterrupted[0], images / "folder" / "train"
    before = contents(folder)
    for source, output, options, error, words in (
        (train, folder, {"pooling": "mean"}, DataError, "pooling is 'cls' there and 'mean' here"),
        (train, folder, {"batch_size": 7}, DataError, "batch_size is 6 there and 7 here"),
        (images / "folder" / "val", folder, {}, DataError, "images is 50 there and 10 here"),
        (train, train / "out", {}, DataError, "must be outside the folder of images"),
        (train, tmp_path / "new", {"images_per_file": 0}, ValueError, "`images_per_file` must be positive, got 0"),
        (train, tmp_path / "new", {"device": "cudo"}, ValueError, "cudo"),
        (train, tmp_path / "new", {"pooling": "projection"}, ValueError, "allows the pooling pooler or cls or mean"),
        (tmp_path / "nowhere", tmp_path / "new", {}, DataError, "There is no folder"),
    ):
        with pytest.raises(error, match=words):
            embed(source, output, sima_folder, **options)
    with pytest.raises(CheckpointError, match="There is no folder"):
        embed(train, tmp_path / "new", tmp_path / "no-model")
    assert not (tmp_path / "new").exists()
    assert contents(folder) == before
    record = embed(train, folder, sima_folder, pooling="mean", overwrite=True)
    assert record["settings"]["pooling"] == "mean"
    assert contents(folder).keys() == before.keys()
    embed(train, folder, sima_folder, overwrite=True)
    assert contents(folder) == before


def test_numbers_that_are_none_are_refused(images, sima_folder, tmp_path):
    model = load_saved_class(str(sima_folder))
    with torch.no_grad():
        model.sima.layernorm.weight[0] = torch.inf
    model.save_pretrained(tmp_path / "model")
    load_processor(str(sima_folder)).save_pretrained(tmp_path / "model")
    with pytest.raises(
        DataError, match=r"must be finite numbers, got others for 6 of 6 images, the first of them .*18\.png"
    ):
        embed(images / "folder" / "train", tmp_path / "out", tmp_path / "model")
